"""Pictures as batches of tensors: the one way in which every judge brings images to its own size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fashiondpo.outfits.model import Image


def square_batch(images: Sequence[Image], size_px: int, device: torch.device | str = "cpu") -> Tensor:
    """Pictures of any size as one batch: padded with white to a square, then resized (bicubic, antialiased).

    Args:
        images: each (height, width, 3), uint8.
        size_px: side of the square.
        device: where the batch is made.

    Returns:
        Shape (n, 3, size_px, size_px), 0…1.
    """
    batch = torch.empty(len(images), 3, size_px, size_px, device=device)
    rows_of_shape: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        rows_of_shape.setdefault(image.shape, []).append(row)
    for rows in rows_of_shape.values():
        pixels = torch.from_numpy(np.stack([images[row] for row in rows])).to(device)
        batch[rows] = _square(pixels.permute(0, 3, 1, 2).float() / 255, size_px)
    return batch


def _square(pixels: Tensor, size_px: int) -> Tensor:
    height, width = pixels.shape[-2:]
    if height != width:
        across, down = max(height - width, 0), max(width - height, 0)
        margins = (across // 2, across - across // 2, down // 2, down - down // 2)
        pixels = F.pad(pixels, margins, value=1.0)
    if pixels.shape[-1] == size_px:
        return pixels
    resized = F.interpolate(pixels, (size_px, size_px), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)  # bicubic overshoots at edges
