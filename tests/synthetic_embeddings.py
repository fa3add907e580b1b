"""Embeddings without pictures: items of an outfit share a style, or nothing means anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fashiondpo.judges.embeddings import MANIFEST, VECTORS, CatalogueEmbeddings, EmbeddingsManifest, item_ids_digest
from fashiondpo.outfits.model import Catalogue, DataSet

STYLES = 6


def styled_vectors(data_set: DataSet, dim: int = 32, *, seed: int = 0, noise: float = 0.5) -> NDArray[np.float32]:
    """A row per item: its category, the mean style of the outfits it occurs in, and noise, turned in space."""
    rng = np.random.default_rng(seed)
    item_ids = list(data_set.catalogue.item_ids())
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    style, times = np.zeros((len(item_ids), STYLES)), np.zeros((len(item_ids), 1))
    for outfits in data_set.outfits.values():
        for outfit in outfits:
            rows = [row_of[item_id] for item_id in outfit.given_item_ids]
            style[rows] += rng.normal(size=STYLES)
            times[rows] += 1
    style = np.where(times > 0, style / np.maximum(times, 1), rng.normal(size=style.shape))
    of_category = {category: rng.normal(size=STYLES) for category in data_set.categories}
    kind = np.stack([of_category[data_set.catalogue.item(item_id).category_id] for item_id in item_ids])
    known = np.concatenate([style, kind], axis=1) @ rng.normal(size=(2 * STYLES, dim))
    return unit(known + noise * np.abs(known).mean() * rng.normal(size=known.shape))


def noise_vectors(items: int, dim: int = 32, *, seed: int = 0) -> NDArray[np.float32]:
    """A row per item that says nothing about it."""
    return unit(np.random.default_rng(seed).normal(size=(items, dim)))


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of length one."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_embeddings(
    folder: Path, catalogue: Catalogue, vectors: NDArray[np.float32], *, feature_id: str = "synthetic-1"
) -> CatalogueEmbeddings:
    """A finished folder with these vectors, opened."""
    folder.mkdir(parents=True)
    np.save(folder / VECTORS, vectors.astype(np.float16))
    manifest = EmbeddingsManifest(
        feature_id=feature_id,
        dim=vectors.shape[1],
        dtype="float16",
        catalogue=catalogue.name,
        items=len(vectors),
        item_ids_sha256=item_ids_digest(catalogue.item_ids()),
        sha256=hashlib.sha256((folder / VECTORS).read_bytes()).hexdigest(),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return CatalogueEmbeddings.open(folder, catalogue)
