"""The two runners of calls: one waits, one awaits. Everything else they share.

    ServiceClient(url, key=None, *, timeout_s=60, retries=Retries(), transport=None)         with …: / close()
    AsyncServiceClient(url, key=None, *, timeout_s=60, retries=Retries(), transport=None)    async with …: / await close()

Both have `run(call)`, `stream(events)` and `readiness()`. They raise the error tree of `fashiondpo.errors`: what a
service reported comes back as the class with that code, a service that is not there is Unavailable, one that took
longer than `timeout_s` is DeadlineExceeded (an Unavailable too). Busy and absent services are asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from tenacity import AsyncRetrying, Retrying

from fashiondpo.clients.calls import REQUEST_ID, Call, EventStream, Reply, new_request_id, record
from fashiondpo.clients.retries import EventSession, Retries, TryAgain, failed, is_worth_repeating, meaning, tell
from fashiondpo.errors import InvalidInput, Unavailable
from fashiondpo.messages import Readiness
from fashiondpo.telemetry import log

T = TypeVar("T")

LARGEST_ANSWER = 2**30
"""Bytes; whatever is larger is no answer of ours, and must not fill the memory."""


class _Service:
    """One service's address, as both runners know it."""

    def __init__(self, url: str, *, timeout_s: float, retries: Retries) -> None:
        try:
            self._url = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{url!r} is no address of a service: {error}") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise InvalidInput(f"{url!r} is no address of a service: expected http://host:port or https://…")
        self.url, self.timeout_s, self.retries = str(self._url).rstrip("/"), timeout_s, retries

    def _settings(self, key: str | None) -> dict[str, Any]:
        headers = {"User-Agent": f"fashiondpo/{version('fashiondpo')}", "Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        timeout = httpx.Timeout(self.timeout_s, connect=min(5.0, self.timeout_s))
        return {"base_url": self._url, "headers": headers, "timeout": timeout, "follow_redirects": False}

    def _retrying(self) -> dict[str, Any]:
        return {
            "stop": self.retries.stop,
            "wait": self.retries.wait,
            "retry": is_worth_repeating,
            "before_sleep": tell,
            "reraise": True,
        }

    def _request(self, call: Call[Any], request_id: str) -> dict[str, Any]:
        return {
            "method": call.method,
            "url": call.path.lstrip("/"),
            "params": dict(call.params),
            "headers": {REQUEST_ID: request_id, **call.headers},
            "content": call.content,
        }

    def _source(self, call: Call[Any]) -> str:
        return f"{call.name} at {self.url}"

    def _too_large(self, call: Call[Any]) -> Unavailable:
        return Unavailable(f"{self._source(call)}: the answer has more than {LARGEST_ANSWER} bytes")


def _reply(response: httpx.Response, content: bytes) -> Reply:
    return Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, content)


_READINESS = Call("GET", "/readyz", record(Readiness), accepted=frozenset({503}))


