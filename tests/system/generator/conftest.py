"""Generators as processes, over a tiny bundle and the mini catalogue."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.generator_calls import adapter_of
from tests.restartable_service import RestartableService
from tests.tiny_models import saved_tiny_bundle

StartGenerator = Callable[..., RestartableService]


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_contents(bundle_folder: Path) -> list[bytes]:
    """Files of three adapters of the bundle."""
    return [adapter_of(bundle_folder, seed=seed).to_bytes() for seed in range(1, 4)]


@pytest.fixture
def start_generator(tmp_path: Path, bundle_folder: Path) -> Iterator[StartGenerator]:
    """Starts generators that share an artifact store, each with settings of its own."""
    with ExitStack() as stack:
        yield partial(_start, stack, tmp_path, bundle_folder)


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    """Of the module's generator; a module may have others."""
    return {}


@pytest.fixture(scope="module")
def generator(
    tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path, settings: dict[str, object]
) -> Iterator[RestartableService]:
    """A generator that stands alone, for all tests of a module."""
    with ExitStack() as stack:
        yield _start(stack, tmp_path_factory.mktemp("generator"), bundle_folder, **settings)


def _start(stack: ExitStack, folder: Path, bundle_folder: Path, **settings: object) -> RestartableService:
    chosen = {"bundle": bundle_folder, "artifacts_url": folder / "artifacts"} | settings
    environment = {f"GENERATOR_{name.upper()}": value for name, value in chosen.items()}
    log_file = folder / f"generator-{len(list(folder.glob('*.log')))}.log"
    return stack.enter_context(RestartableService("generator", environment, log_file))
