import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.quality import MiniQualityJudge
from fashiondpo.pretraining.corruptions import add_low_noise
from fashiondpo.pretraining.garments import sample_garments
from fashiondpo.pretraining.quality import (
    BEST_TARGET,
    PAINTED_DAMAGE,
    QualityPictures,
    QualitySettings,
    _batch,
    auc,
    quality_report,
    rank_correlation,
    train_quality,
)
from tests.reference.judge_formulas import pairwise_auc
from tests.unit.judges.small_world import outfit, shapes

FLOATS = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=12)


def pictures(count: int = 120, seed: int = 0) -> QualityPictures:
    """Garments as they are, as if decoded (a little darker), under clouds of known density, and as if painted (striped)."""
    rng = np.random.default_rng(seed)
    raw, decoded, base, painted = (sample_garments(shapes(seed), count, rng).images for _ in range(4))
    painted[:, ::2] //= 3
    damage = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    pixels = torch.from_numpy(base).permute(0, 3, 1, 2).float() / 127.5 - 1
    clouded = add_low_noise(pixels, damage, torch.Generator().manual_seed(seed))
    damaged = ((clouded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return QualityPictures(raw, (decoded * 0.98).astype(np.uint8), damaged, damage.double().numpy(), painted)


@pytest.fixture(scope="module")
def trained() -> tuple[MiniQualityJudge, list[float]]:
    losses: list[float] = []
    settings = QualitySettings(width=12, steps=100, batch_size=96)
    judge = train_quality(pictures(), settings, progress=lambda done, total, figures: losses.append(figures["loss"]))
    return judge, losses


class TestQualityPictures:
    def test_refuse_labels_that_do_not_fit(self):
        one = pictures(3)
        with pytest.raises(ValueError, match="3 damaged pictures, but 2 labels"):
            QualityPictures(one.raw, one.decoded, one.damaged, one.damage[:2], one.painted)
        with pytest.raises(ValueError, match="must lie in 0…1"):
            QualityPictures(one.raw, one.decoded, one.damaged, one.damage + 1, one.painted)


class TestFigures:
    @given(FLOATS, FLOATS)
    def test_auc_counts_pairs_in_the_right_order(self, better: list[float], worse: list[float]):
        assert auc(torch.tensor(better), torch.tensor(worse)) == pytest.approx(pairwise_auc(better, worse))

    @given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=15))
    def test_rank_correlation_is_spearmans(self, points: list[tuple[int, int]]):
        a, b = np.array(points, dtype=float).T
        if len(set(a)) > 1 and len(set(b)) > 1:
            expected = stats.spearmanr(a, b).statistic
            assert rank_correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, abs=1e-9)


class TestBatch:
    def test_a_quarter_is_good_and_the_labels_are_strengths(self):
        pixels, damage = _batch(pictures(40), 96, torch.Generator().manual_seed(0))
        assert pixels.shape == (96, 3, 32, 32)
        assert (damage == 0).sum() == 24
        assert damage.max() <= 1

    def test_what_was_painted_comes_last_with_one_label(self):
        pixels, damage = _batch(pictures(40), 96, torch.Generator().manual_seed(0))
        assert (damage[-36:] == PAINTED_DAMAGE).all()
        rows = pixels[-36:].mean((1, 3))
        assert (rows[:, ::2].mean(1) - rows[:, 1::2].mean(1)).abs().min() > 0.05  # stripes, mirrored or not

    def test_good_pictures_come_first_raw_then_decoded(self):
        pixels, damage = _batch(pictures(40), 96, torch.Generator().manual_seed(0))
        brightest = pixels[:24].amax((1, 2, 3))
        assert (damage[:24] == 0).all()
        assert brightest[:12].min() > brightest[12:].max()  # "decoded" pictures are darker here


class TestTrainQuality:
    def test_loss_falls(self, trained: tuple[MiniQualityJudge, list[float]]):
        losses = trained[1]
        assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])

    def test_ranks_unseen_pictures_by_damage(self, trained: tuple[MiniQualityJudge, list[float]]):
        report = quality_report(trained[0], pictures(seed=1))
        assert report.auc_corrupted > 0.7
        assert report.auc_damaged > 0.8
        assert report.rank_correlation_damaged > 0.5
        assert report.auc_painted > 0.8

    def test_learns_not_to_see_whether_a_picture_was_decoded(self):
        even, uneven = (
            train_quality(pictures(), QualitySettings(width=8, steps=80, batch_size=96, evenness=evenness))
            for evenness in (1.0, 0.0)
        )
        chances = [quality_report(judge, pictures(seed=1)).auc_raw_over_decoded for judge in (even, uneven)]
        assert abs(chances[0] - 0.5) < max(abs(chances[1] - 0.5), 0.1)

    def test_does_not_pile_up_at_the_top_of_the_scale(self, trained: tuple[MiniQualityJudge, list[float]]):
        report = quality_report(trained[0], pictures(seed=1))
        assert report.good_mean < 1 + 9 * (BEST_TARGET + 0.05)
        assert report.good_std > 0.02

    def test_gives_a_judge_that_can_be_used_at_once(self, trained: tuple[MiniQualityJudge, list[float]]):
        image = pictures(1).raw[0]
        (score,) = trained[0].score([JudgeInput("c", outfit(None, 1, 2, 3), 0, image)])
        assert score.value is not None

    def test_refuses_to_train_without_one_of_the_kinds(self):
        one = pictures(3)
        with pytest.raises(ValueError, match="are all needed"):
            train_quality(QualityPictures(one.raw[:0], one.decoded, one.damaged, one.damage, one.painted))
        with pytest.raises(ValueError, match="are all needed"):
            train_quality(QualityPictures(one.raw, one.decoded, one.damaged, one.damage, one.painted[:0]))
