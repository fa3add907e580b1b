"""Settings of every test process, made before anything under test is imported."""

import os

# No test may need the network; the hub's client would otherwise ask it for files that are already here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
# Read by torch when it is loaded. Small models gain nothing from more threads, and lose much where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from hypothesis import settings

# Times on a shared machine say nothing about a single example. Fixed examples make a failure repeatable; to look for
# new ones: HYPOTHESIS_PROFILE=explore.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
