"""A wire between clients and a server on this machine; what it does to what passes is said by subclasses."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self

LOOK_S = 0.05
"""So often a wire looks whether it is to end."""


class Relay:
    """Forwards a port of this machine; a context manager.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_closed = Event()
        self._threads = [Thread(target=self._accept, daemon=True)]

    @property
    def port(self) -> int:
        """Where clients find the wire."""
        return int(self._listener.getsockname()[1])

    def is_frozen(self) -> bool:
        """Whether nothing passes now."""
        return False

    def is_to_be_lost(self, content: bytes, *, is_answer: bool) -> bool:
        """Whether this is not passed on and its connection is closed."""
        return False

    def has_passed(self, content: bytes, *, is_answer: bool) -> None:
        """Told of everything that was passed on."""

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_closed.set()
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        self._listener.settimeout(LOOK_S)
        while not self._is_closed.is_set():
            with suppress(OSError):
                client, _ = self._listener.accept()
                thread = Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self._is_closed.is_set():
                if self.is_frozen():
                    self._is_closed.wait(0.02)
                elif not self._pass_on(client, server):
                    return

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Whatever there is to pass on; False once the connection has come to its end."""
        for source in select.select([client, server], [], [], LOOK_S)[0]:
            content, is_answer = source.recv(1 << 20), source is server
            if not content or self.is_to_be_lost(content, is_answer=is_answer):
                return False
            (client if is_answer else server).sendall(content)
            self.has_passed(content, is_answer=is_answer)
        return True
