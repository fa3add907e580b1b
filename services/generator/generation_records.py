"""Records of generations that outlive the process that paints them, so that any replica can answer for them.

An asynchronous generation is recorded before it is accepted, with what is needed to paint it. The replica that paints it
renews its claim; when that replica dies, another one takes the generation over. What has ended is kept for a while.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection
from threading import Lock
from typing import Literal, Protocol

from fashiondpo.contracts import Digest, Frozen
from fashiondpo.errors import NotFound
from fashiondpo.messages import GenerateRequest, Generation, GenerationStatus

REPLACEABLE: frozenset[GenerationStatus] = frozenset({"failed", "cancelled"})
"""A generation that ended like this has no result: whoever asks again under its name gets a new one."""


class GenerationRecord(Frozen):
    """A generation as others see it.

    Attributes:
        owner: name of the API key that asked for it.
        generation: its newest known state.
        request: spelt out, with pictures as references; what is needed to paint it, as long as it has not ended.
        fingerprint: digest of the request as it came in, where an idempotency key names it.
        attempts: how many processes have begun to paint it.
    """

    schema_version: Literal[1] = 1
    owner: str
    generation: Generation
    request: GenerateRequest | None = None
    fingerprint: Digest | None = None
    attempts: int = 1

    @property
    def generation_id(self) -> str:
        """The name under which it is kept."""
        return self.generation.generation_id


class GenerationRecords(Protocol):
    """Where records are kept; every method raises Unavailable if the place does not answer."""

    def accept(self, record: GenerationRecord) -> bool:
        """Keep a generation that is yet to be painted, claimed by the caller; one that failed may be replaced.

        Returns:
            False, and nothing is changed, if there is one of this name that has not failed.
        """

    def renew(self, records: Collection[GenerationRecord]) -> frozenset[str]:
        """Go on claiming these, and say how far they are; returns the ids of those that somebody wants stopped."""

    def finish(self, record: GenerationRecord) -> None:
        """Keep what has ended; nobody need paint it any more."""

    def release(self, generation_ids: Collection[str]) -> None:
        """Give up the claims: somebody else may paint these now."""

    def discard(self, generation_id: str) -> None:
        """Forget a generation; nothing happens if there is none."""

    def get(self, generation_id: str) -> GenerationRecord:
        """The record; raises NotFound if there never was one, or it was forgotten."""

    def ask_to_stop(self, generation_id: str) -> None:
        """Let whoever paints it stop."""

    def take_over(self, limit: int) -> tuple[GenerationRecord, ...]:
        """Claim generations whose claims have run out; each is handed to one taker."""


class MemoryGenerationRecords:
    """Records of this process, with what has ended bounded in number; gone with it."""

    def __init__(self, *, kept: int, claim_s: float) -> None:
        """How many are kept; after how many seconds without renewal a claim runs out."""
        self._kept, self._claim_s = kept, claim_s
        self._lock = Lock()
        self._records: OrderedDict[str, GenerationRecord] = OrderedDict()
        self._claims: dict[str, float] = {}
        self._stops: set[str] = set()

    def accept(self, record: GenerationRecord) -> bool:
        """Keep one that is yet to be painted."""
        with self._lock:
            there = self._records.get(record.generation_id)
            if there is not None and there.generation.status not in REPLACEABLE:
                return False
            self._records[record.generation_id] = record
            self._claims[record.generation_id] = time.monotonic() + self._claim_s
            return True

    def renew(self, records: Collection[GenerationRecord]) -> frozenset[str]:
        """Go on claiming these."""
        with self._lock:
            for record in records:
                if record.generation_id in self._claims:
                    self._claims[record.generation_id] = time.monotonic() + self._claim_s
                    self._records[record.generation_id] = record
            return frozenset(record.generation_id for record in records) & self._stops

    def finish(self, record: GenerationRecord) -> None:
        """Keep one that has ended, and forget the oldest."""
        with self._lock:
            self._records[record.generation_id] = record
            self._records.move_to_end(record.generation_id)
            self._claims.pop(record.generation_id, None)
            self._stops.discard(record.generation_id)
            ended = [name for name in self._records if name not in self._claims]
            for name in ended[: max(0, len(ended) - self._kept)]:
                del self._records[name]

    def release(self, generation_ids: Collection[str]) -> None:
        """Give up the claims."""
        with self._lock:
            self._claims.update(dict.fromkeys(self._claims.keys() & set(generation_ids), 0.0))

    def discard(self, generation_id: str) -> None:
        """Forget one."""
        with self._lock:
            self._records.pop(generation_id, None)
            self._claims.pop(generation_id, None)
            self._stops.discard(generation_id)

    def get(self, generation_id: str) -> GenerationRecord:
        """The record; raises NotFound."""
        with self._lock:
            if generation_id not in self._records:
                raise unknown(generation_id)
            return self._records[generation_id]

    def ask_to_stop(self, generation_id: str) -> None:
        """Let whoever paints it stop."""
        with self._lock:
            if generation_id in self._claims:
                self._stops.add(generation_id)

    def take_over(self, limit: int) -> tuple[GenerationRecord, ...]:
        """Claim those whose claims have run out."""
        now = time.monotonic()
        with self._lock:
            silent = [name for name, until in self._claims.items() if until < now][:limit]
            for name in silent:
                self._claims[name] = now + self._claim_s
            return tuple(self._records[name] for name in silent)


def unknown(generation_id: str) -> NotFound:
    """What is raised for an id under which nothing is kept."""
    return NotFound(f"there is no generation {generation_id!r}, or it was forgotten")
