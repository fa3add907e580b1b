"""Intervals, win rates and diversity, against formulas written a second way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fashiondpo.evaluation.statistics import (
    bootstrap_interval,
    mean_of_present,
    pairwise_diversity,
    win_rate,
    wins,
)
from tests.reference.comparison_formulas import mean_pair_distance, share_interval

figures = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


class TestBootstrapInterval:
    def test_agrees_with_scipys_percentile_bootstrap(self):
        values = np.random.default_rng(1).gamma(2.0, size=80)
        found = bootstrap_interval(values, samples=20_000, seed=1)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
        # The end points of 20,000 resamplings scatter by about 0.01 here (standard error of the mean: 0.16).
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)

    def test_of_wins_is_the_binomial_law(self):
        outcomes = np.array([1.0] * 34 + [0.0] * 16)
        found = bootstrap_interval(outcomes, samples=20_000)
        assert (found.low, found.high) == pytest.approx(share_interval(34, 50), abs=0.0201)

    def test_covers_the_true_mean_about_as_often_as_it_says(self):
        rng = np.random.default_rng(5)
        intervals = [bootstrap_interval(rng.normal(size=40), samples=400, seed=i) for i in range(300)]
        covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
        assert 0.89 <= covered <= 0.98

    @given(figures)
    def test_lies_within_the_values_it_resamples(self, values):
        found = bootstrap_interval(values, samples=50)
        slack = 1e-9 * (1 + max(map(abs, values)))
        assert min(values) - slack <= found.low <= found.high <= max(values) + slack

    @given(figures, st.floats(-50, 50))
    def test_moves_along_with_the_values(self, values, shift):
        before, after = bootstrap_interval(values, samples=50), bootstrap_interval(np.add(values, shift), samples=50)
        assert (after.mean, after.low, after.high) == pytest.approx(
            (before.mean + shift, before.low + shift, before.high + shift), abs=1e-9
        )

    def test_gets_narrower_with_more_outfits_and_a_lower_level(self):
        values = np.random.default_rng(2).normal(size=400)
        few, many, sloppy = (
            bootstrap_interval(values[:25]),
            bootstrap_interval(values),
            bootstrap_interval(values, level=0.5),
        )
        assert few.high - few.low > many.high - many.low > sloppy.high - sloppy.low

    def test_is_the_same_for_the_same_seed(self):
        values = np.arange(9.0)
        assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
        assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)

    def test_leaves_out_outfits_without_a_value(self):
        assert bootstrap_interval([1.0, math.nan, 3.0]) == bootstrap_interval([1.0, 3.0])

    def test_of_one_value_is_that_value(self):
        found = bootstrap_interval([2.5])
        assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5)

    @pytest.mark.parametrize("values", [[], [math.nan], [math.inf], [[1.0]]])
    def test_refuses_what_has_no_mean(self, values):
        with pytest.raises(ValueError, match="value"):
            bootstrap_interval(values)

    @pytest.mark.parametrize("options", [{"samples": 0}, {"level": 0.0}, {"level": 1.0}])
    def test_refuses_options_that_make_no_sense(self, options):
        with pytest.raises(ValueError, match="samples must be at least 1"):
            bootstrap_interval([1.0], **options)


class TestWinRate:
    def test_counts_wins_once_and_ties_half(self):
        assert win_rate([1, 1, 1, 1], [2, 2, 1, 0]).mean == 0.625

    def test_of_equal_policies_is_one_half_without_doubt(self):
        found = win_rate([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
        assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_leaves_out_outfits_with_one_side_only(self):
        assert win_rate([1.0, math.nan, 1.0], [2.0, 2.0, math.nan]).mean == 1.0

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
    def test_of_the_reverse_comparison_is_the_rest(self, scores):
        before, after = np.array(scores, float).T
        assert win_rate(before, after).mean + win_rate(after, before).mean == pytest.approx(1)

    def test_refuses_different_outfits(self):
        with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
            wins([1, 2], [1, 2, 3])


class TestPairwiseDiversity:
    def test_equals_the_mean_over_all_pairs_taken_one_by_one(self):
        features = np.random.default_rng(0).normal(size=(5, 7, 16))
        expected = [mean_pair_distance(vectors) for vectors in features.tolist()]
        np.testing.assert_allclose(pairwise_diversity(features), expected, rtol=1e-12)

    def test_is_zero_where_all_candidates_are_the_same(self):
        assert pairwise_diversity(np.ones((2, 7, 4))).tolist() == [0, 0]

    def test_does_not_depend_on_the_order_of_the_candidates(self):
        features = np.random.default_rng(0).normal(size=(3, 5, 8))
        np.testing.assert_allclose(pairwise_diversity(features), pairwise_diversity(features[:, ::-1]), rtol=1e-12)

    def test_of_two_opposite_unit_vectors_is_two(self):
        assert pairwise_diversity([[[1.0, 0.0], [-1.0, 0.0]]]).tolist() == [2.0]

    @pytest.mark.parametrize("shape", [(3, 7), (3, 1, 8)])
    def test_refuses_features_without_pairs(self, shape):
        with pytest.raises(ValueError, match="outfits, K >= 2, dimensions"):
            pairwise_diversity(np.zeros(shape))


class TestMeanOfPresent:
    def test_is_numpys_mean_without_the_gaps(self):
        values = np.where(np.random.default_rng(0).random((20, 7)) < 0.3, np.nan, np.arange(140.0).reshape(20, 7))
        np.testing.assert_allclose(mean_of_present(values, axis=1), np.nanmean(values, axis=1))

    def test_of_nothing_is_nan_without_a_warning(self, recwarn):
        assert np.isnan(mean_of_present(np.full((1, 3), np.nan), axis=1)).all()
        assert not recwarn
