"""Preferences: how scores become pairs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fashiondpo.contracts import CRITERIA, Candidate, CandidateSet, Outfit, SamplerSettings, Score, ScoredSet
from fashiondpo.errors import InvalidInput, Unavailable, UnscoredCandidates
from fashiondpo.preferences import (
    PreferenceSettings,
    fuse,
    min_max,
    preference_pairs,
    preference_scores,
    unscored,
    z_scores,
)
from tests.reference.preference_formulas import default_scores, paper_pairs, paper_scores

QUALITY_ONLY = {"quality": 1.0}


def scored_set(set_id="s0", **scores):
    """A set whose candidates have these raw scores; None = 'no_history', "later" = failed, ... = never asked."""
    size = len(next(iter(scores.values())))
    candidates = tuple(
        Candidate(candidate_id=f"{set_id}-{k}", index=k, seed=k, image="0" * 64 + ".png") for k in range(size)
    )
    candidate_set = CandidateSet(
        set_id=set_id,
        outfit=Outfit(outfit_id=1, user_id=1, category_ids=(1, 2), item_ids=(5, None)),
        slot=1,
        candidates=candidates,
        sampler=SamplerSettings(),
        base_digest="1" * 64,
    )
    return ScoredSet(
        candidate_set=candidate_set,
        scores=tuple(
            as_score(candidate.candidate_id, criterion, value)
            for criterion, values in scores.items()
            for candidate, value in zip(candidates, values, strict=True)
            if value is not ...
        ),
    )


def as_score(candidate_id, criterion, value):
    name = {"candidate_id": candidate_id, "criterion": criterion, "judge_version": "1"}
    if value is None:
        return Score(**name, reason="no_history")
    if value == "later":
        return Score(**name, reason="timeout", is_final=False)
    return Score(**name, value=value)


def settings(**changes):
    return PreferenceSettings(**{"weights": QUALITY_ONLY, "min_margin": 0.0, **changes})


def indices(pairs):
    return [(pair.chosen, pair.rejected) for pair in pairs]


raw_scores = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=8)


class TestZScores:
    @given(raw_scores)
    def test_have_mean_zero_and_population_spread_one(self, values):
        z = np.array(z_scores(values))
        assert z.mean() == pytest.approx(0, abs=1e-12)
        assert z.std() == pytest.approx(0 if len(set(values)) == 1 else 1)

    @given(raw_scores, st.integers(-9, 9), st.floats(0.01, 100))
    def test_do_not_depend_on_the_judges_zero_and_unit(self, values, shift, unit):
        assert z_scores([shift + unit * value for value in values]) == pytest.approx(z_scores(values), abs=1e-6)

    def test_are_zero_where_a_judge_sees_no_difference(self):
        assert z_scores([0.1, 0.1, 0.1]) == (0, 0, 0)

    def test_take_float32_rounding_for_no_difference(self):
        assert z_scores([0.7, float(np.float32(0.7)), 0.7]) == (0, 0, 0)

    def test_tell_very_small_scores_apart(self):
        assert z_scores([1e-200, 3e-200]) == (-1, 1)

    def test_of_nothing_are_nothing(self):
        assert z_scores([]) == ()


class TestMinMax:
    @given(raw_scores)
    def test_spans_zero_to_one_in_the_same_order(self, values):
        scaled = min_max(values)
        assert (min(scaled), max(scaled)) == ((0, 1) if len(set(values)) > 1 else (0, 0))
        assert np.argsort(scaled, kind="stable").tolist() == np.argsort(values, kind="stable").tolist()


class TestFuse:
    def test_scales_the_weights_of_the_judges_present_to_one(self):
        assert fuse({"quality": (1.0, 0.0), "compatibility": (0.0, 1.0)}, {"quality": 3, "compatibility": 1}) == (
            0.75,
            0.25,
        )


class TestPreferenceScores:
    @given(st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), min_size=3, max_size=3))
    def test_equal_the_formula_written_with_arrays(self, raw):
        weights = (0.5, 0.3, 0.2)
        of_set = scored_set(**dict(zip(CRITERIA, raw, strict=True)))
        found = preference_scores([of_set], settings(weights=dict(zip(CRITERIA, weights, strict=True))))
        assert found["s0"] == pytest.approx(default_scores(raw, weights), abs=1e-12)

    def test_leave_out_a_judge_that_has_no_value_for_one_candidate_of_the_outfit(self):
        gap = scored_set(quality=[1, 2, 3], compatibility=[9, 1, 5], personalization=[7, None, 8])
        raw = [[1, 2, 3], [9, 1, 5], [7, math.nan, 8]]
        found = preference_scores([gap], PreferenceSettings())
        assert found["s0"] == pytest.approx(default_scores(raw, [1 / 3] * 3))

    def test_leave_the_judge_in_for_the_other_outfits(self):
        gap, whole = (
            scored_set("a", quality=[1, 2], compatibility=[None, 5]),
            scored_set("b", quality=[1, 2], compatibility=[5, 1]),
        )
        found = preference_scores([gap, whole], settings(weights={"quality": 1, "compatibility": 3}))
        assert found == {"a": (-1, 1), "b": (0.5, -0.5)}

    def test_are_absent_where_no_judge_has_anything_to_say(self):
        sets = [scored_set("a", quality=[None, None]), scored_set("b", quality=[1, 2])]
        assert list(preference_scores(sets, settings())) == ["b"]
        assert {pair.set_id for pair in preference_pairs(sets, settings())} == {"b"}
        assert {pair.set_id for pair in preference_pairs(sets, settings(mode="paper"))} == {"b"}

    def test_count_a_judge_that_sees_no_difference_as_indifferent(self):
        found = preference_scores(
            [scored_set(quality=[1, 3], compatibility=[4, 4])], settings(weights={"quality": 1, "compatibility": 1})
        )
        assert found["s0"] == (-0.5, 0.5)

    def test_ignore_a_judge_without_weight(self):
        of_set = scored_set(quality=[1, 2], compatibility=["later", 5])
        assert preference_scores([of_set], settings(weights={"quality": 1, "compatibility": 0})) == {"s0": (-1, 1)}

    def test_of_the_same_set_twice_are_refused(self):
        with pytest.raises(InvalidInput, match="'s0' was given twice"):
            preference_scores([scored_set(quality=[1, 2])] * 2, settings())


class TestSetsThatAreNotReady:
    @pytest.mark.parametrize("gap", ["later", ...], ids=["failed for now", "never asked"])
    def test_are_refused_by_name(self, gap):
        sets = [scored_set("done", quality=[1, 2]), scored_set("open", quality=[1, gap])]
        with pytest.raises(UnscoredCandidates, match="1 candidate sets wait for scores of quality: open") as caught:
            preference_pairs(sets, settings())
        assert (caught.value.set_ids, caught.value.criteria) == (("open",), ("quality",))

    def test_may_be_ready_later(self):
        assert issubclass(UnscoredCandidates, Unavailable)

    def test_can_be_asked_which_judges_they_wait_for(self):
        of_set = scored_set(quality=[1, 2], compatibility=["later", 1], personalization=[..., 3])
        assert unscored(of_set, PreferenceSettings()) == ("compatibility", "personalization")

    def test_do_not_wait_after_a_final_reason(self):
        assert unscored(scored_set(quality=[None, 1]), settings()) == ()


class TestHumanVotes:
    WEIGHTS = {"quality": 1.0, "votes": 3.0}

    def test_are_one_more_judge_once_they_have_a_weight(self):
        of_set = scored_set(quality=[1, 2], votes=[1, 0])
        assert indices(preference_pairs([of_set], settings())) == [(1, 0)]
        assert indices(preference_pairs([of_set], settings(weights=self.WEIGHTS))) == [(0, 1)]

    def test_that_nobody_cast_are_not_waited_for(self):
        assert preference_scores([scored_set(quality=[1, 2])], settings(weights=self.WEIGHTS)) == {"s0": (-1, 1)}


class TestPairs:
    def test_are_all_that_differ_by_more_than_the_margin_widest_first(self):
        of_set = scored_set(quality=[0, 1, 3])
        assert indices(preference_pairs([of_set], settings())) == [(2, 0), (2, 1), (1, 0)]
        assert indices(preference_pairs([of_set], settings(min_margin=1.0))) == [(2, 0), (2, 1)]

    def test_keep_a_difference_of_exactly_the_margin_out(self):
        assert preference_pairs([scored_set(quality=[0, 1])], settings(min_margin=2.0)) == []

    def test_say_by_how_much_the_chosen_one_is_better(self):
        (pair,) = preference_pairs([scored_set(quality=[0, 1])], settings())
        assert pair.margin == 2.0

    def test_of_equal_candidates_do_not_exist(self):
        assert preference_pairs([scored_set(quality=[4, 4, 4])], settings()) == []

    def test_are_capped_at_the_widest(self):
        assert indices(preference_pairs([scored_set(quality=[0, 1, 3])], settings(max_pairs_per_outfit=1))) == [(2, 0)]

    @given(st.lists(raw_scores, min_size=1, max_size=4), st.sampled_from(["default", "paper"]))
    def test_never_contradict_the_scores_nor_each_other(self, rounds, mode):
        sets = [scored_set(f"s{i}", quality=values) for i, values in enumerate(rounds)]
        pairs = preference_pairs(sets, settings(mode=mode))
        seen = {(pair.set_id, pair.chosen, pair.rejected) for pair in pairs}
        assert len(seen) == len(pairs)
        assert all((set_id, rejected, chosen) not in seen for set_id, chosen, rejected in seen)
        assert all(
            rounds[int(pair.set_id[1:])][pair.chosen] > rounds[int(pair.set_id[1:])][pair.rejected] for pair in pairs
        )

    @given(raw_scores, st.floats(0, 3), st.floats(0, 3))
    def test_only_get_fewer_as_the_margin_grows(self, values, margin, more):
        few, many = (
            set(indices(preference_pairs([scored_set(quality=values)], settings(min_margin=m))))
            for m in (margin + more, margin)
        )
        assert few <= many

    def test_do_not_depend_on_the_other_outfits_of_the_round(self):
        hard, easy = scored_set("hard", quality=[1, 2]), scored_set("easy", quality=[8, 9])
        together = preference_pairs([hard, easy], settings())
        assert together == preference_pairs([hard], settings()) + preference_pairs([easy], settings())


class TestPaperMode:
    def test_equals_the_formula_written_with_arrays(self):
        rng = np.random.default_rng(3)
        raw, weights = rng.normal(size=(6, 3, 7)), (0.2, 0.3, 0.5)
        sets = [
            scored_set(f"s{i}", **dict(zip(CRITERIA, of_set.tolist(), strict=True))) for i, of_set in enumerate(raw)
        ]
        chosen = settings(mode="paper", weights=dict(zip(CRITERIA, weights, strict=True)))
        expected = paper_scores(raw, weights)
        np.testing.assert_allclose(list(preference_scores(sets, chosen).values()), expected, rtol=1e-12)
        found = {(int(pair.set_id[1:]), pair.chosen, pair.rejected) for pair in preference_pairs(sets, chosen)}
        assert found == paper_pairs(expected)

    def test_gives_no_pair_for_an_outfit_on_one_side_of_the_median(self):
        sets = [
            scored_set("low", quality=[1, 2]),
            scored_set("high", quality=[8, 9]),
            scored_set("both", quality=[1, 9]),
        ]
        assert {pair.set_id for pair in preference_pairs(sets, settings(mode="paper"))} == {"both"}

    def test_rejects_a_candidate_on_the_median(self):
        pairs = preference_pairs([scored_set(quality=[1, 2, 3])], settings(mode="paper"))
        assert indices(pairs) == [(2, 0), (2, 1)]

    def test_knows_no_margin(self):
        pairs = preference_pairs([scored_set(quality=[1, 2])], settings(mode="paper", min_margin=5.0))
        assert indices(pairs) == [(1, 0)]

    def test_of_an_empty_round_is_empty(self):
        assert preference_pairs([], settings(mode="paper")) == []

    def test_leaves_out_the_judge_with_a_gap_and_its_values(self):
        sets = [
            scored_set("gap", quality=[0, 1], compatibility=[None, 100]),
            scored_set("b", quality=[0, 1], compatibility=[0, 1]),
        ]
        found = preference_scores(sets, settings(mode="paper", weights={"quality": 1, "compatibility": 1}))
        assert found == {"gap": (0, 1), "b": (0, 1)}


class TestPreferenceSettings:
    def test_weigh_the_three_judges_alike_unless_told_otherwise(self):
        assert PreferenceSettings().weights == dict.fromkeys(CRITERIA, 1 / 3)

    @pytest.mark.parametrize(
        "weights", [{}, {"quality": 0.0}, {"quality": -1.0}, {"quality": math.inf}, {"beauty": 1.0}]
    )
    def test_refuse_weights_that_mean_nothing(self, weights):
        with pytest.raises(ValidationError):
            PreferenceSettings(weights=weights)

    @pytest.mark.parametrize("changes", [{"min_margin": -0.1}, {"max_pairs_per_outfit": 0}, {"mode": "new"}])
    def test_refuse_what_cannot_be_meant(self, changes):
        with pytest.raises(ValidationError):
            PreferenceSettings(**changes)

    def test_survive_json(self):
        kept = PreferenceSettings(mode="paper", weights={"quality": 1, "votes": 2})
        assert PreferenceSettings.model_validate_json(kept.model_dump_json()) == kept
