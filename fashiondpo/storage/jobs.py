"""Rounds as work to be done: who asked for what, how far it is, what happened; beside the rounds' own records."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from threading import Condition
from typing import Literal, Protocol, Self, get_args

from pydantic import Field, JsonValue, ValidationError

from fashiondpo.contracts import Frozen, Name
from fashiondpo.errors import Conflict, InvalidInput, NotFound
from fashiondpo.messages import Problem, RoundEvent, RoundProgress, RoundState
from fashiondpo.storage.aliases import utc_now
from fashiondpo.storage.leases import Lease, MemoryLeases
from fashiondpo.storage.records import Kind, checked_name, first_problem, json_to_record, record_to_json

EventKind = Literal["state", "stage", "progress", "verdict", "problem"]
KEPT_EVENTS = 1000
"""Events kept per round; the oldest go first."""


class RoundJob(Frozen):
    """One round as work: its request and its state. What the round has made so far says its `RoundRecord`."""

    schema_version: Literal[1] = 1
    round_id: Name
    number: int = Field(0, ge=0, description="Grows with every round; given by `open`.")
    state: RoundState = "queued"
    source: Literal["split", "traffic"]
    request: dict[str, JsonValue] = Field({}, description="What was asked for, as the trainer's API checked it.")
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    enqueued_at: str | None = Field(None, description="When its id was last put into the queue.")
    attempts: int = Field(0, ge=0, description="How often a slice of it failed since it last moved.")
    slice_number: int = Field(
        0, ge=0, description="Of the slice that is due or under way; a task for another is stale."
    )
    is_in_slice: bool = Field(False, description="A worker has begun the slice and not said that it ended.")
    furthest: tuple[int, int] = Field((0, 0), description="How far it ever came: position of the stage, done in it.")
    not_before: str | None = Field(None, description="The next slice waits until then, since the last one failed.")
    unavailable_since: str | None = Field(None, description="Since when something that it needs does not answer.")
    is_cancel_requested: bool = False
    problem: Problem | None = None
    progress: RoundProgress | None = None
    metrics: tuple[dict[str, float], ...] = Field((), description="Figures of the training's updates, newest last.")

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True)
class JobPage:
    """A page of rounds, newest first; `next_cursor` asks for the page after it, None on the last."""

    jobs: tuple[RoundJob, ...]
    next_cursor: str | None


Edit = Callable[[RoundJob], RoundJob]


class RoundJobs(Protocol):
    """The rounds that were asked for, and what happened in them.

    Every method raises InvalidInput for a round id that cannot be a name.
    """

    def open(self, job: RoundJob) -> RoundJob:
        """Keep a new round and number it; a round that is there already with the same request is returned as it is.

        Raises:
            Conflict: if there is a round of this id that was asked for otherwise.
        """

    def get(self, round_id: str) -> RoundJob:
        """The round's newest state; raises NotFound."""

    def update(self, round_id: str, edit: Edit) -> RoundJob:
        """Change a round: what others change at the same time is not lost.

        Args:
            round_id: which.
            edit: the job as it is -> as it should be. It may be called several times, and must do nothing else.

        Returns:
            The job as it is stored now.

        Raises:
            NotFound: if there is no such round.
            InvalidInput: if the edited job cannot be one, or has another id or number.
            LeaseLost: if this store is fenced and its lease is no longer held.
        """

    def request_cancel(self, round_id: str) -> RoundJob:
        """Ask for the round to stop; a finished round stays as it is. Raises NotFound. Never fenced."""

    def page(self, cursor: str | None = None, limit: int = 50) -> JobPage:
        """Rounds, newest first; raises InvalidInput for a cursor that no page gave, or a limit not in 1…1000."""

    def unfinished(self) -> tuple[RoundJob, ...]:
        """Rounds that are queued or running, oldest first."""

    def append_event(self, round_id: str, kind: EventKind, details: Mapping[str, JsonValue]) -> RoundEvent:
        """Tell the round's readers; the oldest events are forgotten. Raises NotFound; LeaseLost as `update`."""

    def events(self, round_id: str, after_id: str = "0", block_s: float = 0.0) -> tuple[RoundEvent, ...]:
        """What happened after an event, oldest first.

        Args:
            round_id: which; one that is unknown has no events.
            after_id: the last event that was seen, "0" for none.
            block_s: wait so long for one if there is none yet.

        Raises:
            InvalidInput: if after_id is no event's id.
        """

    def remove(self, round_id: str) -> None:
        """Forget a round that has ended, with its events; its number is not given again.

        Nothing happens if there is none.

        Raises:
            InvalidInput: if it has not ended.
            LeaseLost: as `update`.
        """


