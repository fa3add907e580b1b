"""Waiting for what another thread, process or server will do: looks again and again, until a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, within_s: float = 20.0) -> T:
    """The first true answer; fails if there is none in time."""
    deadline = time.monotonic() + within_s
    while not (answer := look()):
        assert time.monotonic() < deadline, f"did not happen within {within_s} s"
        time.sleep(0.005)
    return answer
