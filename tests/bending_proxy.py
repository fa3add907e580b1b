"""A service seen through a proxy that spoils some of its answers for a while: the service itself is real, and well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import TracebackType
from typing import Self

import httpx


@dataclass(frozen=True)
class Answer:
    """What comes back for a request."""

    content: bytes
    status: int = 200
    media_type: str = "application/json"


Bend = Callable[[Answer], Answer]


class BendingProxy:
    """Forwards to a service over HTTP; a context manager.

    Args:
        url: of the service.
    """

    def __init__(self, url: str) -> None:
        self._service = httpx.Client(base_url=url, timeout=60)
        self._bend: Bend | None = None
        self._paths: tuple[str, ...] = ()
        self._good_ones = 0
        self._healed = Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where callers find it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def bend(self, bend: Bend, *paths: str, after: int = 0) -> None:
        """From now on spoil the answers for these paths, but for so many at first."""
        self._paths, self._good_ones = paths, after
        self._healed.clear()
        self._bend = bend

    def heal(self) -> None:
        """Answer as the service does again; those that wait for it get their answers."""
        self._bend = None
        self._healed.set()

    def late(self, answer: Answer) -> Answer:
        """A bend: the answer is right and comes when all is well again."""
        self._healed.wait(120)
        return answer

    def __enter__(self) -> Self:
        self._healed.set()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        self._service.close()

    def _answered(self, method: str, path: str, content: bytes) -> Answer:
        try:
            reply = self._service.request(method, path, content=content, headers={"Content-Type": "application/json"})
        except httpx.HTTPError as error:
            return Answer(str(error).encode(), 502, "text/plain")
        answer = Answer(reply.content, reply.status_code, reply.headers.get("Content-Type", ""))
        bend = self._bend
        if bend is None or path not in self._paths or reply.status_code != 200:
            return answer
        if self._good_ones:
            self._good_ones -= 1
            return answer
        return bend(answer)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = proxy._answered(self.command, self.path, content)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.media_type)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_POST = do_GET  # noqa: N815 — the name that the base class asks for

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        return Handler


def rewritten(change: Callable[[str], str]) -> Bend:
    """A bend: other text, the rest as it was."""
    return lambda answer: replace(answer, content=change(answer.content.decode()).encode())


def instead(content: str, *, status: int = 200, media_type: str = "application/json") -> Bend:
    """A bend: something else altogether."""
    return lambda _: Answer(content.encode(), status, media_type)
