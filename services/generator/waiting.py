"""Callers wait for generations: for the result, or event by event; whoever hangs up wants it no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from fashiondpo.messages import Generation
from fashiondpo.serving.idempotency import json_response
from fashiondpo.serving.problems import error_response, problem_response
from services.generator.event_stream import EventStream, RecordedEvents, Watch
from services.generator.generation import ENDED, LiveGeneration
from services.generator.opened import OpenedGenerator

_LOOK_AGAIN_S = 0.2
_STOPPED_WITHIN_S = 10.0
_CLIENT_GONE = 499

Begin = Callable[[], LiveGeneration | Generation]


@dataclass(frozen=True)
class Exchange:
    """One request that waits."""

    generator: OpenedGenerator
    request: Request

    async def result(self, found: LiveGeneration | Generation, begin: Begin) -> Response:
        """The whole generation as an answer, when it has ended.

        Args:
            found: where it is.
            begin: asks for it again; another replica that paints it may die.
        """
        gone = asyncio.create_task(self._gone())
        try:
            while not isinstance(found, LiveGeneration):
                if found.status in ENDED:
                    return json_response(found) if found.problem is None else problem_response(found.problem)
                await asyncio.wait({gone}, timeout=_LOOK_AGAIN_S)
                if gone.done():
                    return Response(status_code=_CLIENT_GONE)
                found = await run_in_threadpool(begin)
            return await self._live_result(found, gone)
        finally:
            gone.cancel()

    async def _live_result(self, live: LiveGeneration, gone: asyncio.Task[None]) -> Response:
        live.attach()
        try:
            with Watch(live, to_steps=False) as watch:
                ended = asyncio.create_task(watch.ended())
                try:
                    await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    ended.cancel()
        finally:
            self._leave(live)
        if not live.is_ended:
            return Response(status_code=_CLIENT_GONE)
        if live.error is not None:
            return error_response(live.error, self.request.scope.get("request_id"))
        return json_response(live.view())

    def events(self, found: LiveGeneration | Generation, *, is_wanted: bool) -> Response:
        """What happens to the generation, as events.

        Args:
            found: where it is.
            is_wanted: whether this caller's hanging up stops it, if nobody else waits.
        """
        settings = self.generator.settings
        if not isinstance(found, LiveGeneration):
            find = self.generator.generations.find
            return _Events(aiter(RecordedEvents(found, find, settings.keepalive_s)), lambda: None)
        stream = EventStream(found, settings.previews_px, settings.keepalive_s)
        if not is_wanted:
            return _Events(aiter(stream), lambda: None)
        found.attach()
        return _Events(aiter(stream), lambda: self._leave(found))

    async def stopped(self, found: LiveGeneration | Generation) -> None:
        """Wait until it has ended, which a generation that was told to stop does soon."""
        if isinstance(found, LiveGeneration):
            with Watch(found, to_steps=False) as watch, suppress(TimeoutError):
                await asyncio.wait_for(watch.ended(), _STOPPED_WITHIN_S)

    def _leave(self, live: LiveGeneration) -> None:
        if live.detach():
            self.generator.generations.stop(live)

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


class _Events(EventSourceResponse):
    """Does something when the stream is over, however it came to that."""

    def __init__(self, content: AsyncIterator[bytes], at_end: Callable[[], None]) -> None:
        # proxies shall neither keep nor collect it
        super().__init__(content, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_end()
