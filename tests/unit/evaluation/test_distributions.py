"""FID, KID and IS against the same formulas written another way, against torchmetrics, and by what must hold of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore as TorchmetricsInceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from fashiondpo.evaluation import distributions
from fashiondpo.evaluation.distributions import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Pictures,
    ReferenceSet,
    change_interval,
    frechet_distance,
    inception_score,
    kernel_distance,
    too_few_pictures,
)
from tests.reference import metric_formulas


def features(count: int, width: int = 6, *, seed: int = 0, shift: float = 0.0, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return spread * rng.normal(size=(count, width)) @ mixing + shift


def in_outfits(vectors: np.ndarray, each: int) -> Pictures:
    return Pictures(vectors, np.repeat(np.arange(len(vectors) // each), each))


class AsTheyAre(torch.nn.Module):
    """Lets vectors pass where torchmetrics expects a network that looks at pictures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


sets_of_features = arrays(
    np.float64, st.tuples(st.integers(3, 12), st.just(4)), elements=st.floats(-3, 3, allow_subnormal=False)
)
rows_of_chances = arrays(np.float64, st.tuples(st.integers(1, 9), st.just(5)), elements=st.floats(0.01, 1)).map(
    lambda chances: chances / chances.sum(1, keepdims=True)
)


class TestFrechetDistance:
    @pytest.mark.parametrize(("count", "real"), [(40, 60), (60, 40)])
    def test_is_the_formula_with_the_matrix_root(self, count, real):
        one, other = features(count), features(real, seed=1, shift=0.4, spread=1.3)
        assert frechet_distance(one, other) == pytest.approx(metric_formulas.frechet(one, other), rel=1e-8)

    @pytest.mark.parametrize("width", [5, 40], ids=["more pictures than features", "fewer"])
    def test_agrees_with_torchmetrics(self, width):
        one, other = features(30, width), features(35, width, seed=1, shift=0.4)
        metric = FrechetInceptionDistance(AsTheyAre(width)).set_dtype(torch.float64)
        metric.update(torch.from_numpy(other), real=True)
        metric.update(torch.from_numpy(one), real=False)
        # where the covariance has not full rank, torchmetrics takes roots of rounding errors
        assert frechet_distance(one, other) == pytest.approx(metric.compute().item(), rel=1e-8 if width == 5 else 1e-4)

    def test_of_two_gaussians_is_known(self):
        rng = np.random.default_rng(0)
        std, other_std = np.array([1.0, 2.0, 0.5]), np.array([1.5, 1.0, 0.5])
        mean, other_mean = np.array([0.0, 1.0, -1.0]), np.array([0.5, 1.0, 0.0])
        drawn = [rng.normal(size=(200_000, 3)) * s + m for s, m in ((std, mean), (other_std, other_mean))]
        analytic = ((mean - other_mean) ** 2).sum() + ((std - other_std) ** 2).sum()
        assert frechet_distance(*drawn) == pytest.approx(analytic, rel=0.02)  # sampling error of 200,000 draws

    def test_along_turned_axes_is_the_same(self):
        one, other = features(30), features(40, seed=1, shift=0.3)
        turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
        assert frechet_distance(one @ turn, other @ turn) == pytest.approx(frechet_distance(one, other), rel=1e-9)

    @given(one=sets_of_features, other=sets_of_features)
    def test_is_the_same_both_ways_and_never_negative(self, one, other):
        there, back = frechet_distance(one, other), frechet_distance(other, one)
        assert there >= 0
        assert there == pytest.approx(back, abs=1e-5)  # roots of rounding errors: √1e-12 per axis

    @given(vectors=sets_of_features)
    def test_of_a_set_to_itself_is_nothing(self, vectors):
        assert frechet_distance(vectors, vectors[::-1]) == pytest.approx(0, abs=1e-5)

    @given(vectors=sets_of_features, shift=st.floats(-3, 3))
    def test_of_a_moved_set_is_the_squared_way(self, vectors, shift):
        assert frechet_distance(vectors, vectors + shift) == pytest.approx(4 * shift**2, abs=1e-5)

    def test_of_drawn_outfits_is_that_of_their_pictures(self):
        vectors, reference = features(12), ReferenceSet(features(30, seed=1))
        drawn = np.array([2, 0, 2])
        rows = [8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11]
        found = FrechetDistance(in_outfits(vectors, 4), reference).value(drawn)
        assert found == pytest.approx(frechet_distance(vectors[rows], reference.vectors), rel=1e-9)

    def test_needs_two_pictures(self):
        with pytest.raises(ValueError, match="two pictures or more"):
            frechet_distance(features(1), features(5))
        with pytest.raises(ValueError, match="two pictures or more"):
            frechet_distance(features(5), features(1))

    def test_refuses_features_of_different_width(self):
        with pytest.raises(ValueError, match="differ in width: 6 and 5"):
            frechet_distance(features(5), features(5, 5))


