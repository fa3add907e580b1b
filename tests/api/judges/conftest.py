from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.run_settings import MINI_ASSETS
from tests.api.judges.judge_apps import JUDGES, judge_app, serving


@pytest.fixture(scope="session")
def data() -> DataSet:
    return load_data_set(MINI_ASSETS / "catalogue")


@pytest.fixture(scope="session")
def features_cache(tmp_path_factory) -> Path:
    """The catalogue's features are computed once for all tests here."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def artifacts_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def judges(features_cache: Path, artifacts_folder: Path) -> Iterator[dict[str, TestClient]]:
    """All three, ready, by criterion."""
    with (
        serving(judge_app(JUDGES[0], features_cache, artifacts_url=str(artifacts_folder))) as quality,
        serving(judge_app(JUDGES[1], features_cache, artifacts_url=str(artifacts_folder))) as compatibility,
        serving(judge_app(JUDGES[2], features_cache, artifacts_url=str(artifacts_folder))) as personalization,
    ):
        yield dict(zip(JUDGES, (quality, compatibility, personalization), strict=True))
