"""Settings of every test process, made before anything under test is imported."""

import os

# No test may need the network; the hub's client would otherwise ask it for files that are already here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Consoles that are made when a module is imported keep the width of that moment; tables shall not be cut.
os.environ["COLUMNS"] = "160"
# Read by torch when it is loaded. Small models gain nothing from more threads, and lose much where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings

from tests.redis_server import ValkeyServer
from tests.s3_server import S3Server

# Times on a shared machine say nothing about a single example. Fixed examples make a failure repeatable; to look for
# new ones: HYPOTHESIS_PROFILE=explore.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that speaks Redis' protocol; all tests share it, and tell their data apart by a prefix."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that speaks S3's protocol over HTTP; all tests share it, and each takes buckets of its own."""
    with S3Server(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where nothing is stored yet; endpoint and keys are in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket()}/some/artifacts"


@pytest.fixture
def redis_prefix() -> str:
    """A prefix for keys that no other test has."""
    return f"test-{uuid4().hex}"


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server for this test alone, to be killed, paused and restarted; it loses nothing that it acknowledged."""
    with ValkeyServer(tmp_path / "valkey", fsync="always") as server:
        yield server