class TestKernelDistance:
    def test_is_the_formula_pair_by_pair(self, monkeypatch):
        monkeypatch.setattr(distributions, "KERNEL_ROWS", 5)
        one, other = features(13), features(17, seed=1, shift=0.4)
        assert kernel_distance(one, other) == pytest.approx(metric_formulas.mmd_squared(one, other), rel=1e-9)

    @pytest.mark.filterwarnings("ignore:Metric `Kernel:UserWarning")
    def test_agrees_with_torchmetrics(self):
        one, other = features(20), features(20, seed=1, shift=0.4)
        metric = KernelInceptionDistance(AsTheyAre(6), subsets=1, subset_size=20).set_dtype(torch.float64)
        metric.update(torch.from_numpy(other), real=True)
        metric.update(torch.from_numpy(one), real=False)
        assert kernel_distance(one, other) == pytest.approx(metric.compute()[0].item(), rel=1e-6)

    def test_does_not_grow_when_there_are_few_pictures(self):
        def mean(count: int) -> float:
            sets = (features(2 * count, 4, seed=seed) for seed in range(400))
            return float(np.mean([kernel_distance(both[:count], both[count:]) for both in sets]))

        def spread(count: int) -> float:
            sets = (features(2 * count, 4, seed=seed) for seed in range(400))
            return float(np.std([kernel_distance(both[:count], both[count:]) for both in sets])) / math.sqrt(400)

        for count in (5, 40):
            assert abs(mean(count)) < 4 * spread(count)

    def test_of_drawn_outfits_counts_a_picture_once_in_every_pair(self):
        vectors, reference = features(6), features(9, seed=1)
        drawn = np.array([1, 1, 0])  # outfit 1 holds rows 2 and 3
        weights = np.array([1, 1, 2, 2, 0, 0])
        kernel = (vectors @ vectors.T / 6 + 1) ** 3
        pairs = np.array(
            [[(1 if i // 2 == j // 2 else weights[j]) * weights[i] * (i != j) for j in range(6)] for i in range(6)]
        )
        cross = ((vectors @ reference.T / 6 + 1) ** 3).mean(1)
        real = (reference @ reference.T / 6 + 1) ** 3
        expected = (
            (kernel * pairs).sum() / pairs.sum()
            + (real.sum() - np.trace(real)) / 72
            - 2 * (weights * cross).sum() / weights.sum()
        )
        found = KernelDistance(in_outfits(vectors, 2), ReferenceSet(reference)).value(drawn)
        assert found == pytest.approx(expected, rel=1e-9)

    def test_of_scaled_features_is_that_of_larger_ones_times_the_factor(self):
        one, reference = features(8), ReferenceSet(features(9, seed=1))
        found = KernelDistance(in_outfits(one, 1), reference, scale=3.0, factor=1000).value()
        assert found == pytest.approx(1000 * kernel_distance(3 * one, 3 * reference.vectors), rel=1e-9)


class TestUnit:
    def test_of_unit_vectors_is_the_root_of_their_width(self):
        vectors = features(9)
        assert ReferenceSet(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).unit == pytest.approx(
            math.sqrt(6)
        )

    def test_makes_the_distance_blind_to_the_features_size(self):
        one, real = features(9), features(12, seed=1)
        small, large = (
            KernelDistance(in_outfits(size * one, 1), ReferenceSet(size * real), scale=ReferenceSet(size * real).unit)
            for size in (0.01, 100)
        )
        assert small.value() == pytest.approx(large.value())


class TestInceptionScore:
    @given(chances=rows_of_chances)
    def test_is_the_entropy_of_all_minus_that_of_each(self, chances):
        assert inception_score(chances) == pytest.approx(metric_formulas.score_of_chances(chances.tolist()), rel=1e-9)

    @given(chances=rows_of_chances)
    def test_lies_between_one_and_the_number_of_classes(self, chances):
        assert 1 - 1e-12 <= inception_score(chances) <= 5

    @pytest.mark.filterwarnings("ignore:Metric `InceptionScore:UserWarning", "ignore:std:UserWarning")
    def test_agrees_with_torchmetrics(self):
        logits = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        metric = TorchmetricsInceptionScore(AsTheyAre(7), splits=1).set_dtype(torch.float64)
        metric.update(logits)
        assert inception_score(logits.softmax(1).numpy()) == pytest.approx(metric.compute()[0].item(), rel=1e-6)

    def test_is_the_number_of_classes_where_each_comes_once_without_doubt(self):
        assert inception_score(np.eye(6)) == pytest.approx(6)

    def test_is_one_where_nothing_can_be_told_apart(self):
        assert inception_score(np.full((8, 4), 0.25)) == pytest.approx(1)

    def test_of_drawn_outfits_is_that_of_their_pictures(self):
        chances = np.random.default_rng(0).dirichlet([1] * 4, size=6)
        found = InceptionScore(in_outfits(chances, 2)).value(np.array([2, 2]))
        assert found == pytest.approx(inception_score(chances[[4, 5, 4, 5]]))

    @pytest.mark.parametrize("row", [[0.5, 0.4], [1.5, -0.5]])
    def test_refuses_what_are_no_chances(self, row):
        with pytest.raises(ValueError, match="add up to 1"):
            inception_score([row])


class TestChangeInterval:
    def figures(self, gain: float, outfits: int = 30) -> tuple[InceptionScore, InceptionScore]:
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(outfits * 3, 5))
        return tuple(
            InceptionScore(in_outfits(np.exp(x) / np.exp(x).sum(1, keepdims=True), 3))
            for x in (logits, logits * (1 + gain))
        )

    def test_lies_around_the_difference_that_was_found(self):
        old, new = self.figures(0.5)
        found = change_interval(old, new, 30, samples=200)
        assert found.mean == pytest.approx(new.value() - old.value())
        assert found.low < found.mean < found.high
        assert found.low > 0

    def test_of_the_same_pictures_is_nothing(self):
        old, _ = self.figures(0.5)
        found = change_interval(old, old, 30, samples=50)
        assert (found.low, found.mean, found.high) == (0, 0, 0)

    def test_is_around_the_estimate_though_resampling_inflates_the_distance(self):
        reference = ReferenceSet(features(200, seed=9))
        old, new = (FrechetDistance(in_outfits(features(60, seed=s), 3), reference) for s in (1, 2))
        rng = np.random.default_rng(0)
        inflated = np.mean([old.value(rng.integers(20, size=20)) for _ in range(50)])
        assert inflated > 1.2 * old.value()
        found = change_interval(old, new, 20, samples=200)
        assert found.low < found.mean < found.high

    def test_of_one_seed_is_one_interval(self):
        old, new = self.figures(0.2)
        assert change_interval(old, new, 30, samples=40) == change_interval(old, new, 30, samples=40)
        assert change_interval(old, new, 30, samples=40) != change_interval(old, new, 30, samples=40, seed=1)

    @pytest.mark.parametrize(("outfits", "samples", "level"), [(0, 5, 0.9), (5, 0, 0.9), (5, 5, 1.0)])
    def test_refuses_what_makes_no_sense(self, outfits, samples, level):
        old, new = self.figures(0.2)
        with pytest.raises(ValueError, match="expected outfits, samples and a level"):
            change_interval(old, new, outfits, samples=samples, level=level)


class TestPictures:
    @pytest.mark.parametrize(
        ("vectors", "outfits", "said"),
        [
            (np.zeros((3, 2)), [0, 1], "expected vectors"),
            (np.full((2, 2), np.nan), [0, 1], "must be finite"),
            (np.zeros((2, 2)), [0, 2], "without gaps"),
        ],
    )
    def test_refuse_what_does_not_fit(self, vectors, outfits, said):
        with pytest.raises(ValueError, match=said):
            Pictures(vectors, np.array(outfits))


class TestTooFewPictures:
    def test_says_nothing_while_both_covariances_can_have_full_rank(self):
        assert too_few_pictures(129, 129, 128) is None

    @pytest.mark.parametrize(
        ("pictures", "real", "named"),
        [
            (128, 999, "128 generated pictures"),
            (999, 100, "100 real"),
            (5, 6, "5 generated pictures and 6 real pictures"),
        ],
    )
    def test_names_the_side_that_is_short(self, pictures, real, named):
        assert named in str(too_few_pictures(pictures, real, 128))

    def test_is_right_about_the_rank(self):
        assert np.linalg.matrix_rank(np.cov(features(6).T)) == 5
        assert np.linalg.matrix_rank(np.cov(features(7).T)) == 6
