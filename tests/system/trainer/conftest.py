"""One deployment for all tests here: what they kill, they start again."""

from collections.abc import Iterator

import pytest

from tests.trainer_processes import Deployment


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")) as started:
        yield started
