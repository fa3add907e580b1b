"""Rows of the table: figures on both sides, the difference with its interval, or why there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fashiondpo.evaluation.distributions import InceptionScore, Pictures, change_interval
from fashiondpo.evaluation.paper_table import LeftOut, Measured, Metric, MetricRow, metric_row
from fashiondpo.evaluation.statistics import bootstrap_interval

METRIC = Metric("history", "Similarity to history", "the user's own", "shared", "clip-1")
OF_SET = Metric("is", "IS", "1 to 4", "held_out", "held-out-1", digits=None)


def side(values: list[float], key: str = "history") -> Measured:
    return Measured({key: np.array(values, dtype=float)})


def score(gain: float) -> InceptionScore:
    logits = np.random.default_rng(0).normal(size=(12, 4)) * gain
    return InceptionScore(Pictures(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), np.repeat(range(4), 3)))


def row(*sides: Measured, metric: Metric = METRIC, outfits: int = 4) -> MetricRow:
    found = metric_row(metric, *sides, outfits=outfits)
    assert isinstance(found, MetricRow)
    return found


class TestOfMeans:
    def test_holds_means_and_the_bootstrap_of_the_differences(self):
        before, after, truth = [0.1, 0.2, 0.3, 0.6], [0.2, 0.2, 0.5, 0.5], [0.9, 0.8, 1.0, 0.9]
        found = row(side(before), side(after), side(truth))
        expected = bootstrap_interval(np.subtract(after, before))
        assert (found.before, found.after, found.truth) == pytest.approx((0.3, 0.35, 0.9))
        assert (found.delta, *found.ci) == (expected.mean, expected.low, expected.high)

    def test_counts_only_outfits_that_have_both_sides(self):
        found = row(side([1, np.nan, 3, 4]), side([2, 2, np.nan, 5]), side([7, 100, 100, 9]))
        assert (found.outfits, found.before, found.after, found.delta, found.truth) == (2, 2.5, 3.5, 1.0, 8.0)

    def test_without_any_is_left_out_with_the_reason(self):
        found = metric_row(METRIC, side([np.nan, 1]), side([1, np.nan]), side([1, 1]), outfits=2)
        assert found == LeftOut(title="Similarity to history", reason="no outfit has a value on both sides")

    def test_does_without_the_true_items_where_they_say_nothing(self):
        sides = [side([1, 2, 3, 4])] * 3
        assert row(*sides, metric=replace(METRIC, has_truth=False)).truth is None
        assert row(*sides[:2], side([np.nan] * 4)).truth is None


class TestOfSets:
    def test_holds_the_figures_and_the_recentred_bootstrap(self):
        old, new, truth = (Measured({}, {"is": score(gain)}) for gain in (1, 1.5, 4))
        found = row(old, new, truth, metric=OF_SET)
        expected = change_interval(old.figures["is"], new.figures["is"], 4)
        assert (found.before, found.after, found.truth) == tuple(x.figures["is"].value() for x in (old, new, truth))
        assert (found.delta, *found.ci) == (expected.mean, expected.low, expected.high)
        assert found.interval == "bootstrap over outfits, recentred"


class TestDigits:
    @pytest.mark.parametrize(("value", "digits"), [(272.2, 1), (0.3744, 4), (1189, 0), (34.2, 2), (0, 3), (1e-9, 6)])
    def test_show_four_of_a_figure_without_a_scale_of_its_own(self, value, digits):
        found = row(side([value] * 4), side([1] * 4), side([1] * 4), metric=replace(METRIC, digits=None))
        assert found.digits == digits
