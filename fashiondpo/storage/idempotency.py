"""Idempotency keys: a request that is repeated, because its answer was lost, is answered again and not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Literal, Protocol
from uuid import uuid4

from pydantic import Field

from fashiondpo.contracts import Frozen
from fashiondpo.errors import Conflict
from fashiondpo.storage.leases import checked_ttl

RUNNING_S = 600.0
"""A request that has not been answered after so many seconds counts as lost: a repetition is done then."""


@dataclass(frozen=True)
class New:
    """Nobody has sent this key: do what is asked, then `finish` or `forget` it.

    Attributes:
        key, fingerprint: as they were given.
        claim: tells this attempt from a later one that took over because this one took too long.
        ttl_s: how long the answer will be kept.
    """

    key: str
    fingerprint: str
    claim: str
    ttl_s: float


@dataclass(frozen=True)
class Running:
    """The same request is being worked on."""


class Done(Frozen):
    """The same request was answered: answer it like this again."""

    schema_version: Literal[1] = 1
    status: int = Field(ge=100, le=599)
    body: str
    headers: dict[str, str] = {}


class Idempotency(Protocol):
    """What became of requests, by the key that the client made up for each."""

    def begin(self, key: str, fingerprint: str, ttl_s: float) -> New | Running | Done:
        """Claim a key, or learn what became of it.

        Args:
            key: the client's, together with whatever keeps clients and endpoints apart.
            fingerprint: a digest of what is asked.
            ttl_s: how long the answer shall be kept.

        Raises:
            Conflict: if the key was used for something else.
        """

    def finish(self, new: New, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep the answer; the first one that is kept counts."""

    def forget(self, new: New) -> None:
        """The request came to nothing and may be tried again under this key; an answer that is kept stays."""


@dataclass(frozen=True)
class _Kept:
    fingerprint: str
    claim: str
    until: float
    answer: Done | None = None


class MemoryIdempotency:
    """Keys of this process; gone with it.

    Args:
        running_s: a claim that is not finished by then may be taken over.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, *, running_s: float = RUNNING_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._running_s, self._clock = running_s, clock
        self._lock = Lock()
        self._kept: dict[str, _Kept] = {}

    def begin(self, key: str, fingerprint: str, ttl_s: float) -> New | Running | Done:
        """Claim a key, or learn what became of it."""
        new = New(key, fingerprint, uuid4().hex, checked_ttl(ttl_s))
        with self._lock:
            self._expire()
            kept = self._kept.get(key)
            if kept is None:
                self._kept[key] = _Kept(fingerprint, new.claim, self._clock() + self._running_s)
                return new
            if kept.fingerprint != fingerprint:
                raise other_request()
            return kept.answer or Running()

    def finish(self, new: New, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep the answer."""
        answer = Done(status=status, body=body, headers=dict(headers or {}))
        with self._lock:
            self._expire()
            kept = self._kept.get(new.key)
            if kept is None or (kept.fingerprint == new.fingerprint and kept.answer is None):
                self._kept[new.key] = _Kept(new.fingerprint, new.claim, self._clock() + new.ttl_s, answer)

    def forget(self, new: New) -> None:
        """Let the request be tried again."""
        with self._lock:
            kept = self._kept.get(new.key)
            if kept is not None and kept.claim == new.claim and kept.answer is None:
                del self._kept[new.key]

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, kept in self._kept.items() if kept.until <= now]:
            del self._kept[key]


def other_request() -> Conflict:
    """What is raised when a key was used for something else."""
    return Conflict("this Idempotency-Key was used for another request; use a new key for a new request")
