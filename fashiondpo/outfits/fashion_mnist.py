"""Garment silhouettes: the idx files of Fashion-MNIST (Zalando Research, MIT licence).

They come from Debian's package dataset-fashion-mnist, from a folder of the four files, or from torchvision's download.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fashiondpo.errors import DataFileError, NotFound

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist installs the files."""

SIDE = 28
_FILES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Silhouettes:
    """Grey garments on black. `images`: shape (n, 28, 28), uint8; `labels`: shape (n,), 0…9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def of_category(self, category_id: int) -> NDArray[np.intp]:
        """Positions of one category's silhouettes, ascending."""
        return np.flatnonzero(self.labels == category_id)


def find_fashion_mnist(folder: Path | None = None) -> Path:
    """The folder that holds the idx files: the one given, or Debian's.

    Raises:
        NotFound: with the ways to get them.
    """
    for place in [folder] if folder else [DEBIAN_FOLDER]:
        for candidate in (place, place / "FashionMNIST" / "raw"):  # the second is torchvision's layout
            if any((candidate / f"train-images-idx3-ubyte{end}").exists() for end in (".gz", "")):
                return candidate
    raise NotFound(
        f"no Fashion-MNIST files in {folder or DEBIAN_FOLDER}: install Debian's package dataset-fashion-mnist, "
        "name a folder of the four idx files, or download them with `fashiondpo data download`"
    )


def download_fashion_mnist(folder: Path) -> Path:
    """Fetch the files with torchvision; returns the folder of the idx files."""
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(folder), train=True, download=True)
    return find_fashion_mnist(folder)


def read_silhouettes(folder: Path, split: Literal["train", "test"]) -> Silhouettes:
    """The 60,000 training or 10,000 test silhouettes.

    Raises:
        DataFileError: if a file is missing, truncated or no idx file.
    """
    images = _read_idx(folder, f"{_FILES[split]}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder, f"{_FILES[split]}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise DataFileError(folder, f"{len(images)} images but {len(labels)} labels in split {split!r}")
    return Silhouettes(images, labels)


def _read_idx(folder: Path, name: str, *, dimensions: int) -> NDArray[np.uint8]:
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise DataFileError(folder / f"{name}.gz", "the file is missing")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataFileError(path, f"not a readable gzip file: {error}") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataFileError(path, f"not an idx file of bytes in {dimensions} dimensions")
    shape = tuple(int.from_bytes(content[4 + 4 * d : 8 + 4 * d], "big") for d in range(dimensions))
    if len(content) - start != int(np.prod(shape)):
        raise DataFileError(path, f"truncated: {shape} values announced, {len(content) - start} bytes found")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
