"""How the policy computes while it is trained: in which precision, and what of a forward is kept for the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from fashiondpo.training.config import Precision, TrainSettings

DTYPES: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Of matrix products and convolutions; in float32 nothing is cast."""


def prepare_policy(unet: UNet2DConditionModel, settings: TrainSettings) -> Callable[[], None]:
    """Have the UNet compute as the settings say; returns what undoes it.

    Its weights, and those of its adapters, stay as they are: autocast converts what a product takes, and what comes out
    of the UNet is turned into float32 by whoever asked.
    """
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    dtype = DTYPES.get(settings.precision)
    if dtype is not None:
        _autocast_forward(unet, dtype)

    def undo() -> None:
        if settings.gradient_checkpointing:
            unet.disable_gradient_checkpointing()
        vars(unet).pop("forward", None)

    return undo


def _autocast_forward(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    own, device_type = unet.forward, next(unet.parameters()).device.type

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype):
            return own(*args, **kwargs)

    unet.forward = forward