JOBS = Kind("jobs", RoundJob, lambda job: job.round_id)


class MemoryJobs:
    """Rounds of this process; gone with it.

    Args:
        kept_events: per round.
    """

    def __init__(self, *, kept_events: int = KEPT_EVENTS) -> None:
        self._changed = Condition()
        self._jobs: dict[str, bytes] = {}
        self._events: dict[str, deque[RoundEvent]] = {}
        self._counts: dict[str, int] = {}
        self._numbers = count(1)
        self._kept_events = kept_events
        self._guard: Callable[[], AbstractContextManager[None]] = nullcontext

    def fenced(self, leases: MemoryLeases, lease: Lease) -> Self:
        """The same rounds, for a holder: what it writes without the lease is refused with LeaseLost."""
        fenced = copy.copy(self)
        fenced._guard = lambda: leases.guard(lease)
        return fenced

    def open(self, job: RoundJob) -> RoundJob:
        """Keep a new round and number it."""
        checked_name(job.round_id)
        with self._changed:
            if job.round_id in self._jobs:
                return same_request(self._read(job.round_id), job)
            numbered = job.model_copy(update={"number": next(self._numbers)})
            self._jobs[job.round_id] = record_to_json(numbered)
            return self._read(job.round_id)

    def get(self, round_id: str) -> RoundJob:
        """The round's newest state."""
        return self._read(round_id)

    def update(self, round_id: str, edit: Edit) -> RoundJob:
        """Change a round."""
        with self._guard(), self._changed:
            return self._write(edited(self._read(round_id), edit))

    def request_cancel(self, round_id: str) -> RoundJob:
        """Ask for the round to stop."""
        with self._changed:
            return self._write(cancel_requested(self._read(round_id)))

    def page(self, cursor: str | None = None, limit: int = 50) -> JobPage:
        """Rounds, newest first."""
        before = checked_page(cursor, limit)
        with self._changed:
            newest_first = [self._read(round_id) for round_id in reversed(self._jobs)]
        found = [job for job in newest_first if before is None or job.number < before]
        return page_of(found[: limit + 1], limit)

    def unfinished(self) -> tuple[RoundJob, ...]:
        """Rounds that are queued or running, oldest first."""
        with self._changed:
            return tuple(job for job in map(self._read, self._jobs) if not job.is_finished)

    def append_event(self, round_id: str, kind: EventKind, details: Mapping[str, JsonValue]) -> RoundEvent:
        """Tell the round's readers."""
        with self._guard(), self._changed:
            self._read(round_id)
            place = self._counts[round_id] = self._counts.get(round_id, 0) + 1
            event = make_event(f"{place}-0", utc_now(), kind, details)
            self._events.setdefault(round_id, deque(maxlen=self._kept_events)).append(event)
            self._changed.notify_all()
            return event

    def events(self, round_id: str, after_id: str = "0", block_s: float = 0.0) -> tuple[RoundEvent, ...]:
        """What happened after an event."""
        checked_name(round_id)
        after, deadline = event_place(after_id), time.monotonic() + block_s
        with self._changed:
            while True:
                kept = self._events.get(round_id, ())
                found = tuple(event for event in kept if event_place(event.event_id) > after)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(left)

    def remove(self, round_id: str) -> None:
        """Forget a round that has ended, with its events."""
        with self._guard(), self._changed:
            if checked_name(round_id) in self._jobs:
                checked_end(self._read(round_id))
                for kept in (self._jobs, self._events, self._counts):
                    kept.pop(round_id, None)

    def _read(self, round_id: str) -> RoundJob:
        content = self._jobs.get(checked_name(round_id))
        if content is None:
            raise unknown_round(round_id)
        return JOBS.parsed(content, round_id, f"memory/jobs/{round_id}.json")

    def _write(self, job: RoundJob) -> RoundJob:
        self._jobs[job.round_id] = record_to_json(job)
        return self._read(job.round_id)


