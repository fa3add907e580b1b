"""The embedded services as `fashiondpo up` starts them, over a bundle that paints in milliseconds and a small catalogue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from fashiondpo.clients.addresses import Addresses, read_addresses
from fashiondpo.errors import Unavailable
from fashiondpo.run_settings import MINI_ASSETS
from tests.polling import eventually
from tests.small_catalogue import save_small_catalogue
from tests.tiny_models import saved_tiny_bundle

START_S, STOP_S = 240.0, 120.0
"""For a machine that is busy with something else; a quiet one needs a few seconds."""


def save_tiny_assets(folder: Path) -> Path:
    """A folder that can stand in for assets/mini: the shipped judges, the tiny bundle, the small catalogue."""
    saved_tiny_bundle(folder / "bundle")
    save_small_catalogue(folder / "catalogue")
    (folder / "judges").symlink_to(MINI_ASSETS / "judges")
    return folder


@dataclass(frozen=True)
class CommandProcess:
    """A `fashiondpo` command in a process of its own, with its output in a file."""

    process: subprocess.Popen[bytes]
    output_file: Path

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def ended(self, within_s: float = STOP_S) -> int:
        """Its exit code, once it has one."""
        return self.process.wait(within_s)

    def children(self) -> list[psutil.Process]:
        """Everything that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stopped(self, by: signal.Signals) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(by)
        return self.ended()


@contextmanager
def fashiondpo(assets: Path, *arguments: object) -> Iterator[CommandProcess]:
    """Start a command; whatever is left of it at the end is killed."""
    output_file = assets.parent / f"{arguments[0]}-{os.urandom(4).hex()}.out"
    with output_file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fashiondpo.cli.main", *map(str, arguments)],
            env=os.environ | {"FASHIONDPO_ASSETS": str(assets), "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            # a shell that runs the tests in the background makes them, and their children, deaf to Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    command = CommandProcess(process, output_file)
    try:
        yield command
    finally:
        process.kill()
        process.wait()


@contextmanager
def up(assets: Path, run: Path) -> Iterator[CommandProcess]:
    """`fashiondpo up` on this folder, on free ports."""
    with fashiondpo(assets, "up", "--run", run, "--base-port", 0) as command:
        yield command


def addresses_of(run: Path, command: CommandProcess) -> Addresses:
    """Where the services answer, as soon as all are ready."""

    def look() -> Addresses | None:
        assert command.process.poll() is None, command.output
        try:
            return read_addresses(run)
        except Unavailable:
            return None

    found = eventually(look, within_s=START_S)
    assert found is not None
    return found


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
