from pathlib import Path

import huggingface_hub.constants
import pytest

from fashiondpo.model_cache.fetching import ModelFetcher
from fashiondpo.model_cache.hub import HuggingFaceHub
from fashiondpo.model_cache.places import ModelPlaces
from tests.model_hub import FakeHub, folder_files
from tests.published_files import write_difashion, write_stable_diffusion
from tests.tiny_models import build_tiny_bundle

PROFILE = """
description = "a house's own models"
image_size = 32
architecture = "stable-diffusion-2"
weights = "difashion/house"
is_legacy = true

[base]
repo = "house/base"
files = ["scheduler/*.json", "text_encoder/*", "tokenizer/*", "vae/*"]

[sampler]
num_inference_steps = 3
mutual_reduction = "sum"
legacy_null_history = true

[sampler.guidance]
category = 6.0

[judges]
vbpr = "vbpr/house"

[judges.quality]
backend = "mini"

[judges.clip]
name = "ViT-B-32"
pretrained = "none"

[judges.clip.source]
repo = "house/clip"
files = ["open_clip_config.json", "model.safetensors"]
"""


@pytest.fixture
def _online(monkeypatch):
    """Tests are offline; these reach a hub on this machine."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def published_files(tmp_path_factory) -> Path:
    """Folders in the formats of hubs: base/ of Stable Diffusion, difashion/ with its two networks, all with them all."""
    folder = tmp_path_factory.mktemp("published")
    bundle = build_tiny_bundle(seed=3)
    write_stable_diffusion(bundle, folder / "base", ending=".safetensors")
    write_difashion(bundle, folder / "difashion", ending=".safetensors")
    write_stable_diffusion(bundle, folder / "all", ending=".safetensors")
    write_difashion(bundle, folder / "all", ending=".safetensors")
    return folder


@pytest.fixture
def hub(_online, published_files, repository):
    with FakeHub() as hub:
        hub.add("house/base", folder_files(published_files / "base") | {"unwanted.ckpt": b"x" * 5000})
        clip = folder_files(repository / "assets/mini/judges/clip", lambda name: "/" not in name)
        hub.add("house/clip", clip, licence="mit")
        hub.add("house/all", folder_files(published_files / "all"))
        yield hub


@pytest.fixture
def places(tmp_path, repository):
    return ModelPlaces(tmp_path / "cache", repository / "assets/mini")


@pytest.fixture
def house(places, published_files):
    """A profile of one's own, with the weights that its operator brings."""
    (places.cache / "profiles").mkdir(parents=True)
    (places.cache / "profiles" / "house.toml").write_text(PROFILE)
    weights = places.cache / "difashion" / "house"
    weights.parent.mkdir()
    weights.symlink_to(published_files / "difashion")
    return "house"


@pytest.fixture
def fetcher(places, hub):
    return ModelFetcher(places, HuggingFaceHub(hub.url))
