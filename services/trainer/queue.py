"""The queue of slices. It carries ids only; what is to be done says the round's record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError

from fashiondpo.errors import Unavailable

ADVANCE, RECONCILE, SCORE_TRAFFIC, START_IF_DUE, REMOVE_OLD = (
    "round.advance",
    "round.reconcile",
    "traffic.score",
    "round.start_if_due",
    "round.remove_old",
)
"""Names of the tasks."""

ROUNDS, UPKEEP = "rounds", "upkeep"
"""Names of the queues: slices of rounds, and the short work beside them."""


class SliceQueue(Protocol):
    """Where slices wait for a worker. One may come twice, or get lost: whoever takes it looks at the record first."""

    def put(self, round_id: str, slice_number: int) -> None:
        """Have a worker do this slice; raises Unavailable."""


@dataclass
class MemoryQueue:
    """Slices of this process, oldest first."""

    slices: list[tuple[str, int]] = field(default_factory=list)

    def put(self, round_id: str, slice_number: int) -> None:
        """Keep the slice."""
        self.slices.append((round_id, slice_number))


@dataclass(frozen=True)
class CeleryQueue:
    """Slices as Celery tasks."""

    app: Celery

    def put(self, round_id: str, slice_number: int) -> None:
        """Send the task."""
        try:
            self.app.send_task(ADVANCE, args=(round_id, slice_number), queue=ROUNDS, retry=False)
        except OperationalError as error:
            raise Unavailable(f"the queue does not answer: {error}") from error
