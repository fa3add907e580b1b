"""Features of a whole catalogue in a folder: computed once, mapped into memory by everybody who needs them.

    manifest.json   what they are: model, items, type, digest; written last, so that a folder without it is unfinished
    vectors.npy     a row per item in the catalogue's order, unit length; NaN where an item was skipped

Judges and trainings that map the same file share the machine's memory. `embedding` makes the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from fashiondpo.errors import DataFileError, InvalidInput, MissingImages, UnknownItem
from fashiondpo.outfits.model import Catalogue

MANIFEST, VECTORS = "manifest.json", "vectors.npy"
VectorType = Literal["float16", "float32"]


class EmbeddingsManifest(BaseModel):
    """What a folder of embeddings holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    feature_id: str = Field(description="Name and digest of the model; features of another are refused.")
    dim: int = Field(ge=1)
    dtype: VectorType
    catalogue: str = Field(description="Name of the data set, for messages.")
    items: int = Field(ge=1)
    item_ids_sha256: str = Field(description="Of the item ids in the order of the rows.")
    skipped: dict[int, str] = Field({}, description="Items without a vector, and why.")
    sha256: str = Field(description="Of vectors.npy.")


def item_ids_digest(item_ids: Sequence[int]) -> str:
    """SHA-256 of item ids in their order, in hexadecimal."""
    return hashlib.sha256(np.asarray(item_ids, dtype="<i8").tobytes()).hexdigest()


class CatalogueEmbeddings:
    """Vectors of a catalogue's items, by item id."""

    def __init__(
        self, folder: Path, manifest: EmbeddingsManifest, catalogue: Catalogue, vectors: NDArray[np.floating[Any]]
    ) -> None:
        """Put the parts together; `open` reads them. Vectors have shape (items, dim)."""
        self.folder, self.manifest, self.catalogue, self._vectors = folder, manifest, catalogue, vectors

    @classmethod
    def open(cls, folder: Path, catalogue: Catalogue) -> Self:
        """Map a finished folder into memory; nothing of the vectors is read yet.

        Raises:
            DataFileError: if the folder is unfinished, or a file is damaged.
            InvalidInput: if it is of another catalogue.
        """
        manifest = read_manifest(folder)
        path = folder / VECTORS
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataFileError(path, f"cannot be mapped: {error}; make the folder anew") from error
        if vectors.shape != (manifest.items, manifest.dim) or vectors.dtype != np.dtype(manifest.dtype):
            raise DataFileError(
                path,
                f"holds {vectors.dtype} of shape {vectors.shape}, but {MANIFEST} says {manifest.dtype} of "
                f"({manifest.items}, {manifest.dim}); make the folder anew",
            )
        opened = cls(folder, manifest, catalogue, vectors)
        opened.check(manifest.feature_id, catalogue)
        return opened

    @property
    def feature_id(self) -> str:
        """Of the model that made them."""
        return self.manifest.feature_id

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.manifest.dim

    def check(self, feature_id: str, catalogue: Catalogue) -> None:
        """Refuse to stand for other features, or for another catalogue.

        Raises:
            InvalidInput: says which.
        """
        if feature_id != self.manifest.feature_id:
            raise InvalidInput(
                f"the embeddings in {self.folder} were made by {self.manifest.feature_id}, not by {feature_id}: "
                "use that CLIP model, or embed the catalogue anew"
            )
        if self.manifest.item_ids_sha256 != item_ids_digest(catalogue.item_ids()):
            raise InvalidInput(
                f"the embeddings in {self.folder} are of {self.manifest.items} items of {self.manifest.catalogue!r}, "
                f"not of the {len(catalogue.item_ids())} of {catalogue.name!r}: embed that catalogue"
            )

    def of(self, item_ids: Sequence[int]) -> Tensor:
        """Vectors of items in the order asked for: shape (n, dim), float32, a copy of these rows alone.

        Raises:
            UnknownItem: if the catalogue has no such item.
            MissingImages: if items were skipped when the folder was made.
        """
        try:
            rows = [self._row_of[item_id] for item_id in item_ids]
        except KeyError as error:
            raise UnknownItem(int(error.args[0]), self.manifest.catalogue) from None
        if self.manifest.skipped and (lacking := [i for i in dict.fromkeys(item_ids) if i in self.manifest.skipped]):
            raise MissingImages(self.folder, [f"item {i} ({self.manifest.skipped[i]})" for i in lacking])
        if not rows:
            return torch.empty(0, self.dim)
        return torch.from_numpy(self._vectors[rows].astype(np.float32))

    @property
    def skipped(self) -> Container[int]:
        """Items of the catalogue without a vector."""
        return self.manifest.skipped

    @cached_property
    def _row_of(self) -> Mapping[int, int]:
        return {item_id: row for row, item_id in enumerate(self.catalogue.item_ids())}


def read_manifest(folder: Path) -> EmbeddingsManifest:
    """What a folder says of itself.

    Raises:
        DataFileError: if it is unfinished, no folder of embeddings, or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataFileError(
            path, "is not there: the folder holds no embeddings, or unfinished ones; run `fashiondpo embed` to the end"
        )
    try:
        return EmbeddingsManifest.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise DataFileError(path, f"does not describe embeddings: {error}") from error