def edited(job: RoundJob, edit: Edit) -> RoundJob:
    """The job after the edit, checked; raises InvalidInput if it cannot be one or has become another."""
    changed = edit(job)
    if (changed.round_id, changed.number) != (job.round_id, job.number):
        raise InvalidInput(f"round {job.round_id!r} keeps its id and its number {job.number}")
    try:
        return RoundJob.model_validate(changed.model_dump())
    except ValidationError as error:
        raise InvalidInput(f"the job of round {job.round_id!r}: {first_problem(error)}") from error


def cancel_requested(job: RoundJob) -> RoundJob:
    """The job after somebody asked for it to stop."""
    return job if job.is_finished else job.model_copy(update={"is_cancel_requested": True})


def checked_end(job: RoundJob) -> None:
    """Raises InvalidInput if the round has not ended."""
    if not job.is_finished:
        raise InvalidInput(f"round {job.round_id!r} is {job.state}: have it cancelled before it is removed")


def same_request(stored: RoundJob, asked: RoundJob) -> RoundJob:
    """The stored job, if it is what was asked for; raises Conflict otherwise."""
    as_stored = json_to_record(record_to_json(asked), RoundJob, f"the request of round {asked.round_id}")
    if (stored.source, stored.request) != (as_stored.source, as_stored.request):
        raise Conflict(f"round {stored.round_id!r} is already there with another request; use another round_id")
    return stored


def page_of(jobs: list[RoundJob], limit: int) -> JobPage:
    """A page of at most `limit` jobs, from a list that has one more if there is a page after it."""
    return JobPage(tuple(jobs[:limit]), str(jobs[limit - 1].number) if len(jobs) > limit else None)


def checked_page(cursor: str | None, limit: int) -> int | None:
    """The number before which a page begins; raises InvalidInput for what cannot be a cursor or a limit."""
    if not 1 <= limit <= 1000:
        raise InvalidInput(f"a page holds 1 to 1000 rounds, got {limit}")
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 16):
        raise InvalidInput(f"{cursor!r} is no cursor of a page; pass next_cursor as it was given")
    return int(cursor)


def event_place(event_id: str) -> tuple[int, int]:
    """An event's place in its round; raises InvalidInput for what is no event's id."""
    parts = event_id.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise InvalidInput(f"{event_id!r} is no event's id; pass one as it was given, or '0' for all events")
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else 0


def make_event(event_id: str, at: str, kind: EventKind, details: Mapping[str, JsonValue]) -> RoundEvent:
    """An event; raises InvalidInput for a kind that is not known and for details that JSON cannot hold."""
    if kind not in get_args(EventKind):
        raise InvalidInput(f"{kind!r} is no kind of event; there are {', '.join(get_args(EventKind))}")
    try:
        event = RoundEvent(event_id=event_id, at=at, kind=kind, details=dict(details))
    except ValidationError as error:
        raise InvalidInput(f"an event of kind {kind!r}: {first_problem(error)}") from error
    record_to_json(event)
    return event


def unknown_round(round_id: str) -> NotFound:
    """What is raised where there is no such round."""
    return NotFound(f"there is no round {round_id!r}")
