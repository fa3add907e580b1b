import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.outfits.colour import COLOURS
from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.bundle import mini_tokenizer
from fashiondpo.pretraining.captions import captions
from fashiondpo.pretraining.clip import (
    ClipSettings,
    _captioned,
    build_clip,
    clip_config,
    clip_report,
    soft_contrastive_loss,
    train_clip,
)
from fashiondpo.pretraining.garments import sample_garments
from fashiondpo.pretraining.tokenizer import CONTEXT_LENGTH, train_tokenizer
from tests.unit.judges.small_world import SMALL_CLIP, shapes

SHORT = ClipSettings(
    embed_dim=32, vision_width=64, vision_layers=2, text_width=64, text_layers=1, steps=60, batch_size=64
)


class TestCaptions:
    def test_name_category_and_colour(self):
        assert captions()[0] == "a photo of a red t-shirt, on white background"
        assert "a photo of a pair of blue sandals, on white background" in captions()

    def test_say_how_good_the_picture_is(self):
        assert "a bad, blurry, corrupted, low quality photo of a grey bag, on white background" in captions()

    def test_hold_the_prompt_that_the_generator_uses(self):
        assert "A photo of a pair of ankle boots, on white background, high quality" in captions()

    def test_are_never_cut_by_the_tokenizer(self):
        tokenizer = mini_tokenizer(CATEGORIES)
        assert max(len(ids) for ids in tokenizer(captions()).input_ids) <= CONTEXT_LENGTH


class TestCaptioned:
    def test_matches_are_the_captions_that_are_true_of_an_image(self):
        garments = sample_garments(shapes(), 200, np.random.default_rng(0))
        _, chosen, matches = _captioned(garments, torch.Generator().manual_seed(0))
        texts = [captions()[i] for i in chosen]
        is_bad = ["bad, " in text for text in texts]
        for i in range(0, 200, 17):
            category, colour = CATEGORIES[int(garments.categories[i])].name, COLOURS[int(garments.colours[i])]
            for j, text in enumerate(texts):
                names_category = f" {category}," in text
                names_colour = text.startswith("A photo") or f" {colour} {category}," in text
                assert bool(matches[i, j]) == (names_category and names_colour and is_bad[i] == is_bad[j])

    def test_each_image_has_its_own_caption_among_them(self):
        garments = sample_garments(shapes(), 64, np.random.default_rng(0))
        _, _, matches = _captioned(garments, torch.Generator().manual_seed(0))
        assert matches.diagonal().all()


class TestSoftContrastiveLoss:
    def test_with_one_caption_per_image_is_clips_own(self):
        logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        labels = torch.arange(5)
        expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        assert_close(soft_contrastive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)

    def test_is_least_where_all_true_captions_share_the_weight(self):
        matches = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)).bool()
        even = torch.where(matches, 20.0, -20.0)
        uneven = even.clone()
        uneven[0, 1] = 0
        assert soft_contrastive_loss(even, matches) < soft_contrastive_loss(uneven, matches)
        assert soft_contrastive_loss(even, matches).item() == pytest.approx(np.log(2) * 2 / 3)


class TestBuildClip:
    def test_of_the_shipped_size_has_about_a_million_weights(self):
        model = build_clip(clip_config(ClipSettings(), 651))
        assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.1e6


@pytest.fixture(scope="module")
def trained() -> tuple[OpenClipFeatures, list[float]]:
    losses: list[float] = []
    tokenizer = train_tokenizer(captions())
    features = train_clip(
        shapes(0), tokenizer, SHORT, seed=0, progress=lambda done, total, figures: losses.append(figures["loss"])
    )
    return features, losses


class TestTrainClip:
    def test_loss_falls(self, trained: tuple[OpenClipFeatures, list[float]]):
        _, losses = trained
        assert len(losses) == SHORT.steps
        assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])

    def test_soon_names_categories_far_above_chance(self, trained: tuple[OpenClipFeatures, list[float]]):
        report = clip_report(trained[0], sample_garments(shapes(1), 300, np.random.default_rng(1)))
        assert report.category_accuracy > 3 / len(CATEGORIES)
        assert report.both_accuracy <= min(report.category_accuracy, report.colour_accuracy)

    def test_what_it_returns_keeps_its_id_when_saved(self, trained: tuple[OpenClipFeatures, list[float]], tmp_path):
        trained[0].save(tmp_path)
        assert OpenClipFeatures.load(tmp_path).feature_id == trained[0].feature_id
        assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * 2 * _weights(trained[0])

    def test_the_seed_decides_everything(self):
        tokenizer = train_tokenizer(captions())
        ids = [train_clip(shapes(), tokenizer, SMALL_CLIP, seed=seed).feature_id for seed in (4, 4, 5)]
        assert ids[0] == ids[1] != ids[2]


def _weights(features: OpenClipFeatures) -> int:
    return sum(p.numel() for p in features._model.parameters())
