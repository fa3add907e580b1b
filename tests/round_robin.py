"""A reverse proxy that sends every request to the next of several servers, as load balancers do, and says to which."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from threading import Thread
from types import TracebackType
from typing import Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.polling import eventually

SERVED_BY = "X-Served-By"
_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class RoundRobin:
    """One address for several servers; a context manager. It looks after nobody: a server that is dead has its turn too.

    Args:
        servers: base addresses.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self.servers = list(servers)
        self._turns = itertools.count()
        routes = [Route("/{path:path}", self._forward, methods=["GET", "POST", "DELETE", "PUT", "PATCH"])]
        app = Starlette(routes=routes, lifespan=self._lifespan)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run, name="round-robin", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started, within_s=30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=120) as self._client:
            yield

    async def _forward(self, request: Request) -> Response:
        turn = next(self._turns) % len(self.servers)
        kept = {name: value for name, value in request.headers.items() if name not in _OF_ONE_CONNECTION}
        url = self.servers[turn] + request.url.path
        asked = self._client.build_request(request.method, url, headers=kept, content=await request.body())
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx.TransportError as error:
            return JSONResponse({"detail": repr(error)}, 502, {SERVED_BY: str(turn)})
        given = {name: value for name, value in answer.headers.items() if name not in _OF_ONE_CONNECTION}
        return StreamingResponse(_body(answer), answer.status_code, given | {SERVED_BY: str(turn)})


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()
