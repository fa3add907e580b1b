"""Recorded traffic: candidate sets that people asked for, on their way to the judges and on to a round.

Only names travel here; the sets themselves are in the feedback store. A set is handed to one consumer at a time, and
stays that consumer's until it acknowledges the set, gives it back, or is silent for too long.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from typing import Literal, Protocol, Self

from fashiondpo.contracts import AdapterRef, CandidateSet, Digest, Frozen, Name, content_digest
from fashiondpo.errors import InvalidInput
from fashiondpo.storage.leases import Lease, MemoryLeases
from fashiondpo.storage.records import checked_name, record_to_json

TRAFFIC_ROUND = "traffic"
"""The round under which the feedback store has recorded sets, whichever round learns from them later."""


class Provenance(Frozen):
    """What made a set's candidates. A round learns from sets of one provenance."""

    base_digest: Digest
    adapter: AdapterRef
    sampler_digest: Digest

    @classmethod
    def of(cls, candidate_set: CandidateSet) -> Self:
        """The provenance of a set."""
        return cls(
            base_digest=candidate_set.base_digest,
            adapter=candidate_set.adapter,
            sampler_digest=content_digest(record_to_json(candidate_set.sampler)),
        )


class TrafficEntry(Frozen):
    """A set on its way."""

    set_id: Name
    made_by: Provenance


@dataclass(frozen=True)
class Backlog:
    """How many scored sets of one provenance there are."""

    made_by: Provenance
    waiting: int
    claimed: int


class Traffic(Protocol):
    """The way of recorded sets: added -> claimed to be judged -> scored -> claimed by a round -> acknowledged.

    Every method is safe to repeat when its answer was lost (what was done the first time is not counted again), raises
    InvalidInput for what cannot be a name, and LeaseLost where the store is fenced and its lease is no longer held.
    """

    def add(self, candidate_set: CandidateSet) -> None:
        """Let the judges see the set; nothing happens if it is on its way already."""

    def claim_recorded(self, consumer: str, count: int, *, idle_s: float | None = None) -> tuple[TrafficEntry, ...]:
        """Recorded sets for the consumer to have judged, oldest first.

        Args:
            consumer: who works on them, e.g. a worker's name.
            count: how many it shall hold in all; what it holds already comes first.
            idle_s: take over what another consumer has held for longer than that without claiming again.
        """

    def mark_scored(self, consumer: str, set_ids: Iterable[str]) -> int:
        """Recorded sets that the consumer holds have their scores: rounds may claim them now. Returns how many."""

    def claim_scored(
        self, consumer: str, count: int, made_by: Provenance, *, idle_s: float | None = None
    ) -> tuple[TrafficEntry, ...]:
        """Scored sets of one provenance for the consumer, e.g. a round, to learn from; else as `claim_recorded`."""

    def acknowledge(self, consumer: str, set_ids: Iterable[str]) -> int:
        """What the consumer holds of these is done with, in whichever stage, and is forgotten. Returns how many."""

    def give_back(self, consumer: str) -> int:
        """Everything that the consumer holds may be claimed by others again, after what waits. Returns how many."""

    def pending(self, consumer: str) -> tuple[TrafficEntry, ...]:
        """What the consumer holds, in either stage, oldest first: recorded sets, then scored ones."""

    def waiting(self) -> int:
        """How many recorded sets nobody has claimed yet."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Scored sets by provenance, largest number of waiting sets first."""

    def discard(self, made_by: Provenance) -> int:
        """Forget the scored sets of this provenance that nobody holds, e.g. of a former champion. Returns how many."""


Stage = Literal["recorded", "scored"]


@dataclass(frozen=True)
class _Place:
    entry: TrafficEntry
    stage: Stage
    consumer: str | None = None
    claimed_at: float = 0.0


