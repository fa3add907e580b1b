"""Profiles: which models belong together, where they come from and how they sample. A TOML file each, beside this module."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from fashiondpo.contracts import Frozen, SamplerSettings
from fashiondpo.errors import DataFileError, InvalidInput, NotFound

MINI = "mini"
"""The family that comes with the repository."""
OWN_PROFILES = "profiles"
"""Folder of the model cache with an operator's own profiles."""
_SHIPPED = Path(__file__).parent
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _stays_below(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"must be a folder below the model cache, got {value!r}")
    return value


CacheFolder = Annotated[str, AfterValidator(_stays_below)]
"""A place below the model cache, with slashes."""


class HubSource(Frozen):
    """Files of one repository of a model hub."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: str = Field(
        "main", pattern=r"^[\w./-]+$", description="A commit; anything else moves and has to be pinned."
    )
    files: tuple[str, ...] = Field((), description="Patterns; each must match a file. None: what loaders can read.")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def place(self) -> str:
        """As settings name it: owner/name@revision."""
        return f"{self.repo}@{self.revision}"

    @classmethod
    def of_place(cls, place: str) -> Self | None:
        """What owner/name@revision names; None if the text has another form.

        A folder of that form is written with ./ before it.
        """
        repo, at, revision = place.partition("@")
        try:
            return cls(repo=repo, revision=revision) if at else None
        except ValidationError:
            return None


class AdapterChoice(Frozen):
    """Published LoRA weights that belong to the base; given by the operator."""

    folder: CacheFolder
    rank: int = Field(4, ge=1)


class QualityChoice(Frozen):
    """The model that judges quality.

    mini: the network of the mini family. local: a vision-language model in the judge's process, from `source`. remote: one
    that the server at `url` serves under the name `model`; nothing is fetched for it.
    """

    backend: Literal["mini", "local", "remote"] = "mini"
    model: str | None = Field(None, description="Name of the model, as its server or its hub knows it.")
    source: HubSource | None = None
    url: str | None = Field(None, description="remote: address of the model server, unless one is told another.")
    dialect: str = Field("vllm", description="remote: how that server constrains answers.")

    @model_validator(mode="after")
    def _has_what_its_backend_needs(self) -> Self:
        if (self.model is None) != (self.backend == "mini"):
            raise ValueError(f"backend {self.backend!r} {'knows no' if self.model else 'needs a'} model")
        if (self.source is None) == (self.backend == "local"):
            raise ValueError(f"backend {self.backend!r} {'needs a' if self.backend == 'local' else 'has no'} source")
        if (self.url is None) == (self.backend == "remote"):
            raise ValueError(f"backend {self.backend!r} {'needs the' if self.backend == 'remote' else 'has no'} url")
        return self


class ClipChoice(Frozen):
    """The image features of two judges and of the gate."""

    name: str = Field(description="As open_clip knows it.")
    pretrained: str = Field(description="open_clip's tag of these weights.")
    source: HubSource


class JudgesChoice(Frozen):
    """What the judges are made of."""

    quality: QualityChoice
    clip: ClipChoice | None = None
    vbpr: CacheFolder | None = Field(None, description="Where the operator puts trained VBPR weights.")
    embeddings: CacheFolder | None = Field(
        None, description="Where the operator puts the features of the data set's items; judges do without, but slower."
    )


class Profile(Frozen):
    """Models that belong together, and how they sample.

    Attributes of a profile other than `mini` say what is fetched (base, CLIP), what the operator has to bring (weights,
    VBPR, embeddings), and what becomes the converted bundle's default sampler settings.
    """

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME.pattern}$")]
    description: str
    image_size: int = Field(ge=8, multiple_of=8, description="Side of the pictures in pixels.")
    architecture: Literal["mini", "stable-diffusion-2"]
    base: HubSource | None = Field(
        None, description="The Stable Diffusion that was fine-tuned; none: nothing to fetch."
    )
    weights: CacheFolder | None = Field(
        None, description="Where the operator puts published DiFashion weights; none: the base is one already."
    )
    is_legacy: bool = Field(False, description="Released weights: trained without history, mutual latents summed.")
    adapter: AdapterChoice | None = None
    sampler: SamplerSettings | None = Field(None, description="None: the bundle's own.")
    judges: JudgesChoice

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        if (self.name == MINI) != (self.base is None):
            raise ValueError(f"a base is what every profile but {MINI!r} has")
        own = (self.weights, self.adapter, self.judges.clip, self.judges.vbpr, self.judges.embeddings)
        if self.base is None and any(own):
            raise ValueError(f"{MINI!r} comes with the repository: it names no other parts")
        if self.base is not None and (self.judges.clip is None or self.judges.vbpr is None):
            raise ValueError("judges.clip and judges.vbpr are missing")
        if self.is_legacy and (s := self.sampler) and not (s.legacy_null_history and s.mutual_reduction == "sum"):
            raise ValueError("is_legacy needs sampler.legacy_null_history = true and sampler.mutual_reduction = 'sum'")
        return self

    @property
    def sources(self) -> tuple[HubSource, ...]:
        """Everything that is fetched from a hub."""
        found = (self.base, self.judges.clip and self.judges.clip.source, self.judges.quality.source)
        return tuple(source for source in found if source)


def read_profile(path: Path) -> Profile:
    """A profile's file; its name is the file's.

    Raises:
        DataFileError: if it cannot be read, or is none; says what is wrong where.
    """
    try:
        fields = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataFileError(path, f"cannot be read as TOML: {error}") from error
    try:
        return Profile.model_validate({**fields, "name": path.stem})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the profile"
        raise DataFileError(path, f"{place}: {problem['msg']}") from error


def profile_files(cache: Path) -> dict[str, Path]:
    """Files of all profiles by name: those that are shipped, and the operator's own in the model cache.

    Raises:
        InvalidInput: if an own profile has a shipped one's name.
    """
    shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}
    own = {path.stem: path for path in sorted((cache / OWN_PROFILES).glob("*.toml"))}
    if twice := sorted(shipped.keys() & own.keys()):
        raise InvalidInput(f"{own[twice[0]]} has the name of a shipped profile: give it another")
    return shipped | own


def find_profile(name: str, cache: Path) -> Profile:
    """The profile of that name.

    Raises:
        NotFound: if there is none; names those that there are.
        DataFileError: if its file is malformed.
    """
    files = profile_files(cache)
    if name not in files:
        raise NotFound(
            f"there is no profile {name!r}; there are {', '.join(files)}. Own ones belong in {cache / OWN_PROFILES}"
        )
    return read_profile(files[name])
