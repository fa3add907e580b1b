"""What the compatibility judge can be told, from the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.serving.judge_settings import CatalogueJudgeSettings


class JudgeCompatSettings(CatalogueJudgeSettings, BaseSettings):
    """Environment of the compatibility judge; every variable starts with JUDGE_COMPAT_."""

    model_config = SettingsConfigDict(env_prefix="JUDGE_COMPAT_", frozen=True, hide_input_in_errors=True)

    port: int = Field(8002, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    vbpr: str = Field("mini", description="VBPR weights: 'mini', a profile, a folder, or a published file.")
