"""The generator service in this process, with a tiny bundle and the mini catalogue."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.generator.app import create_app
from services.generator.settings import GeneratorSettings
from tests.generator_calls import adapter_of
from tests.polling import eventually
from tests.tiny_models import saved_tiny_bundle


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_contents(bundle_folder: Path) -> list[bytes]:
    """Files of three adapters of the bundle."""
    return [adapter_of(bundle_folder, seed=seed).to_bytes() for seed in range(1, 4)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts generators, each ready, with settings of their own."""
    with ExitStack() as stack:

        def start(**settings: object) -> TestClient:
            chosen = {"bundle": str(bundle_folder), "artifacts_url": str(tmp_path_factory.mktemp("artifacts"))}
            app = create_app(GeneratorSettings(**(chosen | settings)))
            client = stack.enter_context(TestClient(app))
            eventually(lambda: client.get("/readyz").status_code == 200, within_s=60)
            return client

        yield start


@pytest.fixture(scope="module")
def client(opened: Callable[..., TestClient]) -> TestClient:
    """A generator that stands alone."""
    return opened()
