"""Makes a folder of embeddings (`embeddings.CatalogueEmbeddings`): chunk by chunk, and after a kill from the last chunk on.

progress.json        what is being made and how many rows are done; replaced after each chunk, gone at the end
vectors.partial.npy  the rows; gets its name when all are there
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fashiondpo.errors import Conflict, DataFileError, InvalidInput, MissingImages
from fashiondpo.judges.embeddings import (
    MANIFEST,
    VECTORS,
    EmbeddingsManifest,
    VectorType,
    item_ids_digest,
    read_manifest,
)
from fashiondpo.judges.features import ImageFeatures
from fashiondpo.outfits.catalogue import FolderCatalogue
from fashiondpo.outfits.model import Catalogue, Image
from fashiondpo.telemetry import Progress, no_progress

PROGRESS, PARTIAL = "progress.json", "vectors.partial.npy"
CHUNK = 512
_READERS = 4
_LOCK = ".lock"


class _Making(BaseModel):
    """What is being made; two that differ are different work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature_id: str
    dim: int
    dtype: VectorType
    catalogue: str
    items: int
    item_ids_sha256: str


class _Progress(BaseModel):
    """How far it is: rows before `done` are on disk, or skipped for a reason."""

    model_config = ConfigDict(extra="forbid")

    making: _Making
    done: int = 0
    skipped: dict[int, str] = {}


def embed_catalogue(
    features: ImageFeatures,
    catalogue: Catalogue,
    folder: Path,
    *,
    dtype: VectorType = "float16",
    chunk: int = CHUNK,
    skip_missing: bool = False,
    progress: Progress = no_progress,
) -> EmbeddingsManifest:
    """Compute the features of every item; called again, it goes on where it was cut off.

    Args:
        features: the model.
        catalogue: the items and their pictures.
        folder: where to; may hold an unfinished attempt at the same, or the finished result.
        dtype: of the vectors in the file. float16 rounds a cosine by less than 0.001.
        chunk: items between two looks at the disk; what is lost by a kill.
        skip_missing: leave out items whose pictures are missing or unreadable, instead of stopping.
        progress: counts items; the figures are items per second and how many were skipped.

    Returns:
        The manifest of the finished folder.

    Raises:
        MissingImages: if pictures are missing; counts and names them before anything is computed.
        InvalidInput: if a picture cannot be read, or no item has one.
        Conflict: if the folder holds something else, or another process works in it.
        DataFileError: if the finished folder is damaged, or the disk is full.
    """
    making = _Making(
        feature_id=features.feature_id,
        dim=features.dim,
        dtype=dtype,
        catalogue=catalogue.name,
        items=len(catalogue.item_ids()),
        item_ids_sha256=item_ids_digest(catalogue.item_ids()),
    )
    with _alone(folder):
        if (folder / MANIFEST).is_file():
            return _finished(folder, making)
        work = _Work(features, catalogue, folder, skip_missing, _begun(folder, making))
        work.check_pictures()
        try:
            work.run(chunk, progress)
            return work.finish()
        except OSError as error:
            raise DataFileError(folder, f"cannot be written: {error.strerror}; what is done is kept") from error


