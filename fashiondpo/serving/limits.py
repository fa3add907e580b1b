"""Rate limits per key, counted in this process or, over all replicas, in Redis."""

from __future__ import annotations

import time
from typing import Self

from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool

from fashiondpo.errors import Overloaded
from fashiondpo.telemetry import log


class RateLimits:
    """Counts requests by name and refuses those beyond the limits. If the counter does not answer, nobody is refused."""

    def __init__(self, rates: tuple[RateLimitItem, ...], limiter: MovingWindowRateLimiter | None) -> None:
        """`rates` hold together; without any, nothing is counted."""
        self._rates, self._limiter = rates, limiter

    @classmethod
    def open(cls, rates: str | None, url: str) -> Self:
        """Limits written as "100/minute" or "20/second;1000/hour", counted at memory:// or redis://….

        Raises:
            ValueError: if the limits are not readable.
        """
        if rates is None:
            return cls((), None)
        storage = storage_from_string(url, wrap_exceptions=True)
        return cls(tuple(parse_many(rates)), MovingWindowRateLimiter(storage))

    async def count(self, name: str) -> None:
        """Count one request of this caller.

        Raises:
            Overloaded: if it is one too many; says after how many seconds to try again.
        """
        if self._limiter is not None:
            await run_in_threadpool(self._count, name)

    def _count(self, name: str) -> None:
        assert self._limiter is not None
        try:
            for rate in self._rates:
                if not self._limiter.hit(rate, name):
                    reset_at = self._limiter.get_window_stats(rate, name).reset_time
                    raise Overloaded(
                        f"{name!r} may ask {rate} and has done so", retry_after_s=max(1.0, reset_at - time.time())
                    )
        except StorageError as error:
            log().warning("rate_limit_not_counted", reason=str(error))