class MemoryTraffic:
    """Traffic of this process; gone with it.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._places: dict[str, _Place] = {}
        self._guard: Callable[[], AbstractContextManager[None]] = nullcontext

    def fenced(self, leases: MemoryLeases, lease: Lease) -> Self:
        """The same traffic, for a holder: what it changes without the lease is refused with LeaseLost."""
        fenced = copy.copy(self)
        fenced._guard = lambda: leases.guard(lease)
        return fenced

    def add(self, candidate_set: CandidateSet) -> None:
        """Let the judges see the set."""
        set_id = checked_name(candidate_set.set_id)
        entry = TrafficEntry(set_id=set_id, made_by=Provenance.of(candidate_set))
        with self._guard(), self._lock:
            self._places.setdefault(set_id, _Place(entry, "recorded"))

    def claim_recorded(self, consumer: str, count: int, *, idle_s: float | None = None) -> tuple[TrafficEntry, ...]:
        """Recorded sets for the consumer to have judged."""
        return self._claim(consumer, count, lambda place: place.stage == "recorded", idle_s)

    def mark_scored(self, consumer: str, set_ids: Iterable[str]) -> int:
        """Let rounds claim these."""
        with self._guard(), self._lock:
            held = [place for place in self._held(consumer, set_ids) if place.stage == "recorded"]
            for place in held:
                self._move_to_end(place, "scored")
            return len(held)

    def claim_scored(
        self, consumer: str, count: int, made_by: Provenance, *, idle_s: float | None = None
    ) -> tuple[TrafficEntry, ...]:
        """Scored sets of one provenance for the consumer to learn from."""
        return self._claim(
            consumer, count, lambda place: place.stage == "scored" and place.entry.made_by == made_by, idle_s
        )

    def acknowledge(self, consumer: str, set_ids: Iterable[str]) -> int:
        """Forget what is done with."""
        with self._guard(), self._lock:
            held = self._held(consumer, set_ids)
            for place in held:
                del self._places[place.entry.set_id]
            return len(held)

    def give_back(self, consumer: str) -> int:
        """Let others claim what the consumer holds."""
        with self._guard(), self._lock:
            held = self._held(consumer, list(self._places))
            for place in held:
                self._move_to_end(place, place.stage)
            return len(held)

    def pending(self, consumer: str) -> tuple[TrafficEntry, ...]:
        """What the consumer holds."""
        with self._lock:
            held = self._held(consumer, list(self._places))
        return tuple(place.entry for place in sorted(held, key=lambda place: place.stage))

    def waiting(self) -> int:
        """How many recorded sets nobody has claimed yet."""
        with self._lock:
            return sum(place.stage == "recorded" and place.consumer is None for place in self._places.values())

    def backlogs(self) -> tuple[Backlog, ...]:
        """Scored sets by provenance."""
        with self._lock:
            scored = [place for place in self._places.values() if place.stage == "scored"]
        total = Counter(place.entry.made_by for place in scored)
        claimed = Counter(place.entry.made_by for place in scored if place.consumer is not None)
        return sorted_backlogs(Backlog(p, total[p] - claimed[p], claimed[p]) for p in total)

    def discard(self, made_by: Provenance) -> int:
        """Forget the scored sets of this provenance that nobody holds."""
        with self._guard(), self._lock:
            unheld = [
                set_id
                for set_id, place in self._places.items()
                if place.stage == "scored" and place.consumer is None and place.entry.made_by == made_by
            ]
            for set_id in unheld:
                del self._places[set_id]
            return len(unheld)

    def _claim(
        self, consumer: str, count: int, is_wanted: Callable[[_Place], bool], idle_s: float | None
    ) -> tuple[TrafficEntry, ...]:
        checked_claim(consumer, count)
        with self._guard(), self._lock:
            now = self._clock()
            wanted = [place for place in self._places.values() if is_wanted(place)]
            held = [place for place in wanted if place.consumer == consumer]
            idle = [
                place
                for place in wanted
                if place.consumer not in (None, consumer) and idle_s is not None and now - place.claimed_at > idle_s
            ]
            free = [place for place in wanted if place.consumer is None]
            claimed = [replace(p, consumer=consumer, claimed_at=now) for p in (*held, *idle, *free)[:count]]
            self._places.update({place.entry.set_id: place for place in claimed})
            return tuple(place.entry for place in claimed)

    def _move_to_end(self, place: _Place, stage: Stage) -> None:
        del self._places[place.entry.set_id]  # dictionaries keep the order in which keys came in
        self._places[place.entry.set_id] = _Place(place.entry, stage)

    def _held(self, consumer: str, set_ids: Iterable[str]) -> list[_Place]:
        checked_name(consumer)
        places = (self._places.get(checked_name(set_id)) for set_id in dict.fromkeys(set_ids))
        return [place for place in places if place is not None and place.consumer == consumer]


def sorted_backlogs(backlogs: Iterable[Backlog]) -> tuple[Backlog, ...]:
    """Largest number of waiting sets first; ties by provenance, so that the order does not hop about."""
    return tuple(sorted(backlogs, key=lambda backlog: (-backlog.waiting, backlog.made_by.model_dump_json())))


def checked_claim(consumer: str, count: int) -> None:
    """Refuse what cannot be a claim; raises InvalidInput."""
    checked_name(consumer)
    if not 0 <= count <= 100_000:
        raise InvalidInput(f"a consumer may hold up to 100000 sets, got {count}")
