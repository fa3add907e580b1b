"""What every service can be told. A mixin: nothing here reads the environment, `services/*/settings.py` do."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from limits import parse_many
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from fashiondpo.serving.keys import KeyRing


class ServingSettings(BaseModel):
    """Settings that all services share.

        class JudgeCompatSettings(ServingSettings, BaseSettings):
            model_config = SettingsConfigDict(env_prefix="JUDGE_COMPAT_", frozen=True, hide_input_in_errors=True)
            port: int = Field(8002, ge=0, le=65535)

    `hide_input_in_errors` keeps a mistyped key out of the log.
    """

    host: str = Field("127.0.0.1", description="Address to listen on; anything but loopback needs keys.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one; the log line `listening` tells which.")
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Keys as name:scopes:key, separated by commas, blanks or lines, e.g. 'shop:generate:…'. "
        "Scopes: read, generate, train, admin, joined by +. The key itself, or sha256-<its SHA-256>.",
    )
    api_keys_file: Path | None = Field(None, description="A file with such keys, in addition; for mounted secrets.")
    rate_limit: str | None = Field(
        None, description="Requests per key, e.g. '100/minute' or '20/second;1000/hour'; none: no limit."
    )
    rate_limit_url: SecretStr = Field(
        SecretStr("memory://"), description="Where requests are counted; redis://… counts over all replicas."
    )
    max_body_mb: float = Field(64.0, gt=0, description="Largest request body in MiB.")
    max_requests: int = Field(256, ge=1, description="Requests in work at once; beyond it the answer is 429.")
    max_image_px: int = Field(16_000_000, ge=1, description="Pixels of a picture that is sent in.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_form: Literal["text", "json"] = "json"
    otel_endpoint: str | None = Field(
        None, description="OTLP/HTTP collector for traces, e.g. http://collector:4318; none: no traces."
    )
    shutdown_timeout_s: float = Field(
        30.0, gt=0, description="After SIGTERM, time for accepted requests to finish before they are cut off."
    )

    @field_validator("rate_limit", "otel_endpoint", "api_keys_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        """Compose files pass unset variables as empty strings."""
        return None if value == "" else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("rate_limit")
    @classmethod
    def _rates_can_be_read(cls, value: str | None) -> str | None:
        if value is not None:
            parse_many(value)
        return value

    @model_validator(mode="after")
    def _keys_can_be_read(self) -> Self:
        self.key_ring()
        return self

    def key_ring(self) -> KeyRing:
        """The keys of both settings.

        Raises:
            ValueError: if an entry is malformed, or the file cannot be read.
        """
        text = self.api_keys.get_secret_value()
        if self.api_keys_file is not None:
            try:
                text += "\n" + self.api_keys_file.read_text()
            except OSError as error:
                raise ValueError(f"api_keys_file {self.api_keys_file} cannot be read: {error.strerror}") from error
        return KeyRing.parse(text)

    @property
    def is_loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
