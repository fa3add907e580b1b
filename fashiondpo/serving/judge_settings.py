"""What every judge service can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from fashiondpo.model_cache.places import DEFAULT_CACHE, ModelPlaces
from fashiondpo.run_settings import MINI_ASSETS
from fashiondpo.serving.settings import ServingSettings


class JudgeSettings(ServingSettings):
    """Settings that the judges share; like `ServingSettings`, a mixin that reads no environment."""

    assets: Path = Field(MINI_ASSETS, description="Folder of the mini models: what 'mini' stands for.")
    model_cache: Path = Field(
        DEFAULT_CACHE, description="Folder of fetched models: where profiles and owner/name@revision lie."
    )
    device: str = Field("cpu", description="Where the model computes, e.g. cpu, cuda, cuda:1.")
    threads: int | None = Field(None, ge=1, description="CPU threads of the model; none: the library's own choice.")
    artifacts_url: str | None = Field(
        None, description="Artifact store that the generator writes to: a folder or an fsspec URL such as s3://bucket; "
        "none: pictures have to be sent along."
    )  # fmt: skip
    max_batch: int = Field(128, ge=1, description="Candidates that go through the model together.")
    max_wait_ms: float = Field(5.0, ge=0, description="Longest wait for candidates of other requests to join a batch.")
    max_queued: int = Field(4096, ge=1, description="Candidates that may wait; beyond it the answer is 429.")
    read_threads: int = Field(2, ge=1, le=64, description="Threads that fetch and decode pictures.")

    @field_validator("artifacts_url", "threads", mode="before")
    @classmethod
    def _unset_is_none(cls, value: object) -> object:
        return None if value == "" else value

    def mini(self, place: Path | Literal["mini"], within: str) -> Path:
        """The folder itself, or where the mini family has its own."""
        return self.assets / within if place == "mini" else Path(place)

    @property
    def models(self) -> ModelPlaces:
        """Where models lie that go by a name."""
        return ModelPlaces(self.model_cache, self.assets)


class CatalogueJudgeSettings(JudgeSettings):
    """Settings of the judges that compare with a catalogue's items by CLIP features."""

    data_set: Path | Literal["mini"] = Field("mini", description="Data set with the catalogue: 'mini', or a folder.")
    clip: str = Field(
        "mini",
        description="CLIP model: 'mini', a profile, owner/name@revision, a folder, or open_clip:ViT-B-32/TAG or …/FILE.",
    )
    clip_pretrained: str | None = Field(None, description="Tag of a published CLIP model's weights.")
    features_cache: Path | None = Field(
        None, description="Folder that keeps the catalogue's features for the next start; none: computed at each start."
    )
    embeddings: str | None = Field(
        None, description="The catalogue's features that `fashiondpo embed` made, mapped into memory: their folder, or a "
        "profile; none: computed at start."
    )  # fmt: skip

    @field_validator("clip_pretrained", "features_cache", "embeddings", mode="before")
    @classmethod
    def _empty_means_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def embeddings_folder(self) -> Path | None:
        """Where the catalogue's features lie; raises NotFound for those of a profile that nobody has made."""
        return None if self.embeddings is None else self.models.embeddings(self.embeddings)
