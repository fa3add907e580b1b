"""models.lock.json: which commit each revision meant when it was fetched, and the digest of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from fashiondpo.contracts import Digest, Frozen
from fashiondpo.storage.records import json_to_record, record_to_json, replace_file

LOCK_FILE = "models.lock.json"
LockedT = TypeVar("LockedT", "LockedSource", "LockedBundle")
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]


class LockedFile(Frozen):
    """Length and digest of a file's content."""

    size: int = Field(ge=0)
    sha256: Digest


class LockedSource(Frozen):
    """What a hub's revision is for this cache, whatever it becomes there."""

    commit: Commit
    licence: str | None = None
    files: dict[str, LockedFile] = Field({}, description="By path; none before the first fetch.")


class LockedBundle(Frozen):
    """A bundle that was converted here."""

    recipe: Digest = Field(description="Of what it was made from; another recipe makes it anew.")
    categories: Digest | None = Field(None, description="Of the categories that it names; none: it names none.")
    files: dict[str, LockedFile]


class ModelLock(Frozen):
    """The whole file."""

    schema_version: Literal[1] = 1
    sources: dict[str, LockedSource] = Field({}, description="By owner/name@revision.")
    bundles: dict[str, LockedBundle] = Field({}, description="By name of their folder.")

    def with_source(self, place: str, source: LockedSource) -> ModelLock:
        """With this source in place of what stood there."""
        return self.model_copy(update={"sources": self.sources | {place: source}})

    def with_bundle(self, name: str, bundle: LockedBundle) -> ModelLock:
        """With this bundle in place of what stood there."""
        return self.model_copy(update={"bundles": self.bundles | {name: bundle}})


def read_lock(cache: Path) -> ModelLock:
    """The lock of a model cache; an empty one where there is none.

    Raises:
        DataFileError: if the file is damaged or of another version.
    """
    path = cache / LOCK_FILE
    return json_to_record(path.read_bytes(), ModelLock, path) if path.exists() else ModelLock()


def write_lock(cache: Path, lock: ModelLock) -> None:
    """Replace the lock of a model cache; sorted, so that versions of it can be compared."""
    ordered = ModelLock(
        sources={place: _sorted(source) for place, source in sorted(lock.sources.items())},
        bundles={name: _sorted(bundle) for name, bundle in sorted(lock.bundles.items())},
    )
    replace_file(cache / LOCK_FILE, record_to_json(ordered) + b"\n")


def _sorted(locked: LockedT) -> LockedT:
    return locked.model_copy(update={"files": dict(sorted(locked.files.items()))})
