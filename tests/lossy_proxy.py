"""A wire between a client and a server that can be cut after a request went through and before its answer came back."""

from __future__ import annotations

from threading import Event

from tests.relay import Relay


class LossyProxy(Relay):
    """Loses answers of a Redis on this machine; a context manager."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._lost = Event()
        self._answers_left: int | None = None

    @property
    def url(self) -> str:
        """Where a client of a Redis finds the wire."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def has_lost_one(self) -> bool:
        """Whether an answer was lost since `lose_an_answer`."""
        return self._lost.is_set()

    def lose_an_answer(self, *, after: int) -> None:
        """Let some answers through; drop the next one and close its connection, although its request went through."""
        self._lost.clear()
        self._answers_left = after

    def is_to_be_lost(self, content: bytes, *, is_answer: bool) -> bool:
        """Counts answers."""
        if not is_answer or self._answers_left is None:
            return False
        if self._answers_left:
            self._answers_left -= 1
            return False
        self._answers_left = None
        self._lost.set()
        return True
