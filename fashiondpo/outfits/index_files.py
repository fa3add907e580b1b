"""Published index files: `.npy` files that hold pickled dicts and lists, or numbers and text.

`numpy.load(allow_pickle=True)` would run whatever such a file names; `index_pickle` says what is done instead.
"""

from __future__ import annotations

import io
import math
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fashiondpo.errors import DataFileError
from fashiondpo.outfits.index_pickle import TYPE_CODE, unpickle_array

Ids = NDArray[np.int64]

MAX_INDEX_BYTES = 1 << 30
"""Larger index files are refused; the largest published one is far below."""

_NO_HEADER = (ValueError, TypeError, KeyError, EOFError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError)
"""What numpy's header reader raises for broken files."""


def read_index(path: Path) -> object:
    """The content of one published index file.

    Args:
        path: a `.npy` file with a zero-dimensional object array (a dict, usually) or a one-dimensional array.

    Returns:
        The object, made of dict, list, tuple, str, int, float, bool and None only; for a one-dimensional array a list.
        Numpy scalars inside come back as Python numbers, numpy arrays as lists.

    Raises:
        DataFileError: if the file is missing, truncated, no `.npy` file, larger than MAX_INDEX_BYTES, of another
            shape, or has bytes after its content.
        ForbiddenPickle: if it asks for anything but numpy arrays, numpy scalars and builtin containers.
    """
    content = _content(path)
    stream = io.BytesIO(content)
    try:
        shape, dtype = _header(stream)
    except _NO_HEADER as error:
        raise DataFileError(path, f"this is no .npy file of format 1 or 2 ({error})") from error
    if len(shape) > 1:
        raise DataFileError(path, f"expected a single object or a one-dimensional array, got shape {shape}")
    body = content[stream.tell() :]
    values = unpickle_array(path, body, shape) if dtype.hasobject else _plain(path, body, shape, dtype)
    return values if shape else values[0]


def read_mapping(path: Path) -> dict[Any, Any]:
    """The content of a published index file that holds a dict; raises as `read_index` does."""
    return as_mapping(path, read_index(path))


def as_mapping(path: Path, found: object) -> dict[Any, Any]:
    """What was found in a file, if it is a dict; raises DataFileError."""
    if not isinstance(found, dict):
        raise DataFileError(path, f"expected a dict, got {type(found).__name__}")
    return found


def as_ids(path: Path, found: object, what: str, *, dimensions: int = 1) -> Ids:
    """What was found in a file, if it is a list of ids (or of equally long lists of ids).

    Raises:
        DataFileError: if it is not, or an id is negative or no whole number.
    """
    try:
        ids = np.asarray(found)
    except ValueError as error:
        raise DataFileError(path, f"the rows of {what} differ in length") from error
    if ids.size == 0:
        return np.zeros((0,) * dimensions, dtype=np.int64)
    if ids.ndim != dimensions or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**63:
        raise DataFileError(path, f"{what} must be {'rows of ' if dimensions == 2 else ''}ids, whole numbers from 0")
    return ids.astype(np.int64)


def _content(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MAX_INDEX_BYTES:
            raise DataFileError(path, f"{size} bytes are more than an index file may have ({MAX_INDEX_BYTES})")
        return path.read_bytes()
    except OSError as error:
        raise DataFileError(path, f"cannot be read ({error.strerror})") from error


def _header(stream: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in readers:
        raise ValueError(f"format version {version}")
    shape, _, dtype = readers[version](stream)
    if any(side < 0 for side in shape):
        raise ValueError(f"negative shape {shape}")
    return shape, dtype


def _plain(path: Path, body: bytes, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> list[object]:
    if not TYPE_CODE.fullmatch(dtype.str.lstrip("<>|=")) or dtype.itemsize == 0:
        raise DataFileError(path, f"expected numbers or text, got type {dtype}")
    if len(body) != (expected := math.prod(shape) * dtype.itemsize):
        raise DataFileError(path, f"the header announces {expected} bytes, the file has {len(body)}; fetch it again")
    return list(np.frombuffer(body, dtype).tolist())
