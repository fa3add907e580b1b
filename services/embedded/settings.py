"""What the embedded services can be told, on the command line or with variables that start with EMBEDDED_."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from fashiondpo.model_cache.places import DEFAULT_CACHE, ModelPlaces, is_name
from fashiondpo.run_settings import MINI_ASSETS
from fashiondpo.serving.settings import ServingSettings


class EmbeddedSettings(BaseSettings):
    """Settings of `python -m services.embedded`; variables start with EMBEDDED_, and options are the stronger."""

    model_config = SettingsConfigDict(
        env_prefix="EMBEDDED_",
        frozen=True,
        cli_parse_args=False,
        cli_kebab_case=True,
        cli_prog_name="python -m services.embedded",
    )

    run: Path = Field(Path("runs/up"), description="Folder of the run: data, artifacts, logs.")
    host: str = Field("127.0.0.1", description="Address to listen on; anything but loopback needs API keys.")
    base_port: int = Field(
        8000, ge=0, le=65530, description="The generator's; judges and trainer follow. 0: free ones everywhere."
    )
    device: str = Field("cpu", description="Of all models: cpu, cuda, cuda:1, …")
    data_set: str = Field("mini", description="'mini', or the folder of a data set.")
    model_cache: Path = Field(
        DEFAULT_CACHE, description="Folder of fetched models: where profiles and owner/name@revision lie."
    )
    bundle: str = Field("mini", description="DiFashion bundle: 'mini', a profile, owner/name@revision, or a folder.")
    judges: str = Field("mini", description="'mini', a profile, or a folder with clip/, vbpr/ and quality/.")
    quality: str | None = Field(
        None,
        description="What judges quality: mini, local:FOLDER, or remote:URL with settings as a query; unless given, as the "
        "judges' profile has it, else mini.",
    )
    parent: int | None = Field(None, description="Stop when this process, which has started us, is no more.")
    start_timeout_s: float = Field(300.0, gt=0, description="Until all must be ready.")
    stop_timeout_s: float = Field(45.0, gt=0, description="For each to stop by itself before it is killed.")

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Self:
        """From a command line, and the environment where that says nothing; raises pydantic's ValidationError."""
        return CliApp.run(cls, cli_args=list(arguments))

    @property
    def folder(self) -> Path:
        """The run's folder, wherever a process is started."""
        return self.run.absolute()

    @property
    def is_loopback(self) -> bool:
        """Whether nobody can reach the services from another machine."""
        return ServingSettings(host=self.host).is_loopback

    @property
    def embeddings(self) -> Path | None:
        """Features of the data set's items beside the judges' models, if somebody has made them."""
        return ModelPlaces(self.model_cache, MINI_ASSETS).embeddings_if_made(self.judges)

    def of_judges(self, part: str) -> str:
        """Where a part of the judges' models lies: 'mini', a profile, or its folder."""
        return self.judges if is_name(self.judges, self.model_cache) else str(Path(self.judges) / part)


def inherited_environment() -> dict[str, str]:
    """The environment of this process; what it says of a service, such as its API keys, reaches that service."""
    return dict(os.environ)
