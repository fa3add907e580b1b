"""What surrounds every request: its id, limits, log line and figures, and an answer where the app has failed."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from uuid import uuid4

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fashiondpo.errors import Overloaded, TooLarge
from fashiondpo.serving.metrics import ServiceMetrics
from fashiondpo.serving.problems import BodyTooLarge, error_response, log_error
from fashiondpo.serving.routes import allowed_methods, route_name
from fashiondpo.serving.settings import ServingSettings
from fashiondpo.telemetry import log, log_context

REQUEST_ID = "X-Request-Id"
PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Always answered, however much there is to do, and not worth a log line."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_CLIENT_GONE = 499
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMiddleware:
    """Outermost of the app's own middleware, so that framework errors pass through it too."""

    def __init__(self, app: ASGIApp, *, settings: ServingSettings, metrics: ServiceMetrics) -> None:
        """`app` is the rest of the stack."""
        self.app, self.settings, self.metrics = app, settings, metrics
        self.in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other ASGI messages pass."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope["request_id"] = request_id = _request_id(headers)
        exchange = _Exchange(scope, receive, send, request_id, int(self.settings.max_body_mb * 2**20))
        self.in_work += 1
        self.metrics.requests_in_work.inc()
        with log_context(request_id=request_id, **_trace_ids(headers)):
            try:
                await self._answer(scope, headers, exchange)
            finally:
                self.in_work -= 1
                self.metrics.requests_in_work.dec()
                self._record(scope, exchange)

    async def _answer(self, scope: Scope, headers: Headers, exchange: _Exchange) -> None:
        try:
            self._check_limits(scope, headers, exchange.limit_bytes)
            if scope["method"] == "OPTIONS":
                await Response(status_code=204, headers={"Allow": allowed_methods(scope)})(
                    scope, exchange.receive_body, exchange.send_answer
                )
            else:
                if scope["method"] == "HEAD":
                    scope["method"] = "GET"
                await self.app(scope, exchange.receive_body, exchange.send_answer)
        except Exception as error:
            log_error(error)
            if exchange.status is not None:
                raise  # the answer is on its way: all that is left is to cut the connection
            response = error_response(error, exchange.request_id)
            if isinstance(error, TooLarge):
                response.headers["Connection"] = "close"  # the rest of the body is not read
            await response(scope, exchange.receive, exchange.send_answer)

    def _check_limits(self, scope: Scope, headers: Headers, limit_bytes: int) -> None:
        if scope["path"] not in PROBES and self.in_work > self.settings.max_requests:
            raise Overloaded(f"{self.settings.max_requests} requests are in work already", retry_after_s=1.0)
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit_bytes:
            raise TooLarge(f"the body has {announced} bytes; the limit is {limit_bytes}")

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        status = exchange.status or _CLIENT_GONE
        route = route_name(scope)
        self.metrics.answered(exchange.method, route, status, seconds)
        write = log().debug if scope["path"] in PROBES else log().info
        write("request", method=exchange.method, path=scope["path"], status=status, seconds=round(seconds, 4))


@dataclass
class _Exchange:
    """One request and its answer, with what is added to and taken from them on the way."""

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    limit_bytes: int
    status: int | None = None
    is_ended: bool = False

    def __post_init__(self) -> None:
        self.method: str = self.scope["method"] if self.scope["method"] in _KNOWN_METHODS else "OTHER"
        self.started = time.perf_counter()
        self._received = 0

    async def receive_body(self) -> Message:
        if self.is_ended:
            return {"type": "http.disconnect"}
        message = await self.receive()
        self._received += len(message.get("body", b""))
        if self._received > self.limit_bytes:
            raise BodyTooLarge(self.limit_bytes)
        return message

    async def send_answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
            headers.setdefault("X-Content-Type-Options", "nosniff")
            if self.status == 405:
                headers["Allow"] = allowed_methods(self.scope)
        if self.method != "HEAD":
            await self.send(message)
        elif message["type"] == "http.response.start":
            # the headers are all there is: whoever streams a body is told that the client has gone
            self.is_ended = True
            await self.send(message)
            await self.send({"type": "http.response.body", "body": b""})
            await asyncio.sleep(0)


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _trace_ids(headers: Headers) -> dict[str, str]:
    """The trace that this request belongs to: ours, or its sender's where traces are off."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return {"trace_id": trace.format_trace_id(span.trace_id)}
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return {"trace_id": found[1]} if found else {}
