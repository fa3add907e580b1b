"""A service as a process that can be killed in every way that a process can be killed, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from tests.polling import eventually

ROOT = Path(__file__).resolve().parent.parent


class RestartableService:
    """`python -m services.<name>` on a free port; a context manager that leaves nothing behind.

    Args:
        name: of the package in `services`.
        environment: the service's settings, with their prefix.
        log_file: where its log goes; a restart goes on there.
    """

    def __init__(self, name: str, environment: Mapping[str, object], log_file: Path) -> None:
        self.name, self.log_file = name, log_file
        self.environment = {key: str(value) for key, value in environment.items()}
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, and wait until it is ready."""
        assert self._process is None, f"{self.name} runs already"
        prefix = f"{self.name.upper()}_"
        own = {f"{prefix}PORT": "0", f"{prefix}LOG_FORM": "json", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        began_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"services.{self.name}"],
                cwd=ROOT,
                env=os.environ | own | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = eventually(lambda: self._listening(began_at), within_s=120)[0]["url"]
        eventually(self.is_ready, within_s=120)
        return self

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        assert self._running().poll() is None, self.tail()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def lines(self, event: str, *, after: int = 0) -> list[dict]:
        """The lines of one event that it logged, behind so many bytes."""
        found = []
        for line in self.log_file.read_bytes()[after:].splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and event == record.get("event"):
                found.append(record)
        return found

    def tail(self) -> str:
        """The end of its log, for people."""
        return self.log_file.read_text(errors="replace")[-4000:]

    def memory_bytes(self) -> int:
        """What it holds of the machine's memory."""
        return int(psutil.Process(self._running().pid).memory_info().rss)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running().send_signal(number)

    def ended(self, *, within_s: float = 120.0) -> int:
        """Wait for its end; its exit status."""
        process, self._process = self._running(), None
        try:
            return process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not end within {within_s} s:\n{self.tail()}") from None

    def kill9(self) -> None:
        """Kill it without a word."""
        self.signal(signal.SIGKILL)
        self.ended()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self.kill9()

    def _listening(self, began_at: int) -> list[dict]:
        assert self._running().poll() is None, self.tail()
        return self.lines("listening", after=began_at)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} does not run"
        return self._process
