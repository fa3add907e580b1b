"""Starts processes in order, waits until they are ready, watches them, and stops them in the reverse order.

Nothing is started again behind anybody's back: a process that ends on its own ends the whole, and its last words are shown.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fashiondpo.errors import Unavailable
from fashiondpo.telemetry import log
from services.embedded.processes import Child, Command

READY = "ok"
_PAUSE_S = 0.1
_LAST_LINES = 15

ReadinessCheck = Callable[[], str]
"""Says READY, or what is missing."""


class ChildDied(Unavailable):
    """A process ended that should have gone on."""


class Stopped(Exception):
    """Somebody asked for the whole to stop."""


class Supervisor:
    """The processes of this run."""

    def __init__(self, logs: Path, *, stop_timeout_s: float) -> None:
        """Nothing is started yet.

        Args:
            logs: folder of the log files, one per process.
            stop_timeout_s: for each process to stop by itself.
        """
        self._logs, self._stop_timeout_s = logs, stop_timeout_s
        self._children: list[Child] = []
        self._signals = 0

    def listen_to_signals(self) -> None:
        """Let SIGINT and SIGTERM stop the whole; the second one at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def start(self, command: Command) -> Child:
        """Start a process.

        Raises:
            Stopped: if somebody asked for that meanwhile.
        """
        self._go_on()
        child = Child(command, self._logs / f"{command.name}.log")
        self._children.append(child)
        log().info("started", process=child.name, pid=child.pid)
        return child

    def wait_until_ready(
        self, checks: Mapping[str, ReadinessCheck], timeout_s: float, tell: Callable[[str], None] = lambda _name: None
    ) -> None:
        """Wait for all of them.

        Args:
            checks: by what is waited for.
            timeout_s: for all of it.
            tell: called with the name of each as soon as it is ready.

        Raises:
            ChildDied: if a process ends meanwhile.
            Unavailable: if something is not ready in time; says what.
            Stopped: if somebody asked for that meanwhile.
        """
        limit = time.monotonic() + timeout_s
        waiting = dict(checks)
        while waiting:
            missing = {}
            for name, check in waiting.items():
                self._go_on()
                if (said := check()) == READY:
                    tell(name)
                else:
                    missing[name] = said
            waiting = {name: waiting[name] for name in missing}
            if waiting and time.monotonic() > limit:
                found = "; ".join(f"{name}: {said}" for name, said in missing.items())
                raise Unavailable(f"not ready after {timeout_s:g} s: {found}; see {self._logs}")
            if waiting:
                time.sleep(_PAUSE_S)

    def watch(self) -> None:
        """Wait until somebody asks for the whole to stop; raises ChildDied if a process ends before."""
        try:
            while True:
                self._go_on()
                time.sleep(_PAUSE_S)
        except Stopped:
            return

    def stop(self, groups: Sequence[Sequence[str]]) -> None:
        """Stop everything that runs, group by group; what is in no group, last.

        Args:
            groups: names of the processes that may stop at the same time.
        """
        asked_before = self._signals
        named = {name for group in groups for name in group}
        rest = [child.name for child in reversed(self._children) if child.name not in named]
        for group in (*groups, *([name] for name in rest)):
            running = [child for child in self._children if child.name in group and child.exit_code is None]
            for child in running:
                child.ask_to_stop()
            limit = time.monotonic() + self._stop_timeout_s
            for child in running:
                while child.exit_code is None and time.monotonic() < limit and self._signals == asked_before:
                    time.sleep(_PAUSE_S / 2)
                if child.exit_code is None:
                    log().warning("killed", process=child.name, because="it did not stop in time")
                    child.kill()
                else:
                    log().info("stopped", process=child.name, exit_code=child.exit_code)

    def _go_on(self) -> None:
        """Raises Stopped or ChildDied if there is no going on."""
        if self._signals:
            raise Stopped
        for child in self._children:
            if child.exit_code is not None:
                said = "\n".join(f"  {line}" for line in child.last_lines(_LAST_LINES))
                raise ChildDied(f"{child.name} ended with exit code {child.exit_code}. Its last lines:\n{said}")

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1
