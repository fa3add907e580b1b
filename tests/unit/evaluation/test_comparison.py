"""What an adapter changed: figures, their units, and what happens to gaps."""

import dataclasses
import json
import math

import numpy as np
import pytest

from fashiondpo.contracts import CRITERIA
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.comparison import Comparison, Measured, combined_scores, compare
from tests.reference.comparison_formulas import combined_score

WEIGHTS = {"quality": 0.5, "compatibility": 0.3, "personalization": 0.2}


def with_scores(measured, scores):
    return dataclasses.replace(measured, scores=scores)


class TestCombinedScores:
    def test_equal_the_formula_written_with_loops(self, measured):
        before, after = measured(outfits=5, candidates=3), measured(0.4, noise=0.3, outfits=5, candidates=3)
        old, new = combined_scores(before, after, WEIGHTS)
        weights = list(WEIGHTS.values())
        for found, side in ((old, before), (new, after)):
            expected = [
                [combined_score(before.scores.tolist(), side.scores.tolist(), weights, o, k) for k in range(3)]
                for o in range(5)
            ]
            np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_do_not_depend_on_the_judges_units(self, measured):
        before, after = measured(), measured(0.4, noise=0.3)
        unit, zero = np.array([100.0, 0.01, 7.0]), np.array([-5.0, 3.0, 0.0])
        rescaled = [with_scores(side, side.scores * unit + zero) for side in (before, after)]
        np.testing.assert_allclose(
            combined_scores(*rescaled, WEIGHTS), combined_scores(before, after, WEIGHTS), atol=1e-9
        )

    def test_leave_a_judge_out_of_an_outfit_it_has_no_value_for_on_one_side(self, measured):
        before, after = measured(), measured(1.0)
        scores = after.scores.copy()
        scores[0, :, 2] = np.nan
        gap = with_scores(after, scores)
        without = [Measured(CRITERIA[:2], side.scores[:, :, :2], side.diversity) for side in (before, after)]
        for found, expected in zip(
            combined_scores(before, gap, WEIGHTS), combined_scores(*without, WEIGHTS), strict=True
        ):
            np.testing.assert_allclose(found[0], expected[0])

    def test_take_a_judge_that_never_differs_for_silent(self, measured):
        before = measured()
        scores = before.scores.copy()
        scores[:, :, 0] = 0.1
        flat = with_scores(before, scores)
        np.testing.assert_allclose(combined_scores(flat, flat, {"quality": 1.0}), 0, atol=1e-12)

    def test_count_a_judge_that_differed_only_afterwards_in_the_spread_of_both(self, measured):
        before, after = measured(outfits=4), measured(outfits=4)
        low, high = np.zeros_like(before.scores), np.ones_like(after.scores)
        old, new = combined_scores(with_scores(before, low), with_scores(after, high), {"quality": 1.0})
        assert (old == 0).all()
        assert (new == 2).all()

    @pytest.mark.parametrize("weights", [{}, {"quality": -1.0, "compatibility": 2.0}, {"quality": math.nan}])
    def test_refuse_weights_that_mean_nothing(self, measured, weights):
        with pytest.raises(InvalidInput, match="must not be negative nor all zero"):
            combined_scores(measured(), measured(), weights)


