"""The adapter registry: immutable versions of LoRA weights, and the alias that says which one serves."""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import Protocol

import safetensors
from pydantic import ValidationError

from fashiondpo.contracts import AdapterManifest, AdapterRef, GateVerdict, content_digest
from fashiondpo.errors import Conflict, CorruptArtifact, DataFileError, InvalidAdapter, InvalidInput, NotFound
from fashiondpo.storage.aliases import Aliases, AliasMove, AliasName, utc_now
from fashiondpo.storage.records import (
    exclusive_folder,
    exclusive_thread,
    first_problem,
    json_to_record,
    record_to_json,
    replace_file,
    sync_folder,
)

TrainingFigures = Mapping[str, float | int | str | bool | None]


class AdapterRegistry(Protocol):
    """Adapter versions 1, 2, …; none ever changes. Version 0 is the base model: it always exists and has no weights."""

    def publish(
        self,
        weights: bytes,
        *,
        round_id: str,
        base_digest: str,
        parent: AdapterRef,
        rank: int,
        targets: Sequence[str],
        training: TrainingFigures,
        verdict: GateVerdict | None,
    ) -> AdapterManifest:
        """Keep the adapter of a round as the next version; a round that is published again keeps its version.

        Args:
            weights: a safetensors file.
            round_id: the round that trained it; each has at most one version.
            base_digest: the base model it was trained on.
            parent: the adapter from which training started.
            rank: of the LoRA matrices.
            targets: the modules they are for.
            training: figures and settings worth keeping.
            verdict: what the gate said; None if it was not asked.

        Raises:
            InvalidAdapter: if the weights are no safetensors file.
            InvalidInput: if another argument cannot be right.
            Conflict: if the round was published with other weights.
        """

    def manifest(self, version: int) -> AdapterManifest:
        """What is known of a version; raises NotFound."""

    def weights(self, version: int) -> bytes:
        """The version's safetensors file, checked against its digest; raises NotFound, CorruptArtifact."""

    def versions(self) -> tuple[int, ...]:
        """Every published version, ascending."""

    def alias(self, name: AliasName) -> int | None:
        """The version that serves ("champion") or served before ("previous"); None if there is none."""

    def activate(self, version: int, *, is_forced: bool = False) -> None:
        """Make a version the champion, and the champion so far the previous one; nothing happens if it is already.

        Before the first activation the base model serves, so it becomes the previous one then.

        Args:
            version: 0 for the base model.
            is_forced: although the gate did not promote it.

        Raises:
            NotFound: if there is no such version.
            Conflict: if the gate did not promote it.
        """

    def rollback(self) -> int:
        """Make the previous version the champion again, and return it; raises Conflict if there is none.

        There is none after a rollback: which version to trust then is for a person to say, by activating it.
        """

    def alias_history(self) -> tuple[AliasMove, ...]:
        """Every change of the champion, oldest first."""


