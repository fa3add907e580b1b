"""When a call is worth repeating, and after how long. Shared by the waiting and the awaiting runner."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx
from tenacity import RetryCallState, retry_if_exception_type, stop_after_attempt, stop_before_delay
from tenacity.stop import stop_base

from fashiondpo.clients.calls import Call, EventStream, Reply
from fashiondpo.clients.events import EventParser, ServerEvent
from fashiondpo.clients.problems import error_of_reply, retry_after_s
from fashiondpo.errors import DeadlineExceeded, FashionDPOError, InvalidInput, Unavailable
from fashiondpo.telemetry import log

T = TypeVar("T")

_TEMPORARY = frozenset({429, 502, 503, 504})
_NOT_BEGUN = frozenset({429, 503})
"""Statuses with which a service refuses a call before it does anything of it."""


@dataclass(frozen=True)
class Retries:
    """How patient a client is with a service that is busy or away.

    Attributes:
        attempts: tries in all.
        first_wait_s, longest_wait_s: the pause doubles from one to the other, and a random part of it is waited; a
            service that names a time with Retry-After is not asked before.
        budget_s: a pause that would end later than this after the first try is not begun.
    """

    attempts: int = 6
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0
    budget_s: float = 90.0

    def pause_s(self, attempt: int, after_s: float | None) -> float:
        """Seconds to wait after the n-th try, counted from 1."""
        ceiling = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 30))
        # jitter: clients that were refused together must not come back together
        jitter = random.uniform(0.5, 1.0) * ceiling
        return jitter if after_s is None else after_s + 0.2 * jitter

    @property
    def stop(self) -> stop_base:
        """For tenacity: when to give up."""
        return stop_after_attempt(self.attempts) | stop_before_delay(self.budget_s)

    def wait(self, state: RetryCallState) -> float:
        """For tenacity: how long to pause."""
        again = state.outcome.exception() if state.outcome is not None else None
        return self.pause_s(state.attempt_number, again.after_s if isinstance(again, TryAgain) else None)


NO_RETRIES = Retries(attempts=1)
"""Ask once."""


class TryAgain(Exception):
    """A try failed in a way that another may not; `error` is what to raise when there is none."""

    def __init__(self, error: FashionDPOError, *, after_s: float | None = None, may_have_begun: bool = True) -> None:
        self.error, self.after_s, self.may_have_begun = error, after_s, may_have_begun
        super().__init__(str(error))


is_worth_repeating = retry_if_exception_type(TryAgain)
"""For tenacity: which failures to repeat."""


def tell(state: RetryCallState) -> None:
    """For tenacity: log why a call is repeated."""
    problem = state.outcome.exception() if state.outcome is not None else None
    pause_s = state.next_action.sleep if state.next_action is not None else 0.0
    log().info("call is repeated", attempt=state.attempt_number, pause_s=round(pause_s, 2), problem=str(problem)[:300])


def meaning(call: Call[T], reply: Reply, source: str) -> T:
    """What an answer says.

    Raises:
        TryAgain: if it says that another try may succeed.
        FashionDPOError: the problem it tells of; Unavailable if it is no answer at all.
    """
    if 200 <= reply.status < 300 or reply.status in call.accepted:
        try:
            return call.read(reply)
        except Unavailable as nonsense:
            raise Unavailable(f"{source}: {nonsense}") from nonsense
    if reply.status < 400:
        raise InvalidInput(f"{source}: answers with a redirection (status {reply.status}); use the address it leads to")
    problem = error_of_reply(reply, source)
    # who was given a deadline has kept it; asking again would begin another
    if reply.status in _TEMPORARY and not isinstance(problem, DeadlineExceeded):
        raise _again(call, problem, retry_after_s(reply), may_have_begun=reply.status not in _NOT_BEGUN)
    raise problem


def failed(call: Call[T], error: httpx.HTTPError, source: str, timeout_s: float) -> Exception:
    """What to raise because of a failure on the way: TryAgain, or an error of ours."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return _again(call, Unavailable(f"{source}: does not answer: {_words(error)}"), may_have_begun=False)
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{source}: gave no answer within {timeout_s:g} s")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return InvalidInput(f"{source}: {_words(error)}")
    if isinstance(error, httpx.TransportError):
        return _again(call, Unavailable(f"{source}: the connection broke: {_words(error)}"), may_have_begun=True)
    return Unavailable(f"{source}: {_words(error)}")


def _again(
    call: Call[T], error: FashionDPOError, after_s: float | None = None, *, may_have_begun: bool
) -> FashionDPOError | TryAgain:
    if may_have_begun and not call.is_repeatable:
        return error
    return TryAgain(error, after_s=after_s, may_have_begun=may_have_begun)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class EventSession(Generic[T]):
    """Where a stream of events stands, whoever carries its bytes."""

    def __init__(self, stream: EventStream[T], retries: Retries, source: Callable[[Call[None]], str]) -> None:
        self.stream, self.retries = stream, retries
        self._source = source(stream.call)
        self._parser = EventParser()
        self._fruitless, self._has_begun = 0, False
        self.is_over = False

    def opening(self) -> Call[None]:
        """What to ask in order to open the stream, or to take it up again."""
        seen = self._parser.last_event_id
        self._parser = EventParser(seen)
        call = self.stream.call
        headers = {**call.headers, "Accept": "text/event-stream"}
        if seen and self.stream.is_resumable:
            headers["Last-Event-ID"] = seen
        return Call(call.method, call.path, call.read, call.params, headers, call.content, call.is_repeatable)

    def feed(self, piece: bytes) -> list[T]:
        """What a piece of the body says; after the last event, nothing."""
        found: list[T] = []
        for event in self._parser.feed(piece):
            if self.is_over:
                break
            if (said := self._meaning(event)) is not None:
                self._fruitless, self._has_begun = 0, True
                self.is_over = self.stream.is_last(said)
                found.append(said)
        return found

    def ended(self) -> None:
        """The body has ended. Raises TryAgain if there should have been more."""
        if not self.is_over:
            raise TryAgain(Unavailable(f"{self._source}: the event stream ended before its last event"))

    def pause_s(self, again: TryAgain) -> float:
        """Seconds after which to open the stream again; raises the failure's error if that would be no use."""
        self._fruitless += 1
        is_lost = self._has_begun and not self.stream.is_resumable
        if is_lost or self._fruitless >= self.retries.attempts:
            raise again.error
        return self.retries.pause_s(self._fruitless, again.after_s)

    def _meaning(self, event: ServerEvent) -> T | None:
        try:
            return self.stream.read(event)
        except Unavailable as error:
            told = Unavailable(f"{self._source}: {error}")
            if self.stream.is_resumable:
                raise TryAgain(told) from error
            raise told from error
