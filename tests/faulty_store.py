"""A wire to a store that speaks HTTP, for a while answering as one in trouble does: the store itself is well."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from threading import Lock

from tests.relay import Relay

BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>ServiceUnavailable</Code>'
    b"<Message>Please try again later.</Message><RequestId>of-a-busy-store</RequestId></Error>"
)
REQUEST = re.compile(rb"(GET|PUT|HEAD|POST|DELETE) (/\S*) HTTP/1\.1\r\n")


class FaultyStore(Relay):
    """Passes requests on, answers them with 503 itself, or lets them hang; a context manager."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._lock = Lock()
        self._is_busy = self._is_frozen = self._is_cutting = False
        self._left: int | None = None
        self._refused: list[tuple[str, str]] = []
        self._sent: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        """Where clients find the store."""
        return f"http://127.0.0.1:{self.port}"

    def be_busy(self, *, times: int | None = None) -> None:
        """From now on answer everything with 503, or so many requests."""
        with self._lock:
            self._is_busy, self._left, self._refused = True, times, []

    def hang(self) -> None:
        """From now on answer nothing."""
        with self._lock:
            self._is_frozen = True

    def cut(self) -> None:
        """From now on break off in the middle of every answer."""
        with self._lock:
            self._is_cutting = True

    def heal(self) -> None:
        """Be well again."""
        with self._lock:
            self._is_busy = self._is_frozen = self._is_cutting = False

    def refused(self, method: str = "") -> int:
        """How many requests, of this method or any, were refused since it is, or was, busy."""
        with self._lock:
            return sum(each.startswith(method) for each, _ in self._refused)

    def put(self) -> list[str]:
        """The path of every object that was sent to the store, as often as it was."""
        with self._lock:
            return [path for method, path in self._sent if method == "PUT"]

    def is_frozen(self) -> bool:
        return self._is_frozen

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        if not self._is_busy:
            return super()._pass_on(client, server)
        return self._refuse(client)

    def is_to_be_lost(self, content: bytes, *, is_answer: bool) -> bool:
        return is_answer and self._is_cutting and not content.startswith(b"HTTP/1.1 ")

    def has_passed(self, content: bytes, *, is_answer: bool) -> None:
        if not is_answer:
            with self._lock:
                self._sent += _requests(content)

    def _refuse(self, client: socket.socket) -> bool:
        client.settimeout(0.05)
        try:
            content = client.recv(1 << 20)
        except TimeoutError:
            return True
        if not content:
            return False
        with self._lock:
            self._refused += _requests(content)
            if self._left is not None:
                self._left -= 1
                self._is_busy = self._left > 0
        body = b"" if content.startswith(b"HEAD ") else BUSY
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nContent-Length: {len(BUSY)}\r\n"
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        # a body that is still on its way is read, or the connection would break before the answer is seen
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        with suppress(OSError):
            while client.recv(1 << 20):
                pass
        return False


def _requests(content: bytes) -> list[tuple[str, str]]:
    return [(method.decode(), path.decode()) for method, path in REQUEST.findall(content)]
