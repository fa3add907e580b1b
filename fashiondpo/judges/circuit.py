"""A circuit breaker: what has failed many times in a row is left alone for a while, and then tried by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from fashiondpo.errors import Unavailable
from fashiondpo.telemetry import log


class CircuitBreaker:
    """Closed: everybody may try. Open: nobody. After a pause one may, and what comes of that decides. Threads share it."""

    def __init__(
        self, name: str, *, failures: int = 5, pause_s: float = 15.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Closed at first.

        Args:
            name: of what is tried, for messages.
            failures: that many in a row open it.
            pause_s: before one may try again.
            clock: seconds.
        """
        self._name, self._limit, self._pause_s, self._clock = name, failures, pause_s, clock
        self._lock = Lock()
        self._in_a_row = 0
        self._opened_at: float | None = None
        self._is_probed = False
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody but a probe may try."""
        return self._opened_at is not None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Inside, something is tried: it has failed if Unavailable comes out, or something that is no Exception.

        Raises:
            Unavailable: at once, while it is open; with the reason, and when it may be tried again.
        """
        is_probe = self._admitted()
        try:
            yield
        except Unavailable as error:
            self._failed(str(error), is_probe=is_probe)
            raise
        except Exception:
            self._succeeded(is_probe=is_probe)
            raise
        except BaseException as error:
            self._failed(type(error).__name__, is_probe=is_probe)
            raise
        self._succeeded(is_probe=is_probe)

    def _admitted(self) -> bool:
        """Whether this is the probe."""
        with self._lock:
            if self._opened_at is None:
                return False
            left_s = self._opened_at + self._pause_s - self._clock()
            if left_s > 0 or self._is_probed:
                when = f"in {left_s:.0f} s" if left_s > 0 else "right now"
                raise Unavailable(
                    f"{self._name} has failed {self._in_a_row} times in a row and is tried again {when}: {self._reason}"
                )
            self._is_probed = True
            return True

    def _failed(self, reason: str, *, is_probe: bool) -> None:
        with self._lock:
            self._in_a_row, self._reason = self._in_a_row + 1, reason
            if is_probe or (self._opened_at is None and self._in_a_row >= self._limit):
                self._opened_at, self._is_probed = self._clock(), False
                log().warning("model_server_left_alone", name=self._name, failures=self._in_a_row, reason=reason[:300])

    def _succeeded(self, *, is_probe: bool) -> None:
        with self._lock:
            # a late success of a call that began before it opened says nothing of now
            if self._opened_at is not None and not is_probe:
                return
            if self._opened_at is not None:
                log().info("model_server_back", name=self._name)
            self._in_a_row, self._opened_at, self._is_probed, self._reason = 0, None, False, ""