class TestCompare:
    def test_finds_the_gain_that_was_put_in(self, comparison):
        found = comparison(0.5, noise=0.2, outfits=400)
        assert found.combined.delta == pytest.approx(0.5, abs=0.05)
        assert found.combined.ci[0] < found.combined.delta < found.combined.ci[1]
        assert found.win_rate > 0.95

    def test_of_a_policy_with_itself_finds_nothing(self, measured):
        found = compare(measured(), measured(), WEIGHTS)
        assert (found.combined.delta, found.combined.ci, found.win_rate) == (0, (0, 0), 0.5)
        assert found.diversity_ratio == 1

    def test_turns_around_with_the_sides(self, measured):
        # Same unit on both sides: the shift is the same for every candidate.
        there = compare(measured(), measured(0.3), WEIGHTS)
        back = compare(measured(0.3), measured(), WEIGHTS)
        assert back.combined.delta == pytest.approx(-there.combined.delta)
        assert back.win_rate == pytest.approx(1 - there.win_rate)

    def test_reports_each_judge_in_its_own_unit(self, measured):
        before, after = measured(), measured(0.2)
        quality = compare(before, after, WEIGHTS).judges["quality"]
        assert quality.before == pytest.approx(before.scores[:, :, 0].mean())
        assert quality.delta == pytest.approx(0.2)
        assert quality.sigma == pytest.approx(before.scores[:, :, 0].std())

    def test_reports_held_out_metrics_and_which_way_they_improve(self, measured):
        before, after = measured(clip_score=0.30, distance=2.0), measured(clip_score=0.31, distance=1.5)
        found = compare(before, after, WEIGHTS, lower_is_better=["distance"]).held_out
        assert found["clip_score"].delta == pytest.approx(0.01)
        assert (found["clip_score"].is_lower_better, found["distance"].is_lower_better) == (False, True)

    def test_counts_only_outfits_with_a_value_on_both_sides(self, measured):
        before, after = measured(clip_score=np.nan), measured(clip_score=np.nan)
        scores = before.scores.copy()
        scores[:10, :, 2] = np.nan
        found = compare(with_scores(before, scores), after, WEIGHTS)
        assert (found.judges["personalization"].outfits, found.judges["quality"].outfits, found.outfits) == (50, 60, 60)
        assert "clip_score" not in found.held_out

    def test_leaves_out_a_judge_without_any_value(self, measured):
        scores = measured().scores.copy()
        scores[:, :, 2] = np.nan
        found = compare(with_scores(measured(), scores), measured(0.1), WEIGHTS)
        assert set(found.judges) == {"quality", "compatibility"}

    def test_knows_what_choosing_the_best_of_k_would_have_given(self, measured):
        before = measured()
        found = compare(before, measured(), {"quality": 1.0})
        quality = before.scores[:, :, 0]
        assert found.best_of_k.delta == pytest.approx(
            (quality.max(axis=1) - quality.mean(axis=1)).mean() / quality.std()
        )

    def test_divides_diversity_after_by_before(self, measured):
        assert compare(measured(), measured(diversity=0.8), WEIGHTS).diversity_ratio == pytest.approx(0.8)

    def test_takes_diversity_that_was_never_there_for_kept(self, measured):
        assert compare(measured(diversity=0), measured(diversity=0), WEIGHTS).diversity_ratio == 1

    def test_survives_json_in_the_promised_shape(self, comparison):
        found = comparison(clip_score=0.3)
        shape = json.loads(found.model_dump_json())
        assert shape["combined"]["ci"] == list(found.combined.ci)
        assert isinstance(shape["win_rate"], float)
        assert shape["judges"].keys() == set(CRITERIA)
        assert shape["held_out"]["clip_score"].keys() >= {"before", "after", "delta", "ci"}
        assert Comparison.model_validate(shape) == found


class TestWhatDoesNotBelongTogether:
    def test_other_outfits_are_refused(self, measured):
        with pytest.raises(InvalidInput, match="the same outfits and candidates"):
            compare(measured(), measured(outfits=59), WEIGHTS)

    def test_other_metrics_are_refused(self, measured):
        with pytest.raises(InvalidInput, match="different judges or metrics"):
            compare(measured(), measured(fid=1.0), WEIGHTS)

    def test_outfits_without_any_score_are_refused(self, measured):
        nothing = with_scores(measured(), np.full((60, 7, 3), np.nan))
        with pytest.raises(InvalidInput, match="nothing can be compared"):
            compare(nothing, measured(), WEIGHTS)

    def test_missing_diversity_is_refused(self, measured):
        with pytest.raises(InvalidInput, match="diversity"):
            compare(measured(diversity=np.nan), measured(), WEIGHTS)


class TestMeasured:
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (0, 7, 3), (5, 0, 3)])
    def test_refuses_scores_of_another_shape(self, shape):
        with pytest.raises(InvalidInput, match="scores must have shape"):
            Measured(CRITERIA, np.zeros(shape), np.zeros(5))

    def test_refuses_metrics_of_other_outfits(self):
        with pytest.raises(InvalidInput, match="fid needs one value for each of 5 outfits"):
            Measured(CRITERIA, np.zeros((5, 7, 3)), np.zeros(5), {"fid": np.zeros(4)})

    def test_refuses_infinite_values(self):
        with pytest.raises(InvalidInput, match="diversity has infinite values"):
            Measured(CRITERIA, np.zeros((2, 7, 3)), np.array([1.0, np.inf]))
