"""What the quality judge can be told, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.serving.judge_settings import JudgeSettings


class JudgeQualitySettings(JudgeSettings, BaseSettings):
    """Environment of the quality judge; every variable starts with JUDGE_QUALITY_."""

    model_config = SettingsConfigDict(env_prefix="JUDGE_QUALITY_", frozen=True, hide_input_in_errors=True)

    port: int = Field(8001, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    weights: Path | Literal["mini"] = Field("mini", description="Quality network: 'mini', or its folder.")
