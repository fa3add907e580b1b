"""Dynamic micro-batching: what several requests ask at the same time goes through the model together.

One worker thread owns the model. It takes what waits, up to a batch; while the model is busy the next batch fills by
itself, so it waits for more only if a request has announced itself whose work is not there yet, and never for long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Generic, TypeVar

from fashiondpo.errors import Overloaded, Unavailable
from fashiondpo.telemetry import log

Work = TypeVar("Work")
Result = TypeVar("Result")

_SMOOTHING = 0.2
_FIRST_RATE = 100.0


@dataclass(eq=False)
class _Request(Generic[Work, Result]):
    """What one caller asked: its parts, and the results as they come; parts are done in order."""

    parts: Sequence[Work]
    future: Future[list[Result]] = field(default_factory=Future)
    taken: int = 0
    results: list[Result] = field(default_factory=list)


class Ticket(Generic[Work, Result]):
    """Room that was made for a request. Its work may come later, or not at all."""

    def __init__(self, batcher: MicroBatcher[Work, Result], size: int) -> None:
        """`size` parts of work were announced."""
        self._batcher, self.size, self.is_used = batcher, size, False

    def submit(self, parts: Sequence[Work]) -> Future[list[Result]]:
        """Have this done; the future has one result per part, in order. At most `size` parts, once."""
        if len(parts) > self.size or self.is_used:
            raise ValueError(f"room was made once, for {self.size} parts of work; got {len(parts)}")
        self.is_used = True
        return self._batcher._submit(parts, self.size)


class MicroBatcher(Generic[Work, Result]):
    """A bounded queue in front of a function that works on batches."""

    def __init__(
        self,
        work: Callable[[Sequence[Work]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait_s: float,
        max_queued: int,
        observe: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        """Compose; `start` begins.

        Args:
            work: one result per part, in order; called on the worker thread only. What it raises goes to all whose
                parts were in the batch.
            max_batch: parts of work in one call.
            max_wait_s: longest wait for announced work to join a batch.
            max_queued: parts of work that may wait or be announced.
            observe: told of every batch's size and seconds.
        """
        self._work, self._observe = work, observe
        self._max_batch, self._max_wait_s, self._max_queued = max_batch, max_wait_s, max_queued
        self._changed = Condition()
        self._waiting: deque[_Request[Work, Result]] = deque()
        self._announced, self._queued = 0, 0
        self._is_closed = False
        self._rate = _FIRST_RATE
        self._thread = Thread(target=self._run, name="micro-batches", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Take nothing new, finish what was submitted, end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def queued(self) -> int:
        """Parts of work that wait or were announced."""
        return self._queued

    @contextmanager
    def room_for(self, size: int) -> Iterator[Ticket[Work, Result]]:
        """Make room before work is prepared, so that what cannot be done soon is refused at once.

        More than `max_queued` parts at once find room only while nothing waits.

        Raises:
            Overloaded: if there is no room; says when there may be.
            Unavailable: if this was closed.
        """
        with self._changed:
            if self._is_closed:
                raise Unavailable("the service ends")
            if self._queued and self._queued + size > self._max_queued:
                raise Overloaded(
                    f"{self._queued} candidates wait to be judged, {self._max_queued} may",
                    retry_after_s=max(1.0, self._queued / self._rate),
                )
            self._queued += size
            self._announced += 1
        ticket = Ticket(self, size)
        try:
            yield ticket
        finally:
            if not ticket.is_used:
                with self._changed:
                    self._queued -= size
                    self._announced -= 1
                    self._changed.notify_all()

    def _submit(self, parts: Sequence[Work], size: int) -> Future[list[Result]]:
        request: _Request[Work, Result] = _Request(parts)
        with self._changed:
            self._announced -= 1
            self._queued -= size - len(parts)
            if parts:
                self._waiting.append(request)
            else:
                request.future.set_result([])
            self._changed.notify_all()
        return request.future

    def _run(self) -> None:
        while not self._is_done():
            batch = self._next_batch()
            if not batch:
                continue
            started = time.perf_counter()
            parts = [part for request, taken in batch for part in taken]
            try:
                results: Sequence[Result] | BaseException = self._work(parts)
                if len(results) != len(parts):  # type: ignore[arg-type]
                    raise RuntimeError(f"{len(parts)} parts of work gave {len(results)} results")  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - it belongs to those who wait; the thread goes on for the others
                results = error
            seconds = time.perf_counter() - started
            self._observe(len(parts), seconds)
            self._deliver(batch, results, seconds)

    def _is_done(self) -> bool:
        with self._changed:
            return self._is_closed and not self._waiting

    def _next_batch(self) -> list[tuple[_Request[Work, Result], Sequence[Work]]]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            until = time.monotonic() + self._max_wait_s
            while self._announced and not self._is_closed and self._size_of_waiting() < self._max_batch:
                if not self._changed.wait(until - time.monotonic()) or time.monotonic() >= until:
                    break
            return self._take()

    def _take(self) -> list[tuple[_Request[Work, Result], Sequence[Work]]]:
        batch, room = [], self._max_batch
        while self._waiting and room:
            request = self._waiting[0]
            if request.taken == 0 and not request.future.set_running_or_notify_cancel():
                self._queued -= len(request.parts)  # nobody waits for it any more
                self._waiting.popleft()
                continue
            taken = request.parts[request.taken : request.taken + room]
            request.taken += len(taken)
            room -= len(taken)
            batch.append((request, taken))
            if request.taken == len(request.parts):
                self._waiting.popleft()
        return batch

    def _size_of_waiting(self) -> int:
        return sum(len(request.parts) - request.taken for request in self._waiting)

    def _deliver(
        self,
        batch: Sequence[tuple[_Request[Work, Result], Sequence[Work]]],
        results: Sequence[Result] | BaseException,
        seconds: float,
    ) -> None:
        done = sum(len(taken) for _, taken in batch)
        with self._changed:
            self._queued -= done
            self._rate += _SMOOTHING * (done / max(seconds, 1e-6) - self._rate)
        if isinstance(results, BaseException):
            log().error("batch_failed", size=done, error=f"{type(results).__name__}: {results}")
        position = 0
        for request, taken in batch:
            if isinstance(results, BaseException):
                self._give_up(request, results)
            else:
                request.results += results[position : position + len(taken)]
                if len(request.results) == len(request.parts):
                    request.future.set_result(request.results)
            position += len(taken)

    def _give_up(self, request: _Request[Work, Result], error: BaseException) -> None:
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)
                self._queued -= len(request.parts) - request.taken
        request.future.set_exception(error)
