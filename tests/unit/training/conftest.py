import pytest

from fashiondpo.contracts import AdapterRef, content_digest
from fashiondpo.diffusion.lora import AdapterWeights, load_adapter, remove_adapter
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.trajectory import Trajectory
from tests.tiny_models import build_tiny_bundle, random_adapter
from tests.tiny_rounds import recorded


@pytest.fixture
def bundle() -> DiFashion:
    """Fresh for every test: a trainer changes it."""
    return build_tiny_bundle()


@pytest.fixture(scope="session")
def trajectories() -> list[Trajectory]:
    """Runs of the base model, four outfits with three candidates."""
    return recorded(build_tiny_bundle(), 4)


@pytest.fixture(scope="session")
def parent() -> AdapterWeights:
    return random_adapter(build_tiny_bundle())


@pytest.fixture(scope="session")
def parent_ref(parent: AdapterWeights) -> AdapterRef:
    return AdapterRef(version=1, digest=content_digest(parent.to_bytes()))


@pytest.fixture(scope="session")
def parent_trajectories(parent: AdapterWeights, parent_ref: AdapterRef) -> list[Trajectory]:
    """The same outfits, painted with the parent adapter."""
    bundle = build_tiny_bundle()
    load_adapter(bundle.unet, parent, bundle.digest)
    found = recorded(bundle, 4, adapter=parent_ref)
    remove_adapter(bundle.unet)
    return found
