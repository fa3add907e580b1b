"""Whether a service goes on: long answers end when it stops, and what it cannot work without may end it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Lifetime:
    """On every app as `app.state.lifetime`.

    Attributes:
        stopping: set when SIGTERM came. Event streams wait for it too, and end; answers that end by themselves need not.
        failure: why the service has to end; `run` watches it, stops the process and returns 1.
    """

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failure: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """End the service because of this; from any thread."""
        self.failure = error
