"""What published CLIP models expect of a picture: open_clip's own transform, reproduced value by value.

    white square -> Pillow's bicubic or bilinear resize -> 0…1 -> (x - mean) / std

open_clip resizes by the shorter side and cuts off what is too long. A garment must not lose its sleeves, so that pictures
are padded with white to a square first, as those of every catalogue already are; for square pictures all of open_clip's
ways of resizing are the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from fashiondpo.errors import InvalidBundle
from fashiondpo.outfits.model import Image

_RESAMPLING = {"bicubic": Pillow.Resampling.BICUBIC, "bilinear": Pillow.Resampling.BILINEAR}
_RESIZERS = min(8, os.cpu_count() or 1)
"""Threads that resize; Pillow lets others run meanwhile."""


@dataclass(frozen=True)
class Preprocessing:
    """From pictures to the input of a published model.

    Attributes:
        size_px: side of the square that it sees.
        mean, std: per channel, of values 0…1.
        interpolation: "bicubic" or "bilinear".
    """

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Self:
        """From open_clip's preprocessing configuration of a model.

        Raises:
            InvalidBundle: if it is one that is not known here: another interpolation, or a size that is no square.
        """
        sides = np.unique(configuration["size"])
        interpolation = str(configuration.get("interpolation") or "bicubic")
        if len(sides) != 1 or sides[0] < 1 or interpolation not in _RESAMPLING:
            raise InvalidBundle(
                f"pictures of {configuration['size']} pixels by {interpolation} interpolation cannot be prepared: "
                f"expected one side for a square, and {' or '.join(_RESAMPLING)}"
            )
        mean, std = (_three(configuration[name], name) for name in ("mean", "std"))
        if min(std) <= 0:
            raise InvalidBundle(f"the deviation of the model's pixels must be positive, got {std}")
        return cls(int(sides[0]), mean, std, interpolation)

    @property
    def digest(self) -> str:
        """Names everything that decides the values, in eight hexadecimal digits."""
        described = f"{self.size_px}/{self.mean}/{self.std}/{self.interpolation}"
        return hashlib.sha256(described.encode()).hexdigest()[:8]

    def pixels(self, images: Sequence[Image], device: torch.device | str = "cpu") -> Tensor:
        """Pictures of any size, (height, width, 3) uint8, as the model's input: shape (n, 3, size_px, size_px)."""
        squares = np.stack(list(self._in_threads(self._square, images)))
        values = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (self.mean, self.std))
        return (values - mean) / std

    def _square(self, image: Image) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        picture = Pillow.fromarray(image)
        if height != width:
            side = max(height, width)
            square = Pillow.new("RGB", (side, side), (255, 255, 255))
            square.paste(picture, ((side - width) // 2, (side - height) // 2))
            picture = square
        if picture.width != self.size_px:
            picture = picture.resize((self.size_px, self.size_px), _RESAMPLING[self.interpolation])
        return np.asarray(picture)

    def _in_threads(
        self, work: Callable[[Image], NDArray[np.uint8]], images: Sequence[Image]
    ) -> list[NDArray[np.uint8]]:
        if len(images) < 2 * _RESIZERS:
            return [work(image) for image in images]
        return list(self._threads.map(work, images))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_RESIZERS, "resize")


def _three(values: Any, name: str) -> tuple[float, float, float]:
    listed = [values] * 3 if isinstance(values, int | float) else list(values)
    if len(listed) != 3 or not np.isfinite(listed).all():
        raise InvalidBundle(f"the {name} of the model's pixels must be three numbers, got {values!r}")
    return (float(listed[0]), float(listed[1]), float(listed[2]))
