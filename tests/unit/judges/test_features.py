import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fashiondpo.errors import InvalidBundle, InvalidInput, UnknownItem
from fashiondpo.judges.features import ImageFeatures, OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures, catalogue_features
from fashiondpo.judges.pixels import square_batch
from fashiondpo.outfits.model import DataSet
from fashiondpo.pretraining.clip import build_clip
from tests.unit.judges.small_world import garment, small_features

IMAGES = [garment((200, 30, 30)), garment((30, 30, 200), size_px=48), np.zeros((20, 30, 3), np.uint8)]


@pytest.fixture(scope="module")
def folder(features: OpenClipFeatures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    features.save(path)
    return path


class TestOpenClipFeatures:
    def test_satisfies_the_protocol(self, features: OpenClipFeatures):
        assert isinstance(features, ImageFeatures)

    def test_images_and_texts_have_unit_length(self, features: OpenClipFeatures):
        for vectors in (features.images(IMAGES), features.texts(["a photo of a bag", "a shirt"])):
            assert vectors.shape[1] == features.dim
            assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))

    def test_are_the_models_own_on_normalised_pixels(self):
        model = build_clip(dict(small_features()._config))
        features = OpenClipFeatures(model, name="x", config=small_features()._config)
        pixels = square_batch(IMAGES, 32) * 2 - 1  # the mini model's mean and deviation are one half
        assert_close(features.images(IMAGES), model.encode_image(pixels, normalize=True))

    def test_do_not_depend_on_the_batch(self, features: OpenClipFeatures):
        alone = torch.cat([features.images([image]) for image in IMAGES])
        assert_close(features.images(IMAGES), alone, rtol=0, atol=1e-5)  # kernels differ by batch size

    def test_nothing_in_nothing_out(self, features: OpenClipFeatures):
        assert features.images([]).shape == (0, features.dim)

    def test_a_saved_folder_gives_the_same_features_under_the_same_id(self, features: OpenClipFeatures, folder: Path):
        loaded = OpenClipFeatures.load(folder)
        assert loaded.feature_id == features.feature_id
        assert_close(loaded.images(IMAGES), features.images(IMAGES))
        assert_close(loaded.texts(["a red bag"]), features.texts(["a red bag"]))

    def test_what_was_loaded_can_be_saved_again(self, folder: Path, tmp_path: Path):
        loaded = OpenClipFeatures.load(folder)
        loaded.save(tmp_path)
        assert OpenClipFeatures.load(tmp_path).feature_id == loaded.feature_id

    def test_other_weights_have_another_id(self, features: OpenClipFeatures):
        assert small_features(seed=1).feature_id != features.feature_id

    def test_without_a_tokenizer_it_takes_no_texts(self, features: OpenClipFeatures):
        bare = OpenClipFeatures(build_clip(dict(features._config)), name="bare", config=features._config)
        with pytest.raises(InvalidInput, match="without a tokenizer"):
            bare.texts(["a bag"])

    def test_refuses_an_unknown_name(self):
        with pytest.raises(InvalidBundle, match="neither a folder of CLIP weights nor"):
            OpenClipFeatures.load("no-such-model")

    @pytest.mark.parametrize("missing", ["open_clip_config.json", "model.safetensors"])
    def test_refuses_a_folder_that_lacks_a_part(self, folder: Path, tmp_path: Path, missing: str):
        for path in folder.iterdir():
            if path.is_file() and path.name != missing:
                (tmp_path / path.name).write_bytes(path.read_bytes())
        with pytest.raises(InvalidBundle):
            OpenClipFeatures.load(tmp_path)

    def test_refuses_truncated_weights(self, folder: Path, tmp_path: Path):
        for name in ("open_clip_config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((folder / name).read_bytes()[: None if name.endswith("json") else 2000])
        with pytest.raises(InvalidBundle):
            OpenClipFeatures.load(tmp_path)

    def test_refuses_a_configuration_of_another_model(self, folder: Path, tmp_path: Path):
        written = json.loads((folder / "open_clip_config.json").read_text())
        written["model_cfg"]["embed_dim"] = 17
        (tmp_path / "open_clip_config.json").write_text(json.dumps(written))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        with pytest.raises(InvalidBundle):
            OpenClipFeatures.load(tmp_path)


class TestCatalogueFeatures:
    def test_are_the_items_features_in_the_order_asked_for(self, features: OpenClipFeatures, data: DataSet):
        items = CatalogueFeatures(features, data.catalogue)
        expected = features.images([data.catalogue.image(item_id) for item_id in (5, 2, 5)])
        assert_close(items.of([5, 2, 5]), expected, rtol=0, atol=1e-5)

    def test_refuse_an_unknown_item(self, items: CatalogueFeatures):
        with pytest.raises(UnknownItem, match="item 999999"):
            items.of([1, 999_999])

    def test_each_item_is_computed_once(self, features: OpenClipFeatures, data: DataSet):
        items, computed = CatalogueFeatures(features, data.catalogue, batch_size=2), []
        for asked in ([1, 2, 3], [3, 4], [1, 4]):
            items.of(asked, lambda done, total, figures: computed.append((done, total)))
        assert computed == [(2, 3), (3, 3), (1, 1)]

    def test_come_back_from_the_cache_file(self, features: OpenClipFeatures, data: DataSet, tmp_path: Path):
        first = CatalogueFeatures(features, data.catalogue, cache=tmp_path)
        first.compute_all()
        second, computed = CatalogueFeatures(features, data.catalogue, cache=tmp_path), []
        assert_close(second.of([1, 9]), first.of([1, 9]), rtol=0, atol=0)
        second.compute_all(lambda done, total, figures: computed.append(done))
        assert computed == []

    def test_the_cache_of_another_model_is_not_used(self, features: OpenClipFeatures, data: DataSet, tmp_path: Path):
        paths = {
            CatalogueFeatures(other, data.catalogue, cache=tmp_path).cache_path()
            for other in (features, small_features(seed=1))
        }
        assert len(paths) == 2

    @pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: b"junk"])
    def test_a_damaged_cache_is_computed_again(self, features, data, tmp_path: Path, damage):
        first = CatalogueFeatures(features, data.catalogue, cache=tmp_path)
        first.compute_all()
        first.cache_path().write_bytes(damage(first.cache_path().read_bytes()))
        second = CatalogueFeatures(features, data.catalogue, cache=tmp_path)
        assert_close(second.of([1, 9]), first.of([1, 9]), rtol=0, atol=1e-5)

    def test_can_be_shared_but_not_with_a_judge_of_other_features(self, items: CatalogueFeatures):
        assert catalogue_features(items.features, items) is items
        with pytest.raises(InvalidInput, match="the catalogue's features are"):
            catalogue_features(small_features(seed=1), items)
