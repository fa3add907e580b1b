"""What the personalization judge can be told, from the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.serving.judge_settings import CatalogueJudgeSettings


class JudgePersonalSettings(CatalogueJudgeSettings, BaseSettings):
    """Environment of the personalization judge; every variable starts with JUDGE_PERSONAL_."""

    model_config = SettingsConfigDict(env_prefix="JUDGE_PERSONAL_", frozen=True, hide_input_in_errors=True)

    port: int = Field(8003, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    history: Literal["all", "train", "valid", "test"] = Field(
        "all",
        description="Whose histories: of the users of one split, or of all; who is in several counts as in the last.",
    )
