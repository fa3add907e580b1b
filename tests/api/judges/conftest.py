from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fashiondpo.outfits.model import DataSet
from fashiondpo.outfits.sources import load_data_set
from tests.api.judges.judge_apps import JUDGES, judge_app, serving
from tests.small_catalogue import save_small_catalogue


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    return save_small_catalogue(tmp_path_factory.mktemp("small-catalogue"))


@pytest.fixture(scope="session")
def data(data_folder: Path) -> DataSet:
    return load_data_set(data_folder)


@pytest.fixture(scope="session")
def features_cache(tmp_path_factory) -> Path:
    """The catalogue's features are computed once for all tests here."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def artifacts_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def open_app(data_folder: Path, features_cache: Path) -> Callable[..., FastAPI]:
    """Makes the app of a criterion, with further settings."""
    return partial(judge_app, data=data_folder, features_cache=features_cache)


@pytest.fixture(scope="session")
def judges(open_app, artifacts_folder: Path) -> Iterator[dict[str, TestClient]]:
    """All three, ready, by criterion."""
    with ExitStack() as stack:
        yield {
            criterion: stack.enter_context(serving(open_app(criterion, artifacts_url=str(artifacts_folder))))
            for criterion in JUDGES
        }
