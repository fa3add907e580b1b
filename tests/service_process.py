"""A service in a process of its own: started like in production, on a port that it chooses, with its log at hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any, Self

import httpx
import psutil

from tests.polling import eventually

ROOT = Path(__file__).resolve().parents[1]


class ServiceProcess:
    """`python -m <module>` with settings from the environment; a context that ends it, if it has not ended."""

    def __init__(self, name: str, *, package: str = "services", **settings: Any) -> None:
        """`settings` by the field's name; the environment's prefix is the module's name."""
        given = {"port": 0, "log_form": "json", **settings}
        environment = {f"{name.upper()}_{field.upper()}": str(value) for field, value in given.items()}
        self.lines: list[dict[str, Any]] = []
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{package}.{name}"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text += line
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one kind."""
        return [line for line in list(self.lines) if line["event"] == name]

    @property
    def url(self) -> str:
        """Where it listens, as it said."""
        eventually(lambda: self.events("listening") or self.process.poll() is not None, within_s=60)
        return str(self.events("listening")[0]["url"])

    def wait_until_ready(self, *, within_s: float = 60) -> Self:
        """Until /readyz says so."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.text
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200

        eventually(is_ready, within_s=within_s)
        return self

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self, *, within_s: float = 60) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(within_s)
        self._reader.join()
        return status

    def memory_mb(self) -> float:
        """What it holds of the machine's memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20
