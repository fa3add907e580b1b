"""Keeps a lease alive while its holder works, and tells it when the lease is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Self

from fashiondpo.errors import LeaseLost, Unavailable
from fashiondpo.storage.leases import Lease, Leases
from fashiondpo.telemetry import log

BEATS_PER_TTL = 3
"""Two renewals may fail before the lease is gone."""


class Heartbeat:
    """Renews a lease from a thread of its own, from `with` to the end of it; then the lease is released.

    A store that does not answer is asked again until the lease must have expired there: from then on somebody else may
    hold it.
    """

    def __init__(
        self, leases: Leases, lease: Lease, *, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`lease` was acquired just now, for `ttl_s` seconds."""
        self.lease = lease
        self._leases, self._ttl_s, self._clock = leases, ttl_s, clock
        self._lost, self._ended = Event(), Event()
        self._renewed_at = clock()
        self._thread = Thread(target=self._run, name=f"heartbeat-{lease.name}", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether somebody else may hold the lease by now."""
        # asked of the clock too: a process that was stopped for a while knows before its thread has run
        return self._lost.is_set() or self._clock() - self._renewed_at > self._ttl_s

    def check(self) -> None:
        """Raise LeaseLost if the lease is lost."""
        if self.is_lost:
            raise LeaseLost(f"the lease of {self.lease.name} was lost; somebody else may work on it now")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._leases.release(self.lease)
        except (LeaseLost, Unavailable) as problem:
            log().warning("lease not released", lease=self.lease.name, reason=str(problem))

    def _run(self) -> None:
        while not self._ended.wait(self._ttl_s / BEATS_PER_TTL):
            asked_at = self._clock()
            try:
                self._leases.renew(self.lease, self._ttl_s)
                self._renewed_at = asked_at
            except LeaseLost:
                self._lost.set()
                return
            except Unavailable as problem:
                log().warning("lease not renewed", lease=self.lease.name, reason=str(problem))
                if self.is_lost:
                    self._lost.set()
                    return
