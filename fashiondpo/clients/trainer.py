"""The trainer's client, waiting and awaiting.

    TrainerClient(url, key=None, *, timeout_s=60, retries=Retries(), transport=None)        AsyncTrainerClient(…)
        .train(request, *, key=None) -> RoundView             starts a round; `request` is a TrainRequest
        .round(round_id) -> RoundView                         .cancel(round_id) -> RoundView
        .rounds(*, cursor=None, limit=None) -> RoundPage      newest first; .all_rounds() -> Generator[RoundView]
        .events(round_id, *, after=None) -> Generator[RoundEvent]     until the round's end, across broken connections
        .feedback(request) -> FeedbackResponse                one person's votes
        .readiness() -> Readiness

`key` is the idempotency key: a round that was started under it is returned instead of a second one. Every call without
one gets a key of its own, which its repetitions share.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

from pydantic import BaseModel

from fashiondpo.clients.calls import Call, EventStream, Reply, delete, get, new_key, post, read_json, record, segment
from fashiondpo.clients.events import ServerEvent
from fashiondpo.clients.http import AsyncServiceClient, ServiceClient
from fashiondpo.clients.problems import error_of_problem
from fashiondpo.messages import (
    FeedbackRequest,
    FeedbackResponse,
    Problem,
    RoundEvent,
    RoundPage,
    RoundState,
    RoundView,
)

ENDED: frozenset[RoundState] = frozenset({"succeeded", "failed", "cancelled"})
"""States after which nothing more happens in a round."""


class TrainerClient(ServiceClient):
    """Starts rounds and watches them."""

    def train(self, request: BaseModel, *, key: str | None = None) -> RoundView:
        """Start a round; raises InvalidInput if it could never be finished."""
        return self.run(train(request, key))

    def round(self, round_id: str) -> RoundView:
        """State, record, progress and metrics of a round; raises NotFound."""
        return self.run(round_(round_id))

    def rounds(self, *, cursor: str | None = None, limit: int | None = None) -> RoundPage:
        """A page of rounds, newest first."""
        return self.run(rounds(cursor, limit))

    def all_rounds(self) -> Generator[RoundView]:
        """Every round, newest first, page by page."""
        page = self.rounds()
        yield from page.rounds
        while page.next_cursor is not None:
            page = self.rounds(cursor=page.next_cursor)
            yield from page.rounds

    def cancel(self, round_id: str) -> RoundView:
        """Have a round stop; what it made is kept."""
        return self.run(cancel(round_id))

    def events(self, round_id: str, *, after: str | None = None) -> Generator[RoundEvent]:
        """What happens in a round, from its beginning or from behind an event, until its end."""
        return self.stream(round_events(round_id, after))

    def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """Give one person's votes on a candidate set; they replace that person's earlier ones."""
        return self.run(feedback(request))


class AsyncTrainerClient(AsyncServiceClient):
    """The same as `TrainerClient`, awaited."""

    async def train(self, request: BaseModel, *, key: str | None = None) -> RoundView:
        """As `TrainerClient.train`."""
        return await self.run(train(request, key))

    async def round(self, round_id: str) -> RoundView:
        """As `TrainerClient.round`."""
        return await self.run(round_(round_id))

    async def rounds(self, *, cursor: str | None = None, limit: int | None = None) -> RoundPage:
        """As `TrainerClient.rounds`."""
        return await self.run(rounds(cursor, limit))

    async def all_rounds(self) -> AsyncGenerator[RoundView]:
        """As `TrainerClient.all_rounds`."""
        cursor: str | None = None
        while True:
            page = await self.rounds(cursor=cursor)
            for view in page.rounds:
                yield view
            if (cursor := page.next_cursor) is None:
                return

    async def cancel(self, round_id: str) -> RoundView:
        """As `TrainerClient.cancel`."""
        return await self.run(cancel(round_id))

    def events(self, round_id: str, *, after: str | None = None) -> AsyncGenerator[RoundEvent]:
        """As `TrainerClient.events`."""
        return self.stream(round_events(round_id, after))

    async def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """As `TrainerClient.feedback`."""
        return await self.run(feedback(request))


def train(request: BaseModel, key: str | None = None) -> Call[RoundView]:
    """The call that starts a round."""
    return post("train", request, record(RoundView), key=key or new_key())


def round_(round_id: str) -> Call[RoundView]:
    """The call for a round."""
    return get(f"rounds/{segment(round_id)}", record(RoundView))


def rounds(cursor: str | None = None, limit: int | None = None) -> Call[RoundPage]:
    """The call for a page of rounds."""
    return get("rounds", record(RoundPage), cursor=cursor, limit=limit)


def cancel(round_id: str) -> Call[RoundView]:
    """The call that has a round stop."""
    return delete(f"rounds/{segment(round_id)}", record(RoundView))


def round_events(round_id: str, after: str | None = None) -> EventStream[RoundEvent]:
    """The stream of a round's events, from behind one of them."""
    call: Call[None] = get(f"rounds/{segment(round_id)}/events", _nothing)
    if after is not None:
        call = Call(call.method, call.path, call.read, headers={"Last-Event-ID": after})
    return EventStream(call, _event, _is_end, is_resumable=True)


def feedback(request: FeedbackRequest) -> Call[FeedbackResponse]:
    """The call that gives votes."""
    return post("feedback", request, record(FeedbackResponse), key=new_key())


def _event(event: ServerEvent) -> RoundEvent | None:
    if not event.text:
        return None
    if event.name == "error":
        raise error_of_problem(read_json(Problem, event.text), "the trainer")
    return read_json(RoundEvent, event.text)


def _is_end(event: RoundEvent) -> bool:
    return event.kind == "state" and event.details.get("state") in ENDED


def _nothing(_reply: Reply) -> None:
    """The answer is the events."""
