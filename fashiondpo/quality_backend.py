"""Which model judges quality: the mini network, a vision-language model in this process, or one behind a server.

mini                                                   the mini network; where it lies, the judges' folder says
local:FOLDER?levels=5                                  MiniCPM-V 4.6 in this process
remote:http://host:8000?dialect=vllm&model=NAME        any server of chats with pictures
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, urlencode

from pydantic import Field, ValidationError, field_validator, model_validator

from fashiondpo.clients.retries import Retries
from fashiondpo.clients.vlm import ModelServerClient
from fashiondpo.contracts import Frozen
from fashiondpo.errors import InvalidInput
from fashiondpo.judges.base import Judge
from fashiondpo.judges.dialects import DialectName
from fashiondpo.judges.remote_quality import RemoteQualityJudge
from fashiondpo.judges.rubric import Levels, quality_rubric
from fashiondpo.model_cache.places import ModelPlaces
from fashiondpo.storage.records import first_problem

BackendName = Literal["mini", "local", "remote"]
DEFAULT_MODEL = "openbmb/MiniCPM-Llama3-V-2_5"


class QualityBackend(Frozen):
    """What a quality judge is made of; what belongs to another backend than the chosen one has no effect."""

    backend: BackendName = "mini"
    folder: Path | None = Field(None, description="local: weights, tokenizer and processor.")
    url: str | None = Field(None, description="remote: address of the model server.")
    model: str = Field(DEFAULT_MODEL, min_length=1, description="remote: the server's name of the model.")
    revision: str | None = Field(None, description="remote: of the model, for the judge's version.")
    dialect: DialectName = Field("vllm", description="remote: how the server constrains answers.")
    levels: Levels = Field(10, description="local, remote: 5 or 10.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="local: type of the weights.")
    batch: int = Field(8, ge=1, description="local: pictures in one forward.")
    concurrency: int = Field(8, ge=1, le=256, description="remote: questions on their way at once.")
    timeout_s: float = Field(60.0, gt=0, description="remote: for one answer.")
    tries: int = Field(3, ge=1, le=20, description="remote: for an answer that is none, and for a call that fails.")

    @field_validator("levels", mode="before")
    @classmethod
    def _levels_may_be_text(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @model_validator(mode="after")
    def _backend_has_its_place(self) -> Self:
        if self.backend == "local" and self.folder is None:
            raise ValueError("the local backend needs a folder with the model")
        if self.backend == "remote" and not self.url:
            raise ValueError("the remote backend needs the address of a model server")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its form on a command line.

        Raises:
            InvalidInput: if it is none; with what is wrong.
        """
        head, _, query = text.partition("?")
        kind, _, place = head.partition(":")
        names = {"mini": None, "local": "folder", "remote": "url"}
        if kind not in names or (kind == "mini") != (not place) or (kind == "mini" and query):
            raise InvalidInput(
                f"{text!r} is no backend of the quality judge: give mini, local:FOLDER or remote:URL, "
                "with further settings like ?levels=5&dialect=vllm"
            )
        try:
            options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
            if taken := {"backend", "folder", "url"} & options.keys():
                raise ValueError(f"{', '.join(sorted(taken))} cannot be given twice")
            placed = {names[kind]: place} if names[kind] else {}
            return cls.model_validate({**options, **placed, "backend": kind})
        except ValidationError as error:
            raise InvalidInput(f"{text!r} is no backend of the quality judge: {first_problem(error)}") from error
        except ValueError as error:
            raise InvalidInput(f"{text!r} is no backend of the quality judge: {error}") from error

    @classmethod
    def of_judges(cls, judges: str, models: ModelPlaces) -> Self:
        """What judges quality where nobody chose: as the judges' profile has it, else the network of their folder.

        Args:
            judges: 'mini', a profile, or a folder.
            models: where profiles are.

        Raises:
            NotFound: if the profile's model computes here and was not fetched.
            InvalidInput: if the profile's choice cannot be.
        """
        choice = models.quality_choice(judges)
        folder = models.quality(judges) if choice.backend == "local" else None
        served = {"url": choice.url, "model": choice.model, "dialect": choice.dialect}
        given = {"backend": choice.backend, **({"folder": folder} if folder else {})}
        try:
            return cls.model_validate(given | (served if choice.backend == "remote" else {}))
        except ValidationError as error:
            raise InvalidInput(f"profile {judges} has an impossible quality judge: {first_problem(error)}") from error

    def text(self) -> str:
        """As `parse` reads it; a folder under a name that means the same from anywhere."""
        if self.backend == "mini":
            return "mini"
        place = str(self.folder.absolute()) if self.folder is not None and self.backend == "local" else self.url
        set_fields = self.model_fields_set - {"backend", "folder", "url"}
        options = {name: getattr(self, name) for name in sorted(set_fields) if getattr(self, name) is not None}
        query = f"?{urlencode(options)}" if options else ""
        return f"{self.backend}:{place}{query}"

    def server(self, key: str | None = None) -> ModelServerClient | None:
        """The client of the model server, which opens nothing yet; None for other backends.

        Raises:
            InvalidInput: if its address is none.
        """
        if self.backend != "remote" or self.url is None:
            return None
        return ModelServerClient(self.url, key, timeout_s=self.timeout_s, retries=Retries(attempts=self.tries))

    def judge(self, *, mini: Path, device: str = "cpu", server: ModelServerClient | None = None) -> Judge:
        """Load the judge.

        Args:
            mini: folder of the mini network.
            device: where a model of this process computes.
            server: what `server` gave.

        Raises:
            InvalidBundle: if a folder does not hold the model.
        """
        # each backend loads libraries that the others do without
        if self.backend == "local" and self.folder is not None:
            from fashiondpo.judges.minicpm import MiniCPMQualityJudge

            rubric = quality_rubric(self.levels)
            return MiniCPMQualityJudge.load(
                self.folder, rubric=rubric, batch=self.batch, device=device, dtype=self.dtype
            )
        if server is not None:
            return RemoteQualityJudge(
                server,
                model=self.model,
                rubric=quality_rubric(self.levels),
                dialect_name=self.dialect,
                revision=self.revision,
                concurrency=self.concurrency,
                tries=self.tries,
            )
        from fashiondpo.judges.quality import MiniQualityJudge

        return MiniQualityJudge.load(mini, device)
