"""What a slice is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from fashiondpo.contracts import RoundRecord, RoundStage
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import Progress

EndKind = Literal["continue", "wait", "succeeded", "failed", "cancelled", "busy", "stale", "lost"]


@dataclass(frozen=True)
class SliceEnd:
    """How a slice ended.

    Attributes:
        kind: continue: there is more to do, at once; wait: something failed and is tried again later; succeeded, failed,
            cancelled: the round is over; busy: somebody else works on it; stale: this slice was done before; lost: the
            lease was lost, somebody else goes on.
        next_slice: number of the slice to put into the queue, if it is to be continued.
    """

    kind: EndKind
    next_slice: int | None = None


@dataclass(frozen=True)
class SliceLimits:
    """How long and how often.

    Attributes:
        slice_s: after so long a slice ends, once it has brought the round forward.
        lease_s: a holder that is silent for longer has lost the round.
        max_attempts: slices that may fail one after the other without progress.
        retry_first_s, retry_longest_s: pause before what failed is tried again, from the first to the longest.
        give_up_after_s: a round fails if what it needs does not answer for so long.
        tell_s: progress is written no more often than that.
        poll_s: whether somebody asked for an end is read no more often than that.
    """

    slice_s: float = 180.0
    lease_s: float = 30.0
    max_attempts: int = 5
    retry_first_s: float = 5.0
    retry_longest_s: float = 300.0
    give_up_after_s: float = 21_600.0
    tell_s: float = 0.5
    poll_s: float = 0.2


class SliceHooks(Protocol):
    """What the work of a slice asks and tells."""

    def should_stop(self) -> bool:
        """Asked at every step; raises LeaseLost if somebody else may work on the round."""

    def progress(self, stage: RoundStage) -> Progress:
        """Whom to tell about a stage."""

    def training_goes_on(self, metrics: Sequence[dict[str, float]]) -> None:
        """A training begins, or goes on; what it has measured so far, some of which nobody may have been told."""

    def stage_finished(self, record: RoundRecord) -> None:
        """A stage is done and its record stored."""


Work = Callable[[RoundRecord], RoundRecord]
OpenWork = Callable[[RoundJob, Stores, Lease, SliceHooks], AbstractContextManager[Work]]
"""Gives what brings a record to its end, given the round, its fenced stores, the lease and the hooks."""
