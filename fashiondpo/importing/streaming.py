"""Writes a safetensors file tensor by tensor: the library's own writer wants all of them in memory at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fashiondpo.importing.weight_files import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, planned: Mapping[str, Planned], tensor_of: Callable[[str], Tensor]) -> None:
    """Write a file of tensors, asking for one after the other.

    Args:
        path: the file.
        planned: shape and type of every tensor, by key.
        tensor_of: gives a tensor when its turn comes; it is not kept.

    Raises:
        ValueError: if a tensor is not what was planned.
    """
    # widest types first, as the library has them: so each tensor begins at a multiple of its element's size
    keys = sorted(planned, key=lambda key: (-planned[key].dtype.itemsize, key))
    with path.open("wb") as file:
        file.write(_header(keys, planned))
        for key in keys:
            tensor = tensor_of(key)
            if tuple(tensor.shape) != planned[key].shape or tensor.dtype != planned[key].dtype:
                raise ValueError(f"{key!r} is {tensor.dtype} {tuple(tensor.shape)}, planned was {planned[key]}")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _header(keys: list[str], planned: Mapping[str, Planned]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for key in keys:
        end = place + planned[key].size
        entries[key] = {
            "dtype": _NAMES[planned[key].dtype],
            "shape": list(planned[key].shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors to begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text
