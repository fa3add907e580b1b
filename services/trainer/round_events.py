"""What happens in a round as server-sent events, from wherever a reader has stopped, until the round ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool

from fashiondpo.errors import FashionDPOError
from fashiondpo.messages import RoundEvent, RoundState
from fashiondpo.serving.problems import log_error, problem_of
from fashiondpo.storage.stores import Stores

ENDED: frozenset[RoundState] = frozenset({"succeeded", "failed", "cancelled"})
POLL_S = 0.25
"""So often a reader's stream looks for news. No thread waits for them: there may be many readers."""


@dataclass(frozen=True)
class RoundEvents:
    """Tells one reader.

    Attributes:
        round_id: whose events.
        after: the last event that the reader has seen, "0" for none.
        stores: where events are kept.
        stopping: set when the service ends; so does the stream, and the reader may ask another replica.
        keepalive_s: after so much silence a comment shows that the connection lives.
    """

    round_id: str
    after: str
    stores: Stores
    stopping: asyncio.Event
    keepalive_s: float

    async def __aiter__(self) -> AsyncIterator[bytes]:
        after, told_at = self.after, time.monotonic()
        try:
            while not self.stopping.is_set():
                events = await run_in_threadpool(self._news, after)
                for event in events:
                    yield _written(event)
                    after = event.event_id
                    if event.kind == "state" and event.details.get("state") in ENDED:
                        return
                if events:
                    told_at = time.monotonic()
                    continue
                if time.monotonic() - told_at >= self.keepalive_s:
                    told_at = time.monotonic()
                    yield KEEPALIVE_COMMENT
                await asyncio.sleep(POLL_S)
        except FashionDPOError as error:
            log_error(error)
            yield format_sse_event(event="error", data_str=problem_of(error).model_dump_json())

    def _news(self, after: str) -> tuple[RoundEvent, ...]:
        """Events that came; of a round that has ended and has no more of them, its end."""
        # asked first: an end that comes in between is among the events
        job = self.stores.jobs.get(self.round_id)
        events = self.stores.jobs.events(self.round_id, after)
        if events or not job.is_finished:
            return events
        return (
            RoundEvent(
                event_id=after, at=job.finished_at or job.created_at, kind="state", details={"state": job.state}
            ),
        )


def _written(event: RoundEvent) -> bytes:
    return format_sse_event(event=event.kind, id=event.event_id, data_str=event.model_dump_json())
