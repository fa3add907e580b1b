"""A wire to a server that freezes as soon as something certain was sent over it: so a process can be killed just there."""

from __future__ import annotations

from threading import Event, Lock

from tests.relay import Relay


class Tripwire(Relay):
    """Watches what clients send to a server on this machine; a context manager."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.tripped = Event()
        self._lock = Lock()
        self._words, self._left = b"", 0

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

    def is_frozen(self) -> bool:
        """Since it has tripped."""
        return self.tripped.is_set()

    def has_passed(self, content: bytes, *, is_answer: bool) -> None:
        """Looks for the words."""
        if is_answer:
            return
        with self._lock:
            if self._words and not self.tripped.is_set():
                self._left -= content.count(self._words)
                if self._left <= 0:
                    self.tripped.set()
