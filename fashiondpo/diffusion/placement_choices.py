"""What can be chosen of where and how a generator computes. No torch, so that settings can name it."""

from __future__ import annotations

from typing import Literal

DEVICES = r"^(auto|cpu|cuda(:\d+)?)$"
"""Devices that may be asked for, as a pattern."""

NumberType = Literal["auto", "float32", "float16", "bfloat16"]
Switch = Literal["auto", "on", "off"]
Offload = Literal["none", "text_encoder", "encoders"]
Compilation = Literal["off", "if_possible", "required"]
