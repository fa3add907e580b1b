import pytest

from fashiondpo.diffusion.conditions import ConditionEncoder
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.outfits.mini import world_data_set
from fashiondpo.outfits.model import DataSet
from tests.tiny_models import random_adapter, saved_tiny_bundle
from tests.unit.judges.small_world import world


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> DiFashion:
    """Predicts noise. Shared: a test that puts an adapter on takes it off again."""
    return saved_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def velocity_bundle(tmp_path_factory: pytest.TempPathFactory) -> DiFashion:
    """Predicts v, as the mini bundle does."""
    return saved_tiny_bundle(tmp_path_factory.mktemp("velocity"), prediction_type="v_prediction")


@pytest.fixture(scope="session")
def adapter(bundle: DiFashion) -> AdapterWeights:
    """Changes what the bundle paints."""
    return random_adapter(bundle)


@pytest.fixture(scope="session")
def outfits() -> DataSet:
    """A mini world of rectangles."""
    return world_data_set(world())


@pytest.fixture
def encoder(bundle: DiFashion, outfits: DataSet) -> ConditionEncoder:
    return ConditionEncoder(bundle, outfits.catalogue, outfits.categories)
