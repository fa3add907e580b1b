import pytest

from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.outfits.mini import world_data_set
from fashiondpo.outfits.model import DataSet
from tests.unit.judges.small_world import small_features, world


@pytest.fixture(scope="session")
def data() -> DataSet:
    return world_data_set(world())


@pytest.fixture(scope="session")
def features() -> OpenClipFeatures:
    return small_features()


@pytest.fixture(scope="session")
def items(features: OpenClipFeatures, data: DataSet) -> CatalogueFeatures:
    return CatalogueFeatures(features, data.catalogue)
