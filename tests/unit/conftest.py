"""What several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.published import read_published
from tests.smoke_assets import SmokeRun, train_smoke_assets


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> SmokeRun:
    """How the smoke assets were trained."""
    return train_smoke_assets(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="session")
def smoke_assets(smoke_run) -> Path:
    """A folder like assets/mini; to be read only."""
    return smoke_run.folder


@pytest.fixture(scope="session")
def polyvore_u_folder(repository: Path) -> Path:
    """The real index files; FASHIONDPO_POLYVORE_U says where they are."""
    folder = Path(os.environ.get("FASHIONDPO_POLYVORE_U", repository.parent / "shared" / "data" / "polyvore-u"))
    if not folder.is_dir():
        pytest.skip("no Polyvore-U index files here; FASHIONDPO_POLYVORE_U names their folder")
    return folder


@pytest.fixture(scope="session")
def polyvore_u(polyvore_u_folder: Path) -> DataSet:
    return read_published(polyvore_u_folder)