@dataclass
class _Work:
    features: ImageFeatures
    catalogue: Catalogue
    folder: Path
    skip_missing: bool
    state: _Progress
    _ids: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        self._ids = self.catalogue.item_ids()

    def check_pictures(self) -> None:
        """See that the pictures are there before hours of work begin."""
        missing = self.catalogue.missing_images() if isinstance(self.catalogue, FolderCatalogue) else {}
        if missing and not self.skip_missing:
            self.catalogue.check_images()  # type: ignore[attr-defined]  # raises, with names and folder
        if missing and len(missing) == len(self._ids):
            raise InvalidInput(f"no item of {self.catalogue.name!r} has a picture: there is nothing to embed")

    def run(self, chunk: int, progress: Progress) -> None:
        """Go through the rows that are not done; pictures of the next chunk are read while this one is computed."""
        chunks = self._chunks(chunk)
        total, started, before = len(self._ids), time.perf_counter(), self.state.done
        progress(before, total, {})
        with ThreadPoolExecutor(_READERS, "read") as readers:
            ahead = [readers.submit(self._read, int(row)) for row in chunks[0]] if chunks else []
            for position, rows in enumerate(chunks):
                read, following = [future.result() for future in ahead], chunks[position + 1 : position + 2]
                ahead = [readers.submit(self._read, int(row)) for one in following for row in one]
                self._embed(rows, read)
                rate = (self.state.done - before) / (time.perf_counter() - started)
                figures = {"items/s": rate} | ({"skipped": len(self.state.skipped)} if self.state.skipped else {})
                progress(self.state.done, total, figures)

    def finish(self) -> EmbeddingsManifest:
        """Give the rows their name, then say what they are."""
        partial, path = self.folder / PARTIAL, self.folder / VECTORS
        if partial.is_file():  # else the last attempt came as far as this
            partial.replace(path)
        if len(self.state.skipped) == len(self._ids):
            raise InvalidInput(f"no item of {self.catalogue.name!r} has a picture that can be read")
        manifest = EmbeddingsManifest(
            **self.state.making.model_dump(), skipped=self.state.skipped, sha256=_file_digest(path)
        )
        _replace(self.folder / MANIFEST, manifest.model_dump_json(indent=2))
        (self.folder / PROGRESS).unlink(missing_ok=True)
        return manifest

    def _chunks(self, size: int) -> list[NDArray[np.int64]]:
        """Rows still to be done; first those that were skipped, whose pictures may be there by now."""
        skipped = np.array([row for row, item_id in enumerate(self._ids) if item_id in self.state.skipped], np.int64)
        rows = np.concatenate([skipped, np.arange(self.state.done, len(self._ids))])
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _read(self, row: int) -> Image | InvalidInput:
        try:
            return self.catalogue.image(self._ids[row])
        except InvalidInput as error:
            return error

    def _embed(self, rows: NDArray[np.int64], read: Sequence[Image | InvalidInput]) -> None:
        faults = {int(row): one for row, one in zip(rows, read, strict=True) if isinstance(one, InvalidInput)}
        if faults and not self.skip_missing:
            self._refuse(*next(iter(faults.items())))
        vectors = np.full((len(rows), self.features.dim), np.nan, np.float32)
        good = [place for place, row in enumerate(rows) if int(row) not in faults]
        if good:
            vectors[good] = self.features.images([read[place] for place in good]).numpy()  # type: ignore[misc]
        if not np.isfinite(vectors[good]).all():
            raise InvalidInput(
                f"{self.features.feature_id} gives features that are not finite: its weights are damaged"
            )
        self._store(rows, vectors, {self._ids[row]: _reason(error) for row, error in faults.items()})

    def _refuse(self, row: int, error: InvalidInput) -> None:
        if isinstance(error, MissingImages):
            raise error
        raise InvalidInput(
            f"item {self._ids[row]} cannot be embedded: {error}; mend it, or leave such items out with --skip-missing"
        )

    def _store(self, rows: NDArray[np.int64], vectors: NDArray[np.float32], skipped: dict[int, str]) -> None:
        """The rows must be on disk before the file that says so."""
        array = _rows_on_disk(self.folder, self.state)
        array[rows] = vectors.astype(array.dtype)
        array.flush()
        of_rows = {self._ids[row] for row in rows}
        self.state.skipped = {i: why for i, why in self.state.skipped.items() if i not in of_rows} | skipped
        self.state.done = max(self.state.done, int(rows[-1]) + 1)
        _replace(self.folder / PROGRESS, self.state.model_dump_json())


def _reason(error: InvalidInput) -> str:
    return "picture missing" if isinstance(error, MissingImages) else f"picture unreadable: {error}"


def _finished(folder: Path, making: _Making) -> EmbeddingsManifest:
    found = read_manifest(folder)
    if found.model_dump(include=set(_Making.model_fields)) != making.model_dump():
        raise Conflict(
            f"{folder} holds embeddings of {found.items} items of {found.catalogue!r} by {found.feature_id} as "
            f"{found.dtype}, not of {making.items} of {making.catalogue!r} by {making.feature_id} as {making.dtype}: "
            "choose another folder, or delete it"
        )
    if not (folder / VECTORS).is_file() or _file_digest(folder / VECTORS) != found.sha256:
        raise DataFileError(folder / VECTORS, "is missing or damaged: delete the folder and embed anew")
    return found


def _begun(folder: Path, making: _Making) -> _Progress:
    """What an earlier attempt has left, if it was at the same."""
    path = folder / PROGRESS
    if not path.is_file():
        return _Progress(making=making)
    try:
        found = _Progress.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise DataFileError(path, f"is damaged: {error}; delete the folder and embed anew") from error
    if found.making != making:
        raise Conflict(
            f"{folder} holds the beginning of other embeddings, by {found.making.feature_id} of "
            f"{found.making.catalogue!r} as {found.making.dtype}: choose another folder, or delete it"
        )
    is_there = any((folder / name).is_file() for name in (PARTIAL, VECTORS))
    return found if is_there else _Progress(making=making)


def _rows_on_disk(folder: Path, state: _Progress) -> np.memmap[Any, np.dtype[np.floating[Any]]]:
    finished, path, shape = folder / VECTORS, folder / PARTIAL, (state.making.items, state.making.dim)
    if finished.is_file():  # an attempt that was cut off while it finished
        finished.replace(path)
    if state.done == 0 or not path.is_file():
        array = np.lib.format.open_memmap(path, mode="w+", dtype=state.making.dtype, shape=shape)
        with path.open("r+b") as file:
            # writing through a mapping to a disk that is full would kill the process without a word
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    return np.lib.format.open_memmap(path, mode="r+")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, text: str) -> None:
    """Old or new content, also after a power failure."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time; the kernel lets go when it dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"another process is embedding into {folder}: wait for it, or choose another folder"
            ) from error
        yield
