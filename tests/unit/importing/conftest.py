from pathlib import Path

import pytest

from fashiondpo.diffusion.model import DiFashion, load_bundle, save_bundle
from tests.published_files import write_difashion, write_stable_diffusion, write_unet
from tests.tiny_models import build_tiny_bundle


@pytest.fixture(scope="session")
def original() -> DiFashion:
    """What the published folders hold."""
    return build_tiny_bundle(seed=3)


@pytest.fixture(scope="session")
def bundle_folder(original: DiFashion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of this repository, to import adapters for; to be read only."""
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(original, folder)
    return folder


@pytest.fixture
def bundle(bundle_folder: Path) -> DiFashion:
    return load_bundle(bundle_folder)


@pytest.fixture
def published(original: DiFashion, tmp_path: Path) -> Path:
    """DiFashion's two networks alone, as `.bin`."""
    return write_difashion(original, tmp_path / "published")


@pytest.fixture(scope="session")
def base(original: DiFashion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion with its UNet of four channels, as `.bin`; to be read only."""
    folder = write_stable_diffusion(original, tmp_path_factory.mktemp("stable-diffusion"))
    write_unet(original, folder / "unet", channels=4)
    return folder
