"""Who names the category of a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fashiondpo.diffusion.conditions import category_prompt
from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.held_out import HeldOutConfig, HeldOutJudge, HeldOutNet
from fashiondpo.judges.pixels import square_batch
from fashiondpo.metrics.categories import CategoryClassifier, HeldOutClassifier, ZeroShotClassifier
from fashiondpo.outfits.mini import CATEGORIES, MiniCatalogue
from fashiondpo.outfits.model import Image
from tests.unit.judges.small_world import garment, small_features, world

IMAGES: list[Image] = [garment((200, 30 * k, 90), size_px=side) for k, side in enumerate((32, 32, 48, 32, 20))]


@pytest.fixture
def network() -> HeldOutNet:
    torch.manual_seed(0)
    return HeldOutNet(HeldOutConfig(width=8)).eval()


@pytest.fixture
def folder(tmp_path: Path, network: HeldOutNet) -> Path:
    HeldOutJudge(network, MiniCatalogue(world())).save(tmp_path)
    return tmp_path


class TestHeldOutClassifier:
    def test_gives_the_networks_chances(self, folder: Path, network: HeldOutNet):
        found = HeldOutClassifier.load(folder, CATEGORIES).probabilities(IMAGES)
        with torch.no_grad():
            logits = network(square_batch(IMAGES, 32) * 2 - 1)
        odds = np.exp(logits.double().numpy())
        expected = torch.from_numpy(odds / odds.sum(1, keepdims=True))
        # weights are stored in half precision where nothing is lost, and these are not
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)

    def test_its_features_lead_to_its_chances_through_the_last_layer(self, folder: Path, network: HeldOutNet):
        classifier = HeldOutClassifier.load(folder, CATEGORIES)
        vectors = classifier.images(IMAGES)
        assert vectors.shape == (5, classifier.dim)
        with torch.no_grad():
            chances = network.head[2:](vectors).double().softmax(1)
        torch.testing.assert_close(classifier.probabilities(IMAGES), chances, rtol=1e-5, atol=1e-7)

    def test_names_the_category_that_the_held_out_judge_names(self, folder: Path):
        classifier = HeldOutClassifier.load(folder, CATEGORIES)
        named = classifier.probabilities(IMAGES).argmax(1).tolist()
        assert named == HeldOutJudge.load(folder, MiniCatalogue(world())).categories(IMAGES)

    def test_refuses_other_categories(self, folder: Path):
        fewer = {key: value for key, value in CATEGORIES.items() if key < 9}
        with pytest.raises(InvalidBundle, match="tells 10 categories apart"):
            HeldOutClassifier.load(folder, fewer)

    def test_of_no_pictures_is_empty(self, folder: Path):
        classifier = HeldOutClassifier.load(folder, CATEGORIES)
        assert classifier.probabilities([]).shape == (0, 10)
        assert classifier.images([]).shape == (0, classifier.dim)


class TestZeroShotClassifier:
    def test_is_the_softmax_over_a_hundred_cosines(self):
        features = small_features()
        found = ZeroShotClassifier(features, CATEGORIES).probabilities(IMAGES)
        sentences = features.texts([category_prompt(CATEGORIES[c]) for c in range(10)]).double()
        for row, picture in zip(found, features.images(IMAGES).double(), strict=True):
            odds = torch.exp(100 * torch.stack([picture @ sentence for sentence in sentences]))
            torch.testing.assert_close(row, odds / odds.sum(), rtol=1e-6, atol=1e-9)

    def test_keeps_categories_apart_whatever_their_numbers(self):
        renamed = {key + 40: value for key, value in CATEGORIES.items()}
        classifier = ZeroShotClassifier(small_features(), renamed)
        assert classifier.category_ids == tuple(range(40, 50))


class TestBoth:
    def test_are_classifiers_with_rows_that_add_up_to_one(self, folder: Path):
        for classifier in (
            HeldOutClassifier.load(folder, CATEGORIES),
            ZeroShotClassifier(small_features(), CATEGORIES),
        ):
            assert isinstance(classifier, CategoryClassifier)
            assert classifier.name
            torch.testing.assert_close(classifier.probabilities(IMAGES).sum(1), torch.ones(5, dtype=torch.float64))
