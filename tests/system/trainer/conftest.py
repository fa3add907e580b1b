"""One deployment for all tests here: what they kill, they start again."""

from collections.abc import Iterator

import pytest

from tests.trainer_processes import Deployment, ModuleProcess, WorkerProcess
from tests.tripwire import Tripwire


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")) as started:
        yield started


@pytest.fixture(scope="package")
def wire(deployment: Deployment) -> Iterator[Tripwire]:
    """Between workers and Redis."""
    with Tripwire(deployment.valkey.port) as wire:
        yield wire


@pytest.fixture
def worker(deployment: Deployment, wire: Tripwire) -> Iterator[WorkerProcess]:
    """The worker at the wire, for tests after which it still runs: starting it takes longer than a small round."""
    found = deployment.shared_worker(wire.port)
    wire.release()
    yield found
    wire.release()


@pytest.fixture
def only_own_workers(deployment: Deployment, wire: Tripwire) -> None:
    """Nobody but the test starts workers."""
    deployment.end_shared_worker()
    wire.release()


@pytest.fixture
def mortal_beat(deployment: Deployment) -> Iterator[ModuleProcess]:
    """The deployment's beat, which runs again after the test."""
    yield deployment.beat
    if not deployment.beat.is_started:
        deployment.beat.start()
