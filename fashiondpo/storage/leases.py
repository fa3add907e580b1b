"""Leases: who works on something now. What a holder writes after its lease was lost is refused (a fencing token)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Protocol

from fashiondpo.errors import InvalidInput, LeaseLost
from fashiondpo.storage.records import checked_name


@dataclass(frozen=True)
class Lease:
    """The right to work on something until it expires or is released.

    Attributes:
        name: what it is for, e.g. a round's id.
        holder: who has it; for people to read.
        token: larger than that of every earlier lease of this name, also after it expired or its keeper was restarted.
    """

    name: str
    holder: str
    token: int


class Leases(Protocol):
    """At most one holder per name at any time. A lease that is not renewed in time ends by itself.

    Every method raises InvalidInput for a name that could not be a record's, and for a time that is not positive.
    """

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take the lease; None while anybody holds it, the same holder included.

        Args:
            name: what to work on.
            holder: who asks.
            ttl_s: seconds until it expires unless it is renewed.
        """

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Hold it for `ttl_s` seconds from now; raises LeaseLost if it expired, was released or is another's."""

    def release(self, lease: Lease) -> None:
        """Let others have it; nothing happens if it was released already. Raises LeaseLost as `renew`."""

    def current(self, name: str) -> Lease | None:
        """The lease that is held now; None if nobody holds one."""


class MemoryLeases:
    """Leases among the threads of this process.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = RLock()
        self._tokens: dict[str, int] = {}
        self._held: dict[str, tuple[Lease, float]] = {}
        self._released: dict[str, Lease] = {}

    def acquire(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take the lease, unless somebody holds it."""
        checked_name(name), checked_ttl(ttl_s)
        with self._lock:
            if self.current(name) is not None:
                return None
            token = self._tokens[name] = self._tokens.get(name, 0) + 1
            lease = Lease(name, holder, token)
            self._held[name] = lease, self._clock() + ttl_s
            self._released.pop(name, None)
            return lease

    def renew(self, lease: Lease, ttl_s: float) -> None:
        """Hold it for longer."""
        checked_ttl(ttl_s)
        with self.guard(lease):
            self._held[lease.name] = lease, self._clock() + ttl_s

    def release(self, lease: Lease) -> None:
        """Let others have it."""
        with self._lock:
            if self._released.get(lease.name) == lease:
                return
            with self.guard(lease):
                del self._held[lease.name]
                self._released[lease.name] = lease

    def current(self, name: str) -> Lease | None:
        """The lease that is held now."""
        with self._lock:
            lease, until = self._held.get(checked_name(name), (None, 0.0))
            return lease if self._clock() < until else None

    @contextmanager
    def guard(self, lease: Lease) -> Iterator[None]:
        """Whoever is inside holds the lease and cannot lose it meanwhile; raises LeaseLost instead of entering."""
        with self._lock:
            if self.current(lease.name) != lease:
                raise lost(lease)
            yield


def checked_ttl(ttl_s: float) -> float:
    """The seconds themselves; raises InvalidInput unless they are a positive time of at most a year."""
    if not 0 < ttl_s <= 366 * 86_400:
        raise InvalidInput(f"a time to live is more than 0 seconds and at most a year, got {ttl_s}")
    return ttl_s


def lost(lease: Lease) -> LeaseLost:
    """What is raised when a lease is no longer held."""
    return LeaseLost(
        f"{lease.holder} no longer holds the lease of {lease.name!r} (token {lease.token}); "
        "whoever holds it now goes on from what is stored"
    )
