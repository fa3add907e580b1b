"""Other processes and hurried threads, for what only they can show."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.protocols.places import Places

StartPython = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_python(repository: Path) -> Iterator[StartPython]:
    """Start Python code in a process of its own; its arguments are in sys.argv, its output is in a pipe."""
    started = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Make threads take turns as often as they can, so that what is not kept apart gets mixed up."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def places(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Places]:
    """Empty places for the stores of this test."""
    places = Places(tmp_path_factory, request)
    yield places
    places.close()
