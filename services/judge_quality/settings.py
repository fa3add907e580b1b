"""What the quality judge can be told, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fashiondpo.judges.dialects import DialectName
from fashiondpo.judges.rubric import Levels
from fashiondpo.profiles.profile import QualityChoice
from fashiondpo.quality_backend import DEFAULT_MODEL, BackendName, QualityBackend
from fashiondpo.serving.judge_settings import JudgeSettings


class JudgeQualitySettings(JudgeSettings, BaseSettings):
    """Environment of the quality judge; every variable starts with JUDGE_QUALITY_."""

    model_config = SettingsConfigDict(env_prefix="JUDGE_QUALITY_", frozen=True, hide_input_in_errors=True)

    port: int = Field(8001, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    backend: BackendName | None = Field(
        None,
        description="mini: a small network. local: MiniCPM-V 4.6 in this process. remote: a vision-language model behind "
        "a server. Unless given, as the profile in JUDGE_QUALITY_WEIGHTS has it, else mini.",
    )
    weights: str = Field(
        "mini",
        description="mini: 'mini', or the network's folder. local: folder of the model, or owner/name@revision. Or a "
        "profile, which also says what is asked where, unless other settings do.",
    )
    levels: Levels = Field(10, description="Levels of quality that a vision-language model tells apart: 5 or 10.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="local: type of the weights; auto: bfloat16 on a GPU, float32 on a CPU."
    )
    vlm_batch: int = Field(8, ge=1, description="local: pictures in one forward.")
    vlm_url: str | None = Field(None, description="remote: address of the model server, e.g. http://vlm:8000.")
    vlm_model: str = Field(DEFAULT_MODEL, min_length=1, description="remote: the server's name of the model.")
    vlm_revision: str | None = Field(
        None, description="remote: revision of the model that the server has, for the judge's version."
    )
    vlm_dialect: DialectName = Field(
        "vllm",
        description="remote: how the server constrains answers: vllm, vllm-legacy, llama.cpp, ollama, transformers, none.",
    )
    vlm_api_key: SecretStr = Field(SecretStr(""), description="remote: key of the model server, if it wants one.")
    vlm_api_key_file: Path | None = Field(None, description="A file with that key; for mounted secrets.")
    vlm_concurrency: int = Field(8, ge=1, le=256, description="remote: questions on their way at once.")
    vlm_timeout_s: float = Field(60.0, gt=0, description="remote: for one answer.")
    vlm_tries: int = Field(3, ge=1, le=20, description="remote: for an answer that is none, and for a call that fails.")

    @field_validator("levels", mode="before")
    @classmethod
    def _levels_come_as_text(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("backend", "vlm_url", "vlm_revision", "vlm_api_key_file", mode="before")
    @classmethod
    def _empty_means_none(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _backend_has_what_it_needs(self) -> Self:
        if self.backend == "local" and self.weights == "mini":
            raise ValueError(
                "JUDGE_QUALITY_WEIGHTS must be the folder of a MiniCPM-V 4.6 when JUDGE_QUALITY_BACKEND=local"
            )
        if self.kind == "remote" and self._of_profile.url is None and self.vlm_url is None:
            raise ValueError("JUDGE_QUALITY_VLM_URL is required when JUDGE_QUALITY_BACKEND=remote")
        _ = self.key
        return self

    @property
    def weights_folder(self) -> Path:
        """Where the weights of the mini and of the local backend lie; raises NotFound for a model that was not fetched."""
        return self.models.quality(self.weights)

    @property
    def key(self) -> str | None:
        """Key of the model server.

        Raises:
            ValueError: if its file cannot be read.
        """
        if self.vlm_api_key_file is None:
            return self.vlm_api_key.get_secret_value() or None
        try:
            return self.vlm_api_key_file.read_text().strip()
        except OSError as error:
            raise ValueError(f"vlm_api_key_file {self.vlm_api_key_file} cannot be read: {error.strerror}") from error

    @property
    def kind(self) -> BackendName:
        """The backend that was chosen, by name or with a profile."""
        return self.backend or self.models.quality_choice(self.weights).backend

    @property
    def _of_profile(self) -> QualityChoice:
        """What the profile says, if there is one with this backend."""
        choice = self.models.quality_choice(self.weights)
        return choice if choice.backend == self.kind else QualityChoice()

    @property
    def chosen(self) -> QualityBackend:
        """What the judge is made of."""
        profile, is_given = self._of_profile, self.model_fields_set.__contains__
        return QualityBackend(
            backend=self.kind,
            folder=self.weights_folder if self.kind == "local" else None,
            url=self.vlm_url or profile.url,
            model=self.vlm_model if is_given("vlm_model") else profile.model or self.vlm_model,
            revision=self.vlm_revision,
            dialect=self.vlm_dialect if is_given("vlm_dialect") or profile.url is None else profile.dialect,
            levels=self.levels,
            dtype=self.dtype,
            batch=self.vlm_batch,
            concurrency=self.vlm_concurrency,
            timeout_s=self.vlm_timeout_s,
            tries=self.vlm_tries,
        )