class ServiceClient(_Service):
    """Calls a service and waits for its answers. Several threads may share it."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),  # noqa: B008 — frozen
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Name the service; nothing is opened yet.

        Args:
            url: its address, with a path if it lies below one.
            key: API key, if the service wants one.
            timeout_s: how long an answer may take, and how long a stream of events may be silent.
            retries: patience.
            transport: carries the requests; the network unless given.

        Raises:
            InvalidInput: if the address is none.
        """
        super().__init__(url, timeout_s=timeout_s, retries=retries)
        self._client = httpx.Client(**self._settings(key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def readiness(self) -> Readiness:
        """Whether the service can work, and what it lacks; raises Unavailable if it does not answer at all."""
        return self.run(_READINESS)

    def run(self, call: Call[T]) -> T:
        """Make a call, again if need be; raises the error that the service reports, or Unavailable."""
        request_id = new_request_id()
        try:
            answer: T = Retrying(**self._retrying())(self._once, call, request_id)
            return answer
        except TryAgain as again:
            raise again.error from again

    def stream(self, stream: EventStream[T]) -> Generator[T]:
        """Read a stream of events; one that breaks and can be taken up again is."""
        session, request_id = EventSession(stream, self.retries, self._source), new_request_id()
        while not session.is_over:
            try:
                yield from self._read(session, request_id)
            except TryAgain as again:
                pause_s = session.pause_s(again)
                log().info("event stream is opened again", pause_s=round(pause_s, 2), problem=str(again)[:300])
                time.sleep(pause_s)

    def _once(self, call: Call[T], request_id: str) -> T:
        limit = time.monotonic() + self.timeout_s
        content = bytearray()
        try:
            with self._client.stream(**self._request(call, request_id)) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > limit:
                        raise httpx.ReadTimeout("the answer never ends")
                    if len(content) > LARGEST_ANSWER:
                        raise self._too_large(call)
        except httpx.HTTPError as error:
            raise failed(call, error, self._source(call), self.timeout_s) from error
        return meaning(call, _reply(response, bytes(content)), self._source(call))

    def _read(self, session: EventSession[T], request_id: str) -> Generator[T]:
        call = session.opening()
        try:
            with self._client.stream(**self._request(call, request_id)) as response:
                if response.status_code != httpx.codes.OK:
                    meaning(call, _reply(response, response.read()), self._source(call))
                for piece in response.iter_bytes():
                    yield from session.feed(piece)
                    if session.is_over:
                        return
        except httpx.HTTPError as error:
            raise failed(call, error, self._source(call), self.timeout_s) from error
        session.ended()


class AsyncServiceClient(_Service):
    """Calls a service and awaits its answers."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: Retries = Retries(),  # noqa: B008 — frozen
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Name the service; arguments as for `ServiceClient`."""
        super().__init__(url, timeout_s=timeout_s, retries=retries)
        self._client = httpx.AsyncClient(**self._settings(key), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def readiness(self) -> Readiness:
        """Whether the service can work, and what it lacks; raises Unavailable if it does not answer at all."""
        return await self.run(_READINESS)

    async def run(self, call: Call[T]) -> T:
        """Make a call, again if need be; raises the error that the service reports, or Unavailable."""
        request_id = new_request_id()
        try:
            return await AsyncRetrying(**self._retrying())(self._once, call, request_id)
        except TryAgain as again:
            raise again.error from again

    async def stream(self, stream: EventStream[T]) -> AsyncGenerator[T]:
        """Read a stream of events; one that breaks and can be taken up again is."""
        session, request_id = EventSession(stream, self.retries, self._source), new_request_id()
        while not session.is_over:
            try:
                async for said in self._read(session, request_id):
                    yield said
            except TryAgain as again:
                pause_s = session.pause_s(again)
                log().info("event stream is opened again", pause_s=round(pause_s, 2), problem=str(again)[:300])
                await asyncio.sleep(pause_s)

    async def _once(self, call: Call[T], request_id: str) -> T:
        content = bytearray()
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                self._client.stream(**self._request(call, request_id)) as response,
            ):
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > LARGEST_ANSWER:
                        raise self._too_large(call)
        except TimeoutError as error:
            timeout = httpx.ReadTimeout("the answer never ends")
            raise failed(call, timeout, self._source(call), self.timeout_s) from error
        except httpx.HTTPError as error:
            raise failed(call, error, self._source(call), self.timeout_s) from error
        return meaning(call, _reply(response, bytes(content)), self._source(call))

    async def _read(self, session: EventSession[T], request_id: str) -> AsyncGenerator[T]:
        call = session.opening()
        try:
            async with self._client.stream(**self._request(call, request_id)) as response:
                if response.status_code != httpx.codes.OK:
                    meaning(call, _reply(response, await response.aread()), self._source(call))
                async for piece in response.aiter_bytes():
                    for said in session.feed(piece):
                        yield said
                    if session.is_over:
                        return
        except httpx.HTTPError as error:
            raise failed(call, error, self._source(call), self.timeout_s) from error
        session.ended()
