"""Batches of pictures for small networks to learn from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from fashiondpo.judges.pixels import square_batch


def as_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Pictures (n, side, side, 3) as a network sees them: (n, 3, side, side) in -1…1."""
    return square_batch(list(images), images.shape[1]) * 2 - 1


def drawn(images: NDArray[np.uint8], count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Pictures drawn with replacement, (count, 3, side, side) in -1…1, and the rows (count,) that they were."""
    rows = torch.randint(len(images), (count,), generator=generator)
    return as_pixels(images[rows.numpy()]), rows


def mirrored(pixels: Tensor, generator: Generator) -> Tensor:
    """Each of the pictures (n, c, h, w) as it is or, as often, turned left to right."""
    is_mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(is_mirrored[:, None, None, None], pixels.flip(3), pixels)
