"""A judge's model on disk: `config.json` and `model.safetensors`, in half precision where nothing is lost by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fashiondpo.errors import InvalidBundle

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def round_to_half(module: nn.Module) -> None:
    """Round every weight, in place, to the nearest value that half precision holds.

    What is trained on top of the module then sees the very values that `save_weights` stores.
    """
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors: in half precision if they survive it unchanged, else as they are."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
    half = {name: state[name].half() for name in floating}
    if all(torch.equal(half[name].to(state[name].dtype), state[name]) for name in floating):
        state |= half
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def save_module(folder: Path, module: nn.Module, config: Mapping[str, object]) -> None:
    """Write a module's weights and the configuration that rebuilds it."""
    save_weights(folder / WEIGHTS_FILE, module.state_dict())
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def read_config(folder: Path) -> dict[str, object]:
    """The configuration in a folder.

    Raises:
        InvalidBundle: if it is missing or is no JSON object.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidBundle(f"{path} is not a readable configuration: {error}") from error
    if not isinstance(config, dict):
        raise InvalidBundle(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


def load_into(module: nn.Module, folder: Path) -> None:
    """Load a folder's weights into a module of the same shape; every tensor must be there and fit.

    Raises:
        InvalidBundle: if the file is missing or unreadable, or its tensors are others than the module's.
    """
    path = folder / WEIGHTS_FILE
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InvalidBundle(f"{path} does not hold this model's weights: {error}") from error


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values (as float32), in hexadecimal; the same in memory and after a reload."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        values = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()
