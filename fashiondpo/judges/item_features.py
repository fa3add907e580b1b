"""Features of garments: a catalogue's items, each computed once, and pictures that are in no catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from fashiondpo.contracts import ArtifactRef, ItemSource
from fashiondpo.errors import InvalidInput, UnknownItem
from fashiondpo.judges.features import ImageFeatures
from fashiondpo.outfits.model import Catalogue, Image
from fashiondpo.telemetry import Progress, no_progress

if TYPE_CHECKING:
    from fashiondpo.judges.embeddings import CatalogueEmbeddings

_FINGERPRINT_ITEMS = 8


class ItemFeatures(Protocol):
    """Features of a catalogue's items, wherever they come from."""

    @property
    def feature_id(self) -> str:
        """Of the model that makes them."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def catalogue(self) -> Catalogue:
        """The items."""

    @property
    def skipped(self) -> Container[int]:
        """Items that have none, because their pictures are missing and that was accepted."""

    def of(self, item_ids: Sequence[int]) -> Tensor:
        """Features of items, in the order asked for: shape (n, dim), float32."""


class CatalogueFeatures:
    """Features of a catalogue's items, each computed once.

    Items are computed when they are first asked for, or all at once by `compute_all`, which also keeps them in a file
    if there is a cache folder. Two threads that ask at once may compute the same item twice, with the same result.
    """

    def __init__(
        self,
        features: ImageFeatures,
        catalogue: Catalogue,
        *,
        cache: Path | None = None,
        embeddings: CatalogueEmbeddings | None = None,
        batch_size: int = 512,
    ) -> None:
        """Nothing is computed yet.

        Args:
            features: compute what is not known.
            catalogue: the items.
            cache: a folder for the computed features, one .npy file per feature id and catalogue.
            embeddings: of the whole catalogue, made before; then no item is computed here.
            batch_size: items computed together.

        Raises:
            InvalidInput: if the embeddings are of another model or catalogue.
        """
        if embeddings is not None:
            embeddings.check(features.feature_id, catalogue)
        self.features, self._catalogue, self._embeddings = features, catalogue, embeddings
        self._cache, self._batch_size = cache, batch_size
        self._row_of = {item_id: row for row, item_id in enumerate(catalogue.item_ids())}
        self._is_known = np.zeros(len(self._row_of), dtype=bool)
        self._vectors: np.ndarray[Any, np.dtype[np.float32]] | None = None
        if embeddings is None and cache is not None and (path := self.cache_path()).exists():
            self._vectors = self._read(path)

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self._catalogue

    @property
    def feature_id(self) -> str:
        """Of the model that computes them."""
        return self.features.feature_id

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.features.dim

    @property
    def embeddings_digest(self) -> str | None:
        """SHA-256 of the embeddings; None if the features are computed here."""
        return None if self._embeddings is None else self._embeddings.manifest.sha256

    @property
    def skipped(self) -> Container[int]:
        """Items that the embeddings leave out."""
        return () if self._embeddings is None else self._embeddings.skipped

    def of(self, item_ids: Sequence[int], progress: Progress = no_progress) -> Tensor:
        """Features of items, in the order asked for: shape (n, dim); progress counts those still to be computed.

        Raises:
            UnknownItem, MissingImages: if the catalogue lacks an item or its picture.
        """
        if self._embeddings is not None:
            return self._embeddings.of(item_ids)
        rows = self._rows(item_ids)
        self._compute(rows, progress)
        assert self._vectors is not None
        return torch.from_numpy(np.array(self._vectors[rows]))

    def compute_all(self, progress: Progress = no_progress) -> None:
        """Compute what is not known yet, and write the cache if there is one; progress counts items."""
        if self._embeddings is not None:
            return
        missing = np.flatnonzero(~self._is_known)
        self._compute(missing, progress)
        if self._cache is not None and len(missing) and self._vectors is not None:
            path = self.cache_path()
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{uuid4().hex}.partial.npy")  # another judge may write the same features now
            np.save(partial, self._vectors)
            partial.replace(path)

    def cache_path(self) -> Path:
        """The file of these features of this catalogue; its name also covers a few of the pictures.

        Raises:
            InvalidInput: if there is no cache folder.
        """
        if self._cache is None:
            raise InvalidInput("these catalogue features were made without a cache folder")
        item_ids = self.catalogue.item_ids()
        digest = hashlib.sha256(f"{self.features.feature_id}/{self.catalogue.name}/{len(item_ids)}".encode())
        for position in np.linspace(0, len(item_ids) - 1, min(_FINGERPRINT_ITEMS, len(item_ids))).astype(int):
            digest.update(f"{item_ids[position]}".encode() + self.catalogue.image(item_ids[position]).tobytes())
        return self._cache / f"{digest.hexdigest()[:32]}.npy"

    def _read(self, path: Path) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):  # damaged: it is computed and written again
            return None
        if vectors.shape != (len(self._row_of), self.features.dim) or vectors.dtype != np.float32:
            return None
        self._is_known[:] = True
        return vectors  # type: ignore[no-any-return]

    def _rows(self, item_ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.intp]]:
        try:
            return np.array([self._row_of[item_id] for item_id in item_ids], dtype=np.intp)
        except KeyError as error:
            raise UnknownItem(int(error.args[0]), self.catalogue.name) from None

    def _compute(self, rows: np.ndarray[Any, np.dtype[np.intp]], progress: Progress) -> None:
        if self._vectors is None:
            self._vectors = np.zeros((len(self._row_of), self.features.dim), dtype=np.float32)
        missing = np.unique(rows[~self._is_known[rows]])
        item_ids = self.catalogue.item_ids()
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            images = [self.catalogue.image(item_ids[row]) for row in batch]
            self._vectors[batch] = self.features.images(images).numpy()
            self._is_known[batch] = True
            progress(min(start + self._batch_size, len(missing)), len(missing), {})


def catalogue_features(features: ImageFeatures, catalogue: Catalogue | CatalogueFeatures) -> CatalogueFeatures:
    """The catalogue's features: as given, if they already are, so that several judges can share them.

    Raises:
        InvalidInput: if they were made by another model.
    """
    if not isinstance(catalogue, CatalogueFeatures):
        return CatalogueFeatures(features, catalogue)
    if catalogue.features.feature_id != features.feature_id:
        raise InvalidInput(
            f"the catalogue's features are {catalogue.features.feature_id}, the judge's {features.feature_id}"
        )
    return catalogue


class GarmentFeatures:
    """Features of catalogue items and of pictures that are in no catalogue, for one batch: each picture once."""

    def __init__(self, items: CatalogueFeatures) -> None:
        """`items` embeds the pictures too."""
        self._items = items
        self._of_pictures: dict[ArtifactRef, Tensor] = {}

    def of(self, garments: Sequence[ItemSource], pictures: Mapping[ArtifactRef, Image]) -> Tensor:
        """Features in the order asked for: shape (n, dim); the same reference always means the same picture.

        Raises:
            UnknownItem, MissingImages: if the catalogue lacks an item or its picture.
            InvalidInput: if a picture was not sent along.
        """
        item_ids = [garment for garment in garments if isinstance(garment, int)]
        refs = [garment for garment in garments if isinstance(garment, str)]
        if not refs:
            return self._items.of(item_ids)
        self._embed([ref for ref in dict.fromkeys(refs) if ref not in self._of_pictures], pictures)
        of_items = iter(self._items.of(item_ids))
        return torch.stack([next(of_items) if isinstance(g, int) else self._of_pictures[g] for g in garments])

    def _embed(self, refs: Sequence[ArtifactRef], pictures: Mapping[ArtifactRef, Image]) -> None:
        if missing := [ref for ref in refs if ref not in pictures]:
            raise InvalidInput(f"the picture {missing[0]} was not sent along")
        vectors = self._items.features.images([pictures[ref] for ref in refs])
        self._of_pictures.update(zip(refs, vectors, strict=True))
