"""Runs the command line, in this process or in one of its own, and keeps what it said."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import structlog

from fashiondpo.cli.main import main
from fashiondpo.run_settings import RunSettings

PATIENCE_S = 240
"""For a machine that is busy with something else; a quiet one needs seconds."""


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """`fashiondpo`, with these assets as the mini models."""

    assets: Path

    def __call__(self, *arguments: object) -> Finished:
        """Run a command in this process."""
        out, err = io.StringIO(), io.StringIO()
        environment = patch.dict(os.environ, self._environment())
        with environment, patch.object(sys, "argv", self._argv(arguments)), redirect_stdout(out), redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                structlog.reset_defaults()
        return Finished(code, out.getvalue(), err.getvalue())

    def well(self, *arguments: object) -> str:
        """Run a command that must succeed; returns what it printed."""
        finished = self(*arguments)
        assert finished.code == 0, finished.err
        return finished.out

    def own_process(self, *arguments: object) -> Finished:
        """Run a command in a process of its own."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        return Finished(process.returncode, out, err)

    def stopped(self, *arguments: object, when: Callable[[], bool], by: signal.Signals) -> Finished:
        """Run a command in a process of its own and send it a signal as soon as something is true."""
        process = self.start(*arguments)
        try:
            until = time.monotonic() + PATIENCE_S
            while not when():
                assert process.poll() is None, f"ended too early: {process.communicate()}"
                assert time.monotonic() < until, "nothing happened"
                time.sleep(0.002)
            process.send_signal(by)
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        return Finished(process.returncode, out, err)

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fashiondpo.cli.main", *map(str, arguments)],
            env=os.environ | self._environment() | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell that runs the tests in the background makes them, and their children, deaf to Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def _environment(self) -> dict[str, str]:
        return {"FASHIONDPO_ASSETS": str(self.assets), "COLUMNS": "160"}

    def _argv(self, arguments: tuple[object, ...]) -> list[str]:
        return ["fashiondpo", *map(str, arguments)]


def settings_file(path: Path, settings: RunSettings) -> Path:
    """The settings as a file for --settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(settings.model_dump_json())
    return path
