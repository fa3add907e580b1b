"""A wire to a server that freezes as soon as something certain was sent over it: so a process can be killed just there."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self


class Tripwire:
    """Forwards a port of this machine; a context manager.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_closed, self.tripped = Event(), Event()
        self._lock = Lock()
        self._words, self._left = b"", 0
        self._threads = [Thread(target=self._accept, daemon=True)]

    @property
    def port(self) -> int:
        """Where clients find the wire."""
        return int(self._listener.getsockname()[1])

    def arm(self, words: bytes, *, at: int = 1) -> None:
        """Freeze when these words are sent for the at-th time from now on; they still reach the server."""
        with self._lock:
            self._words, self._left = words, at
            self.tripped.clear()

    def release(self) -> None:
        """Forward again."""
        with self._lock:
            self._words = b""
            self.tripped.clear()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_closed.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._is_closed.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                thread = Thread(target=self._forward, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            other = {client: server, server: client}
            while not self._is_closed.is_set():
                if self.tripped.is_set():
                    self._is_closed.wait(0.02)
                    continue
                for source in select.select([client, server], [], [], 0.05)[0]:
                    content = source.recv(1 << 20)
                    if not content:
                        return
                    other[source].sendall(content)
                    if source is client:
                        self._look(content)

    def _look(self, content: bytes) -> None:
        with self._lock:
            if self._words and not self.tripped.is_set():
                self._left -= content.count(self._words)
                if self._left <= 0:
                    self.tripped.set()
