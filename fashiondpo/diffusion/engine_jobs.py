"""Whose turn it is: requests in work, cut into outfits, in an order that lets nobody wait for long."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from fashiondpo.contracts import AdapterRef
from fashiondpo.diffusion.engine_requests import OutfitTask, PaintObserver, PaintRequest
from fashiondpo.diffusion.engine_rows import OutfitRun, SlotRun, StepPlan
from fashiondpo.diffusion.sampling import needed_branches


@dataclass(eq=False)
class Painting:
    """A request in work.

    Attributes:
        request, observer: what is asked, and who is told.
        plan: steps of its runs.
        ref: the adapter it is painted with to the end; None until it begins, unless the request names one.
        pinned: the version that is kept known for it.
        submitted_at: on the monotonic clock.
        sets_left: sets that are not finished.
        is_cancelled: somebody wants it to end.
        is_over: its observer has heard the last of it.
        has_begun, has_stepped: whether its observer knows that it began; whether a step was done.
    """

    request: PaintRequest
    observer: PaintObserver
    plan: StepPlan
    ref: AdapterRef | None
    pinned: int | None
    submitted_at: float = field(default_factory=time.monotonic)
    sets_left: int = 0
    is_cancelled: bool = False
    is_over: bool = False
    has_begun: bool = False
    has_stepped: bool = False

    def __post_init__(self) -> None:
        self.sets_left = sum(len(outfit.set_ids) for outfit in self.request.outfits)

    @cached_property
    def branches(self) -> tuple[int, ...]:
        """The guidance branches that its forwards compute; only requests with the same ones share a forward."""
        return needed_branches(self.request.settings.guidance)

    @property
    def is_overdue(self) -> bool:
        """Whether its deadline has passed."""
        limit = self.request.deadline_s
        return limit is not None and time.monotonic() - self.submitted_at >= limit

    @property
    def num_rows(self) -> int:
        """Pictures to paint in all."""
        return self.request.num_rows


@dataclass(eq=False)
class Job:
    """One outfit of a painting; `run` is None until it begins."""

    painting: Painting
    task: OutfitTask
    finish: float
    number: int
    run: OutfitRun | None = None

    @property
    def slots(self) -> tuple[SlotRun, ...]:
        """Its slots, once it has begun."""
        return () if self.run is None else self.run.slots

    @property
    def work_left(self) -> int:
        """Rows times steps that are still to be done."""
        if self.run is None:
            return self.task.num_rows * len(self.painting.plan)
        return sum(len(self.painting.plan) - row.step for slot in self.slots for row in slot.rows)


class FairQueue:
    """Outfits in the order in which they would be finished if every request had an equal share of the engine.

    This is weighted fair queueing. A virtual clock moves by the work that is done, divided by the number of requests
    among which it is shared. An outfit's place in the order is the clock's time when its request came, plus the work of
    the request up to and including this outfit; it never changes. So an outfit overtakes those that came earlier only
    if it is so much smaller, equal requests are served as they came, and a request of one outfit goes before the later
    outfits of a request of many, which in turn are overtaken less and less as the clock moves on.
    """

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._shares: dict[Painting, int] = {}
        self._clock, self._next = 0.0, 0

    def __iter__(self) -> Iterator[Job]:
        """Every outfit that is not finished; the queue may change meanwhile."""
        return iter(tuple(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def paintings(self) -> tuple[Painting, ...]:
        """Every request in work."""
        return tuple(self._shares)

    def enter(self, painting: Painting) -> None:
        """Queue every outfit of a request."""
        finish = self._clock
        for task in painting.request.outfits:
            finish += task.num_rows * len(painting.plan)
            insort(self._jobs, Job(painting, task, finish, self._next), key=lambda job: (job.finish, job.number))
            self._next += 1
        self._shares[painting] = len(painting.request.outfits)

    def remove(self, job: Job) -> None:
        """An outfit is finished."""
        self._jobs.remove(job)
        self._shares[job.painting] -= 1
        if self._shares[job.painting] == 0:
            del self._shares[job.painting]

    def leave(self, painting: Painting) -> list[Job]:
        """Take everything of a request out; returns what was not finished."""
        left = [job for job in self._jobs if job.painting is painting]
        self._jobs = [job for job in self._jobs if job.painting is not painting]
        self._shares.pop(painting, None)
        return left

    def worked(self, row_steps: int) -> None:
        """Move the clock by the work of a forward."""
        self._clock += row_steps / max(len(self._shares), 1)
