"""An endless supply of tinted garments, for the models that learn from single pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fashiondpo.outfits.colour import COLOURS, sample_rgb
from fashiondpo.outfits.fashion_mnist import Silhouettes
from fashiondpo.outfits.mini import render


@dataclass(frozen=True)
class Garments:
    """A batch. `images`: (n, 32, 32, 3) uint8; `categories`, `colours`: (n,) int64."""

    images: NDArray[np.uint8]
    categories: NDArray[np.int64]
    colours: NDArray[np.int64]


def sample_garments(silhouettes: Silhouettes, count: int, rng: np.random.Generator) -> Garments:
    """Random silhouettes in random colours, each colour as likely as any other."""
    chosen = rng.integers(len(silhouettes.images), size=count)
    colours = rng.integers(len(COLOURS), size=count)
    rgb = np.stack([sample_rgb(int(colour), rng) for colour in colours])
    return Garments(
        render(silhouettes.images[chosen], rgb), silhouettes.labels[chosen].astype(np.int64), colours.astype(np.int64)
    )
