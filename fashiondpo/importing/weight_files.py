"""Files of weights that somebody published: safetensors, or torch's `.bin` and `.pt`, read tensor by tensor.

A `.bin` is a pickle, and a pickle can run any program. It is read by torch's unpickler for weights alone, which rebuilds
tensors and plain containers; whatever else a file asks for is refused by its name.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fashiondpo.errors import DataFileError, ForbiddenPickle, InvalidInput
from fashiondpo.importing.report import Account, file_digest, named

SAFETENSORS, TORCH = (".safetensors",), (".bin", ".pt", ".pth")

_ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")
"""How torch's unpickler names what it will not load."""

DTYPES = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
    }
)
"""Types of tensors by their names in safetensors files."""

_READ = frozenset(DTYPES.values())


class Weights(Protocol):
    """Tensors under their keys, each read when it is asked for."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor, by key."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Type of every tensor, by key."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says about itself."""

    def tensor(self, key: str) -> Tensor:
        """One tensor, on the CPU, in the type in which it is stored."""

    def origin(self, key: str) -> Path:
        """The file that holds it."""


class _Safetensors:
    """A safetensors file; opened anew for every tensor, so that no more than one of them is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt") as opened:
                slices = {str(key): opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
                self.metadata: dict[str, str] = dict(opened.metadata() or {})
                names = {key: str(part.get_dtype()) for key, part in slices.items()}
                self.shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
        except (OSError, SafetensorError) as error:
            raise DataFileError(path, f"is no readable safetensors file: {error}; fetch it again") from error
        if odd := sorted(key for key, name in names.items() if name not in DTYPES):
            raise DataFileError(path, f"holds tensors of types that are not read here: {named(odd)}")
        self.dtypes = {key: DTYPES[name] for key, name in names.items()}

    def tensor(self, key: str) -> Tensor:
        with safe_open(self._path, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
        return tensor

    def origin(self, key: str) -> Path:
        return self._path


class _TorchFile:
    """A state dict that torch saved; its storages stay in the file and are mapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _tensors_of(path, _loaded(path))
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self._state.items()}
        self.dtypes = {key: tensor.dtype for key, tensor in self._state.items()}
        self.metadata: dict[str, str] = {}

    def tensor(self, key: str) -> Tensor:
        return self._state[key].detach()

    def origin(self, key: str) -> Path:
        return self._path


class _Shards:
    """Several files of weights under one index."""

    def __init__(self, parts: Mapping[str, Weights]) -> None:
        self._parts = parts
        self.shapes = {key: part.shapes[key] for key, part in parts.items()}
        self.dtypes = {key: part.dtypes[key] for key, part in parts.items()}
        self.metadata: dict[str, str] = {}

    def tensor(self, key: str) -> Tensor:
        return self._parts[key].tensor(key)

    def origin(self, key: str) -> Path:
        return self._parts[key].origin(key)


@dataclass(frozen=True)
class _Index:
    path: Path

    def files(self) -> dict[str, Path]:
        """The file of every key."""
        try:
            places = json.loads(self.path.read_text())["weight_map"]
            files = {str(key): str(file) for key, file in places.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataFileError(self.path, f"is no index of files of weights: {error}") from error
        if outside := sorted({file for file in files.values() if Path(file).name != file}):
            raise DataFileError(self.path, f"names files outside its folder: {named(outside)}")
        return {key: self.path.parent / file for key, file in files.items()}


def open_weights(path: Path) -> Weights:
    """The tensors of a file, or of all files that an `….index.json` names.

    Raises:
        ForbiddenPickle: if the file asks for anything but tensors and plain containers; names it.
        DataFileError: if it is missing, damaged, or holds anything but tensors.
    """
    if path.name.endswith(".index.json"):
        return _open_index(_Index(path))
    if not path.is_file():
        raise DataFileError(path, "there is no such file")
    if path.suffix in SAFETENSORS:
        return _Safetensors(path)
    if path.suffix in TORCH:
        return _TorchFile(path)
    raise DataFileError(path, f"is no file of weights: expected one of {', '.join(SAFETENSORS + TORCH)}")


def _open_index(index: _Index) -> Weights:
    files = index.files()
    opened = {file: open_weights(file) for file in sorted(set(files.values()))}
    if missing := sorted(key for key, file in files.items() if key not in opened[file].shapes):
        raise DataFileError(index.path, f"names tensors that its files do not hold: {named(missing)}")
    if unnamed := sorted(key for file in opened for key in opened[file].shapes if files.get(key) != file):
        raise DataFileError(index.path, f"does not name tensors that its files hold: {named(unnamed)}")
    return _Shards({key: opened[file] for key, file in files.items()})


def note_source(weights: Weights, source: Path, account: Account) -> None:
    """Record the digests of the files that these weights come from, under their names in the source."""
    for path in sorted({weights.origin(key) for key in weights.shapes}):
        account.source_digests[name_in(path, source)] = file_digest(path)


def name_in(path: Path, source: Path) -> str:
    """What a file or a part's folder is called in records: its path in the source, or in the base if it comes from there."""
    if not source.is_dir():
        return path.name
    if path.is_relative_to(source):
        return path.relative_to(source).as_posix()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def check_finite(key: str, tensor: Tensor) -> None:
    """Raise InvalidInput unless every value is a number."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InvalidInput(f"{key!r} has non-finite values")


def _loaded(path: Path) -> Any:
    try:
        # files of torch before 1.6 are no archives, and cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        found = _ASKED_FOR.search(str(error))
        if found is None:
            raise DataFileError(path, "is no state dict that torch saved; fetch it again") from error
        raise ForbiddenPickle(
            path, f"asks to load {found[1]}, which weights never need; take a safetensors file of the same weights"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataFileError(path, f"is no readable state dict: {reason}") from error


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise DataFileError(path, f"holds a {type(content).__name__}, expected a state dict")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise DataFileError(path, f"holds more than tensors: {named(others)}")
    if odd := [key for key, value in content.items() if value.layout != torch.strided or value.dtype not in _READ]:
        raise DataFileError(path, f"holds tensors of types that are not read here: {named(odd)}")
    return dict(content)
