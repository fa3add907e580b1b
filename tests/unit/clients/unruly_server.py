"""A real HTTP server that answers as it is told: late, wrong, half or not at all."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pydantic import BaseModel


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


Behaviour = Callable[[BaseHTTPRequestHandler, Asked, threading.Event], None]


@dataclass
class UnrulyServer:
    """Answers the n-th request with the n-th behaviour, and all later ones with the last."""

    behaviours: Sequence[Behaviour]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_behaviour(self, asked: Asked) -> Behaviour:
        with self._lock:
            self.asked.append(asked)
            return self.behaviours[min(len(self.asked), len(self.behaviours)) - 1]


@contextmanager
def unruly(*behaviours: Behaviour) -> Iterator[UnrulyServer]:
    """The server, for as long as it is needed."""
    told = UnrulyServer(behaviours)
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body)
            try:
                told.next_behaviour(asked)(self, asked, is_over)
            except (BrokenPipeError, ConnectionResetError):
                told.hung_up.set()
                self.close_connection = True

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 — names of the base class

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield told
    finally:
        is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def answers(body: BaseModel | bytes | str, status: int = 200, **headers: str) -> Behaviour:
    """An ordinary answer."""
    content = body.model_dump_json().encode() if isinstance(body, BaseModel) else _bytes(body)

    def behave(handler: BaseHTTPRequestHandler, _asked: Asked, _is_over: threading.Event) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", **_named(headers)}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return behave


def answers_with(make: Callable[[Asked], BaseModel | bytes | str]) -> Behaviour:
    """An answer that depends on what was asked."""
    return lambda handler, asked, is_over: answers(make(asked))(handler, asked, is_over)


def problem(status: int, code: str, detail: str = "it is so", **headers: str) -> Behaviour:
    """A problem document."""
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code, "request_id": "r1"}
    return answers(json.dumps(body), status, Content_Type="application/problem+json", **headers)


def never_answers(_handler: BaseHTTPRequestHandler, _asked: Asked, is_over: threading.Event) -> None:
    """Takes the request and says nothing."""
    is_over.wait(30)


def drips(handler: BaseHTTPRequestHandler, _asked: Asked, is_over: threading.Event) -> None:
    """Sends a byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not is_over.wait(0.02):
        handler.wfile.write(b"1\r\n \r\n")


def breaks(handler: BaseHTTPRequestHandler, _asked: Asked, _is_over: threading.Event) -> None:
    """Closes the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def breaks_within(body: BaseModel | bytes | str, share: float = 0.5) -> Behaviour:
    """Announces the whole body, sends a part of it and closes the connection."""
    content = body.model_dump_json().encode() if isinstance(body, BaseModel) else _bytes(body)

    def behave(handler: BaseHTTPRequestHandler, _asked: Asked, _is_over: threading.Event) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: int(len(content) * share)])
        handler.close_connection = True

    return behave


def tells(*events: tuple[str, BaseModel | str] | bytes, is_complete: bool = True) -> Behaviour:
    """A stream of events; pairs of name and data, or bytes as they are. One that is not complete breaks off."""

    def behave(handler: BaseHTTPRequestHandler, asked: Asked, _is_over: threading.Event) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for event in events:
            piece = event if isinstance(event, bytes) else event_bytes(*event)
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.flush()
        if is_complete:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            breaks(handler, asked, _is_over)

    return behave


def tells_for_ever(event: tuple[str, BaseModel | str]) -> Behaviour:
    """The same event again and again, until the reader hangs up."""

    def behave(handler: BaseHTTPRequestHandler, _asked: Asked, is_over: threading.Event) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = event_bytes(*event)
        while not is_over.wait(0.01):
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            handler.wfile.flush()

    return behave


def event_bytes(name: str, data: BaseModel | str, event_id: str = "") -> bytes:
    """One server-sent event."""
    text = data.model_dump_json() if isinstance(data, BaseModel) else data
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    named = f"id: {event_id}\n" if event_id else ""
    return f"{named}event: {name}\n{lines}\n".encode()


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


def _bytes(body: bytes | str) -> bytes:
    return body if isinstance(body, bytes) else body.encode()


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
