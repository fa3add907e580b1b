"""A wire between a client and a server that can be cut after a request went through and before its answer came back."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self


class LossyProxy:
    """Forwards a port of this machine; a context manager.

    Args:
        port: where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_closed, self._lost = Event(), Event()
        self._answers_left: int | None = None
        self._threads = [Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        """Where a client of a Redis finds the wire."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    @property
    def has_lost_one(self) -> bool:
        """Whether an answer was lost since `lose_an_answer`."""
        return self._lost.is_set()

    def lose_an_answer(self, *, after: int) -> None:
        """Let some answers through; drop the next one and close its connection, although its request went through."""
        self._lost.clear()
        self._answers_left = after

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
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, suppress(OSError):
            other = {client: server, server: client}
            while not self._is_closed.is_set():
                for source in select.select([client, server], [], [], 0.1)[0]:
                    content = source.recv(65536)
                    if not content:
                        return
                    if source is server and self._is_to_be_lost():
                        return
                    other[source].sendall(content)

    def _is_to_be_lost(self) -> bool:
        if self._answers_left is None:
            return False
        if self._answers_left:
            self._answers_left -= 1
            return False
        self._answers_left = None
        self._lost.set()
        return True
