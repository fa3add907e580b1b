"""Files of published weights, read without running anything that is in them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fashiondpo.errors import InvalidBundle


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a `.safetensors` file or a torch state dict, by name, on the CPU.

    Raises:
        InvalidBundle: if the file is not there, or holds anything but tensors under names.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _state(path)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise InvalidBundle(f"{path} is no readable file of weights: {_first_line(error)}") from error
    if not isinstance(content, Mapping) or not content:
        raise InvalidBundle(f"{path} holds a {type(content).__name__}; expected tensors under their names")
    if strangers := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise InvalidBundle(f"{path} holds more than tensors: {', '.join(strangers[:3])}")
    if broken := [str(name) for name, value in content.items() if not torch.isfinite(value).all()]:
        raise InvalidBundle(f"{path} has values that are not finite: {', '.join(broken[:3])}")
    return {str(name): value for name, value in content.items()}


def file_id(path: Path) -> str:
    """Names a file's content: the first characters of its SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _state(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