class AdapterVersions(ABC):
    """The meaning of a registry, wherever it is; subclasses say how versions and aliases are kept.

    Their text names the place, for messages.
    """

    def publish(
        self,
        weights: bytes,
        *,
        round_id: str,
        base_digest: str,
        parent: AdapterRef,
        rank: int,
        targets: Sequence[str],
        training: TrainingFigures,
        verdict: GateVerdict | None,
    ) -> AdapterManifest:
        """Keep the adapter of a round as the next version."""
        check_safetensors(weights)
        digest, created_at = content_digest(weights), utc_now()

        def manifest_of(version: int) -> AdapterManifest:
            try:
                return AdapterManifest(
                    version=version,
                    digest=digest,
                    parent=parent,
                    base_digest=base_digest,
                    round_id=round_id,
                    rank=rank,
                    targets=tuple(targets),
                    created_at=created_at,
                    training=dict(training),
                    verdict=verdict,
                )
            except ValidationError as error:
                raise InvalidInput(f"the adapter of round {round_id!r}: {first_problem(error)}") from error

        return _same_weights(self._add_version(round_id, weights, manifest_of), digest)

    def manifest(self, version: int) -> AdapterManifest:
        """What is known of a version."""
        content, source = self._manifest(version), f"{self}/{_manifest_name(version)}"
        if content is None:
            if version in (published := self.versions()):
                raise DataFileError(source, "is missing; restore it, or move its folder elsewhere")
            there = ", ".join(map(str, published)) or "none"
            raise NotFound(f"there is no adapter version {version}; published: {there}")
        manifest = json_to_record(content, AdapterManifest, source)
        if manifest.version != version:
            raise DataFileError(source, f"is the manifest of version {manifest.version}; give its folder its name back")
        return manifest

    def weights(self, version: int) -> bytes:
        """The version's safetensors file, checked."""
        if version == 0:
            raise NotFound("adapter version 0 is the base model and has no weights")
        manifest = self.manifest(version)
        weights = self._weights(manifest)
        if weights is None:
            raise CorruptArtifact(f"the weights of adapter version {version} are gone; activate another version")
        if content_digest(weights) != manifest.digest:
            raise CorruptArtifact(
                f"the weights of adapter version {version} are damaged: their {len(weights)} bytes have another digest"
            )
        return weights

    @abstractmethod
    def versions(self) -> tuple[int, ...]:
        """Every published version, ascending."""

    def alias(self, name: AliasName) -> int | None:
        """The version that serves, or served before."""
        if name not in ("champion", "previous"):
            raise InvalidInput(f"the aliases are 'champion' and 'previous', got {name!r}")
        aliases = self._aliases()
        return aliases.champion if name == "champion" else aliases.previous

    def activate(self, version: int, *, is_forced: bool = False) -> None:
        """Make a version the champion."""
        if version != 0:
            _check_may_serve(self.manifest(version), is_forced=is_forced)
        self._change_aliases(lambda aliases: aliases.activated(version, is_forced=is_forced))

    def rollback(self) -> int:
        """Make the previous version the champion again."""
        return self._change_aliases(Aliases.rolled_back).history[-1].version

    def alias_history(self) -> tuple[AliasMove, ...]:
        """Every change of the champion, oldest first."""
        return self._aliases().history

    @abstractmethod
    def _add_version(
        self, round_id: str, weights: bytes, manifest_of: Callable[[int], AdapterManifest]
    ) -> AdapterManifest:
        """The manifest of the round's version, which is made now if there is none: the next one, there all at once."""

    @abstractmethod
    def _manifest(self, version: int) -> bytes | None: ...

    @abstractmethod
    def _weights(self, manifest: AdapterManifest) -> bytes | None: ...

    @abstractmethod
    def _aliases(self) -> Aliases: ...

    @abstractmethod
    def _change_aliases(self, change: Callable[[Aliases], Aliases]) -> Aliases:
        """Replace the aliases by what `change` makes of them, so that nobody else's change is lost; return them."""


_ALIASES = "aliases.json"


def _manifest_name(version: int) -> str:
    return f"versions/{version:06d}/manifest.json"


def _weights_name(version: int) -> str:
    return f"versions/{version:06d}/adapter.safetensors"


