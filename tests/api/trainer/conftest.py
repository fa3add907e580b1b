"""The trainer's API in this process, with stores in memory and a small data set."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.stores import memory_stores
from services.trainer.app import create_app
from services.trainer.queue import MemoryQueue
from services.trainer.settings import TrainerSettings
from tests.api.trainer.trainer_api import TrainerApi
from tests.polling import eventually
from tests.unit.trainer.errands import squares_basis


@pytest.fixture
def opened() -> Iterator[Callable[..., TrainerApi]]:
    """Starts APIs with settings of their own."""
    with ExitStack() as stack:

        def start(**settings: object) -> TrainerApi:
            stores, queue = memory_stores(MemoryArtifacts()), MemoryQueue()
            app = create_app(
                TrainerSettings(**settings),
                stores=stores,
                queue=queue,
                load=lambda _: squares_basis(),
            )
            client = stack.enter_context(TestClient(app))
            eventually(lambda: client.get("/readyz").json()["checks"]["data"] == "ok")
            return TrainerApi(client, stores, queue)

        yield start


@pytest.fixture
def api(opened: Callable[..., TrainerApi]) -> TrainerApi:
    """One with the defaults."""
    return opened()
