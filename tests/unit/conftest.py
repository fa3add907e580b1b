"""What several packages' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.smoke_assets import SmokeRun, train_smoke_assets


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> SmokeRun:
    """How the smoke assets were trained."""
    return train_smoke_assets(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="session")
def smoke_assets(smoke_run) -> Path:
    """A folder like assets/mini; to be read only."""
    return smoke_run.folder
