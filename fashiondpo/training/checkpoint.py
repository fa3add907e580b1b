"""Training state on disk: weights, optimiser and position in one file that is either whole or not there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fashiondpo.diffusion.trajectory import safetensors_metadata
from fashiondpo.errors import Conflict, DataFileError, InvalidInput

_STATE_NAMES = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """State after `updates` optimiser updates of the run that `fingerprint` names."""

    updates: int
    fingerprint: str
    parameters: tuple[Tensor, ...]
    optimizer: tuple[dict[str, Tensor], ...]

    @classmethod
    def of(
        cls, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, updates: int, fingerprint: str
    ) -> Checkpoint:
        """A copy of the state in memory."""
        return cls(
            updates,
            fingerprint,
            tuple(p.detach().cpu().clone() for p in parameters),
            tuple({name: optimizer.state[p][name].cpu().clone() for name in optimizer.state[p]} for p in parameters),
        )

    def restore(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Put the state back, bit by bit."""
        with torch.no_grad():
            for parameter, saved in zip(parameters, self.parameters, strict=True):
                parameter.copy_(saved)
        for parameter, state in zip(parameters, self.optimizer, strict=True):
            optimizer.state[parameter] = {
                name: value.clone() if name == "step" else value.to(parameter.device, copy=True)
                for name, value in state.items()
            }


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write beside the old one, then take its place; a crash leaves one or the other."""
    tensors = {f"parameter.{i}": tensor.contiguous() for i, tensor in enumerate(checkpoint.parameters)}
    for i, state in enumerate(checkpoint.optimizer):
        tensors |= {f"optimizer.{i}.{name}": value.contiguous() for name, value in state.items()}
    metadata = {"state": json.dumps({"updates": checkpoint.updates, "fingerprint": checkpoint.fingerprint})}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(save(tensors, metadata))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of this run; None if there is none yet.

    Raises:
        DataFileError: if the file is damaged.
        Conflict: if it belongs to a run with other data or settings.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        state = json.loads(safetensors_metadata(content)["state"])
        updates, found = int(state["updates"]), str(state["fingerprint"])
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
            {name: tensors[key] for name in _STATE_NAMES if (key := f"optimizer.{i}.{name}") in tensors}
            for i in range(count)
        ),
    )