class _LockedAdapters(AdapterVersions):
    """A registry of named contents that can be had for oneself for a moment."""

    def versions(self) -> tuple[int, ...]:
        return tuple(sorted(int(name) for name in self._version_names() if re.fullmatch(r"[0-9]{6,}", name)))

    def _add_version(
        self, round_id: str, weights: bytes, manifest_of: Callable[[int], AdapterManifest]
    ) -> AdapterManifest:
        with self._exclusive():
            versions = self.versions()
            published = next((m for m in map(self.manifest, versions) if m.round_id == round_id), None)
            if published is not None:
                return published
            manifest = manifest_of(max(versions, default=0) + 1)
            self._store(manifest.version, weights, record_to_json(manifest))
            return manifest

    def _manifest(self, version: int) -> bytes | None:
        return self._read(_manifest_name(version))

    def _weights(self, manifest: AdapterManifest) -> bytes | None:
        return self._read(_weights_name(manifest.version))

    def _aliases(self) -> Aliases:
        content = self._read(_ALIASES)
        return Aliases() if content is None else json_to_record(content, Aliases, f"{self}/{_ALIASES}")

    def _change_aliases(self, change: Callable[[Aliases], Aliases]) -> Aliases:
        with self._exclusive():
            aliases = change(self._aliases())
            self._replace(_ALIASES, record_to_json(aliases))
            return aliases

    @abstractmethod
    def _exclusive(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _version_names(self) -> list[str]: ...

    @abstractmethod
    def _read(self, name: str) -> bytes | None: ...

    @abstractmethod
    def _store(self, version: int, weights: bytes, manifest: bytes) -> None:
        """Make all parts of a new version appear at once."""

    @abstractmethod
    def _replace(self, name: str, content: bytes) -> None: ...


class MemoryAdapters(_LockedAdapters):
    """Adapters of this process; gone with it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._contents: dict[str, bytes] = {}

    def __str__(self) -> str:
        return "memory"

    def _exclusive(self) -> AbstractContextManager[None]:
        return exclusive_thread(self._lock)

    def _version_names(self) -> list[str]:
        return [name.split("/")[1] for name in list(self._contents) if name.endswith("/manifest.json")]

    def _read(self, name: str) -> bytes | None:
        return self._contents.get(name)

    def _store(self, version: int, weights: bytes, manifest: bytes) -> None:
        # The manifest comes last: it is what makes the version visible.
        self._contents[_weights_name(version)] = bytes(weights)
        self._contents[_manifest_name(version)] = manifest

    def _replace(self, name: str, content: bytes) -> None:
        self._contents[name] = content


class FolderAdapters(_LockedAdapters):
    """Adapters in a folder, which other processes may use at the same time.

    `versions/000001/{adapter.safetensors,manifest.json}` per version, built beside and renamed, so that a crash leaves
    nothing half-made to be seen; `aliases.json`. Takes the folder's path; the folder is made when first written to.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    def __str__(self) -> str:
        return str(self._path)

    def _exclusive(self) -> AbstractContextManager[None]:
        return exclusive_folder(self._path)

    def _version_names(self) -> list[str]:
        folder = self._path / "versions"
        return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def _store(self, version: int, weights: bytes, manifest: bytes) -> None:
        incoming, target = self._path / ".incoming", (self._path / _manifest_name(version)).parent
        # Only the holder of the lock builds here, so whatever is there was left by one that crashed.
        shutil.rmtree(incoming, ignore_errors=True)
        replace_file(incoming / "adapter.safetensors", weights)
        replace_file(incoming / "manifest.json", manifest)
        target.parent.mkdir(exist_ok=True)
        # Fails if the version exists, so that not even a writer without the lock is overwritten.
        incoming.rename(target)
        sync_folder(target.parent)

    def _replace(self, name: str, content: bytes) -> None:
        replace_file(self._path / name, content)


def check_safetensors(weights: bytes) -> None:
    """Refuse what is not exactly a safetensors file: a pickle, for one, could run code where it is loaded.

    Raises:
        InvalidAdapter: if header, tensors and length do not agree.
    """
    try:
        safetensors.deserialize(weights)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise InvalidAdapter(f"the {len(weights)} bytes are no safetensors file: {error}") from error


def _same_weights(published: AdapterManifest, digest: str) -> AdapterManifest:
    if published.digest != digest:
        raise Conflict(
            f"round {published.round_id!r} was published as version {published.version} with other weights; "
            "train them in a new round"
        )
    return published


def _check_may_serve(manifest: AdapterManifest, *, is_forced: bool) -> None:
    verdict = manifest.verdict
    if is_forced or (verdict is not None and verdict.is_promoted):
        return
    gate = f"the gate rejected it ({'; '.join(verdict.reasons)})" if verdict else "the gate was not asked"
    raise Conflict(f"adapter version {manifest.version} may not serve: {gate}; force it to serve nevertheless")
