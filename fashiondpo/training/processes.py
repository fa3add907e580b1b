"""The processes that train one adapter together: who does what, and how they come to the same result.

Each works on its share of the outfits of an update. What they have found is added up on all of them, so that everywhere
the same gradient makes the same step. Whoever trains alone is a group of one, and nothing is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from fashiondpo.errors import TrainingProcessFailed

ANSWER_S = 300.0
"""A process that the others have waited for so long is given up."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number; 0 is the main process, which alone writes.
        count: how many there are.
        device: where tensors lie that are sent.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def share(self, positions: Sequence[int]) -> list[int]:
        """Those that this process works on: every one has exactly one process, and shares differ by one at most."""
        return list(positions[self.rank :: self.count])

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same bits on each of them."""
        if self.count > 1:
            values = values.to(self.device, copy=True)
            dist.all_reduce(values)
        return values

    def any_of(self, wish: bool) -> bool:
        """Whether one of them has this wish; all get the same answer."""
        return wish if self.count == 1 else bool(self.summed(torch.tensor([int(wish)])).item())

    def received(self, content: bytes | None) -> bytes | None:
        """What the main process has, on all of them."""
        if self.count == 1:
            return content
        size = torch.tensor([-1 if content is None else len(content)], device=self.device)
        dist.broadcast(size, 0)
        length = int(size.item())
        if length < 0:
            return None
        if self.is_main and content is not None:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self.device)
        else:
            sent = torch.empty(length, dtype=torch.uint8, device=self.device)
        dist.broadcast(sent, 0)
        return sent.cpu().numpy().tobytes()

    def check_agreement(self, tensors: Sequence[Tensor]) -> None:
        """Make sure that these are the same on all processes, to the last bit.

        Raises:
            TrainingProcessFailed: if they are not: a machine computes wrongly, or runs other versions.
        """
        if self.count == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).to(self.device, torch.int64)
        of_main = mine.clone()
        dist.broadcast(of_main, 0)
        if self.any_of(not torch.equal(mine, of_main)):
            raise TrainingProcessFailed(
                "the processes have come to different weights, though they made the same steps: look for machines with "
                "other versions of the libraries, or faulty memory; the last checkpoint, on which they agreed, is kept"
            )


ALONE = Processes()
"""A training in one process."""


def join_processes(device: str, *, answer_s: float = ANSWER_S) -> Processes:
    """Join those that were launched together with this one, as the launcher's environment says.

    Args:
        device: "cpu", or "cuda": each process of a machine takes one of its devices.
        answer_s: see ANSWER_S.

    Returns:
        ALONE's equal if this process was not launched with others.
    """
    state = PartialState(cpu=device == "cpu", timeout=timedelta(seconds=answer_s))
    chosen = state.device if state.num_processes > 1 else torch.device(device)
    return Processes(int(state.process_index), int(state.num_processes), chosen)


def leave_processes() -> None:
    """Let go of the others; nothing happens to one that is alone."""
    if dist.is_initialized():
        dist.destroy_process_group()
