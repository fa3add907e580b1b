"""Training state on disk: weights, optimiser and position in one file that is either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fashiondpo.diffusion.trajectory import safetensors_metadata
from fashiondpo.errors import Conflict, DataFileError, InvalidInput


@dataclass(frozen=True)
class Checkpoint:
    """State after `updates` optimiser updates of the run that `fingerprint` names.

    Attributes:
        parameters: the adapter's weights.
        optimizer: per parameter, what the optimiser remembers of it; a count may be a whole number.
        average: moving average of the weights, if one is kept.
        scaler: what scales float16's losses, if something does.
    """

    updates: int
    fingerprint: str
    parameters: tuple[Tensor, ...]
    optimizer: tuple[dict[str, Tensor], ...]
    average: tuple[Tensor, ...] = ()
    scaler: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        parameters: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        updates: int,
        fingerprint: str,
        *,
        average: Sequence[Tensor] = (),
        scaler: Mapping[str, float] | None = None,
    ) -> Checkpoint:
        """A copy of the state in memory."""
        return cls(
            updates,
            fingerprint,
            tuple(p.detach().cpu().clone() for p in parameters),
            tuple({name: _tensor(value) for name, value in optimizer.state[p].items()} for p in parameters),
            tuple(value.detach().cpu().clone() for value in average),
            dict(scaler or {}),
        )

    def restore(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Put the state back, bit by bit."""
        with torch.no_grad():
            for parameter, saved in zip(parameters, self.parameters, strict=True):
                parameter.copy_(saved)
        for parameter, state in zip(parameters, self.optimizer, strict=True):
            optimizer.state[parameter] = {
                name: _step(value) if name == "step" else value.to(parameter.device, copy=True)
                for name, value in state.items()
            }


def _tensor(value: Tensor | int) -> Tensor:
    return value.cpu().clone() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64)


def _step(value: Tensor) -> Tensor | int:
    """AdamW counts its steps in a tensor of float32, the 8-bit one in a number."""
    return value.clone() if value.is_floating_point() else int(value)


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write beside the old one, then take its place; a crash leaves one or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(_to_bytes(checkpoint))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _to_bytes(checkpoint: Checkpoint) -> bytes:
    tensors = {f"parameter.{i}": tensor.contiguous() for i, tensor in enumerate(checkpoint.parameters)}
    for i, state in enumerate(checkpoint.optimizer):
        tensors |= {f"optimizer.{i}.{name}": value.contiguous() for name, value in state.items()}
    tensors |= {f"average.{i}": tensor.contiguous() for i, tensor in enumerate(checkpoint.average)}
    described: dict[str, object] = {"updates": checkpoint.updates, "fingerprint": checkpoint.fingerprint}
    if checkpoint.scaler:
        described["scaler"] = dict(checkpoint.scaler)
    return save(tensors, {"state": json.dumps(described)})


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of this run; None if there is none yet.

    Raises:
        DataFileError: if the file is damaged.
        Conflict: if it belongs to a run with other data or settings.
    """
    return read_checkpoint(path.read_bytes(), fingerprint, path) if path.exists() else None


def read_checkpoint(content: bytes, fingerprint: str, path: Path) -> Checkpoint:
    """The checkpoint that is in these bytes of a file; raises as `load_checkpoint`."""
    try:
        state = json.loads(safetensors_metadata(content)["state"])
        updates, found = int(state["updates"]), str(state["fingerprint"])
        scaler = {str(name): float(value) for name, value in state.get("scaler", {}).items()}
        tensors = load(content)
    except (InvalidInput, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataFileError(path, f"the checkpoint is damaged ({error}); delete it to start over") from error
    if found != fingerprint:
        raise Conflict(f"{path} belongs to a run with other data or settings; choose another folder or delete it")
    count = sum(name.startswith("parameter.") for name in tensors)
    return Checkpoint(
        updates,
        fingerprint,
        tuple(tensors[f"parameter.{i}"] for i in range(count)),
        tuple(
            {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            for start in (f"optimizer.{i}." for i in range(count))
        ),
        tuple(tensors[f"average.{i}"] for i in range(sum(name.startswith("average.") for name in tensors))),
        scaler,
    )
