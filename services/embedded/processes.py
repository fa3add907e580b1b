"""A child process with a log file that never outlives this process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Command:
    """What to run.

    Attributes:
        name: for people, and of the log file.
        arguments: the command line; secrets do not belong here, every user of the machine can read it.
        environment: all of it.
        stdin: what the process reads from its standard input.
        folder: in which it runs, made if need be; this process's own unless given.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    stdin: str = ""
    folder: Path | None = None


class Child:
    """A running command. The kernel kills it when this process dies, however that happens.

    To be started from a process with one thread: the kernel watches the thread that starts it, and copies no other.
    """

    def __init__(self, command: Command, log_file: Path) -> None:
        """Start it; what it writes is appended to the log file."""
        self.name, self.log_file = command.name, log_file
        for folder in (log_file.parent, command.folder):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                list(command.arguments),
                env=dict(command.environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=command.folder,
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on, in order
                preexec_fn=_dies_with(os.getpid()),
            )
        assert self._process.stdin is not None
        # one that has ended already does not read; its exit code tells
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(command.stdin.encode())

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL for it and what it has started, and wait for it to be over."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def has_written(self, text: str) -> bool:
        """Whether the text is in what it has written since it was started."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read()

    def last_lines(self, count: int) -> list[str]:
        """The end of what it has written since it was started."""
        with self.log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace").splitlines()[-count:]


def _dies_with(parent: int) -> Callable[[], None]:
    """What a new process does first, so that it ends with its parent."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked

    return prepare


def stop_with(parent: int) -> None:
    """Have the kernel send this process SIGTERM when its parent dies.

    Raises:
        Unavailable: if the parent is no more.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Unavailable(f"process {parent}, which has started this one, is no more")
