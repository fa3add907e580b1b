"""The gate: good adapters pass, bad ones do not, and both are told why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fashiondpo.contracts import GateVerdict
from fashiondpo.evaluation.comparison import MISMATCHED, Change, Comparison, Figure
from fashiondpo.evaluation.gate import GateSettings, decide


def figure(low, high, sigma=1.0, **more):
    """A figure of which only the interval of its change matters."""
    middle = (low + high) / 2
    return Figure(delta=middle, ci=(low, high), before=1.0, after=1.0 + middle, sigma=sigma, outfits=60, **more)


def figures(low=0.6, diversity_ratio=1.0, outfits=60, judges=None, held_out=None):
    """A comparison in which nothing but the gate's own figures matters."""
    diversity = Figure(
        delta=diversity_ratio - 1, ci=(0.0, 0.0), before=1.0, after=diversity_ratio, sigma=0.1, outfits=outfits
    )
    return Comparison(
        combined=Change(delta=0.1, ci=(0.05, 0.15)),
        win_rate=min(1.0, low + 0.1),
        win_rate_ci=(low, min(1.0, low + 0.2)),
        judges=judges or {},
        held_out=held_out or {},
        best_of_k=Change(delta=1.0, ci=(0.9, 1.1)),
        diversity=diversity,
        diversity_ratio=diversity_ratio,
        outfits=outfits,
        candidates=7,
        weights={},
    )


class TestGoodAdapter:
    def test_is_promoted(self, comparison):
        verdict = decide(comparison(0.5))
        assert verdict.is_promoted
        assert verdict.win_rate.low > 0.5

    def test_is_told_the_figures_in_words(self, comparison):
        assert decide(comparison(2.0, noise=0.0)).reasons == (
            "It wins on 100.0% of the outfits; the lower confidence bound, 100.0%, is above 50.0%.",
            "Its candidates differ from each other 100.0% as much as before, at least the 90.0% asked for.",
            "It was compared on 60 held-out outfits, at least the 30 asked for.",
            "None of 3 judges is shown to fall by more than the 0.1 σ allowed.",
        )

    def test_is_told_of_held_out_figures_where_there_are_any(self):
        measured = {name: figure(-0.01, 0.01) for name in ("harmony", "palette", MISMATCHED)}
        told = decide(figures(judges={"quality": figure(0.1, 0.2)}, held_out=measured)).reasons[-1]
        assert told.startswith("None of 1 judges and 2 held-out figures is shown to fall")

    def test_keeps_the_figures_that_decided(self, comparison):
        made = comparison(0.5)
        verdict = decide(made)
        assert verdict.combined_delta.mean == made.combined.delta
        assert (verdict.diversity_ratio, verdict.outfits) == (made.diversity_ratio, 60)
        assert GateVerdict.model_validate_json(verdict.model_dump_json()) == verdict


class TestBadAdapter:
    @pytest.mark.parametrize("gain", [-0.5, 0.0], ids=["worse", "no better"])
    def test_is_refused_for_its_win_rate(self, comparison, gain):
        verdict = decide(comparison(gain, noise=0.05))
        assert not verdict.is_promoted
        assert "not above 50.0%" in verdict.reasons[0]

    def test_that_changes_nothing_is_refused(self, comparison):
        assert not decide(comparison(0.0, noise=0.0)).is_promoted

    def test_whose_candidates_all_look_alike_is_refused_however_well_it_scores(self, comparison):
        verdict = decide(comparison(2.0, diversity=0.5))
        assert not verdict.is_promoted
        assert verdict.reasons[0].startswith("Its candidates differ from each other 50.0% as much as before, less than")

    def test_shown_on_too_few_outfits_is_refused_however_well_it_scores(self, comparison):
        verdict = decide(comparison(2.0, outfits=12))
        assert not verdict.is_promoted
        assert verdict.reasons[0] == "It was compared on 12 held-out outfits, fewer than the 30 asked for."

    def test_that_cheats_one_figure_to_please_another_is_refused_and_told_which(self):
        cheated = figures(
            low=0.9, judges={"quality": figure(0.9, 1.1)}, held_out={"category_accuracy": figure(-0.2, -0.13)}
        )
        verdict = decide(cheated)
        assert not verdict.is_promoted
        assert verdict.reasons[0] == (
            "It pays with what it was not to touch, by more than the 0.1 σ allowed: "
            "category_accuracy by −0.20 to −0.13."
        )

    def test_is_refused_for_a_judge_that_has_no_weight_as_for_any_other(self):
        assert not decide(figures(judges={"compatibility": figure(-0.5, -0.3)})).is_promoted

    def test_is_told_everything_that_failed_before_what_did_not(self):
        reasons = decide(figures(low=0.4, diversity_ratio=0.5, outfits=60)).reasons
        assert ["not above" in reasons[0], "less than" in reasons[1], "at least" in reasons[2]] == [True] * 3


class TestThresholds:
    def test_must_be_exceeded_by_the_win_rate_and_reached_by_the_others(self):
        assert not decide(figures(low=0.5)).is_promoted
        assert decide(figures(low=0.501, diversity_ratio=0.9, outfits=30)).is_promoted

    @given(low=st.floats(0, 1), ratio=st.floats(0, 2), outfits=st.integers(1, 100))
    def test_promote_exactly_what_meets_all(self, low, ratio, outfits):
        verdict = decide(figures(low, ratio, outfits))
        assert verdict.is_promoted == (low > 0.5 and ratio >= 0.9 and outfits >= 30)
        assert len(verdict.reasons) == 4

    @given(
        low=st.floats(-1, 1),
        width=st.floats(0, 1),
        sigma=st.floats(0.01, 2),
        allowed=st.floats(0, 1),
        is_loss=st.booleans(),
    )
    def test_refuse_a_fall_only_where_the_whole_interval_shows_it(self, low, width, sigma, allowed, is_loss):
        high = low + width
        found = figures(held_out={"it": figure(low, high, sigma, is_lower_better=is_loss)})
        worse_at_least = low if is_loss else -high
        assert decide(found, GateSettings(max_fall=allowed)).is_promoted == (worse_at_least <= allowed * sigma)

    def test_let_a_baseline_do_what_it_will(self):
        assert decide(figures(held_out={MISMATCHED: figure(-0.9, -0.5)})).is_promoted

    def test_let_a_fall_within_doubt_or_within_what_is_allowed_pass(self):
        assert decide(figures(held_out={"harmony": figure(-0.4, 0.01)})).is_promoted
        assert decide(figures(held_out={"harmony": figure(-0.09, -0.05)})).is_promoted
        assert not decide(figures(held_out={"harmony": figure(-0.09, -0.05)}), GateSettings(max_fall=0)).is_promoted
        assert decide(figures(held_out={"harmony": figure(-0.9, -0.5)}), GateSettings(max_fall=None)).is_promoted

    @given(low=st.floats(0, 0.9), better=st.floats(0, 0.1), ratio=st.floats(0, 2), more=st.floats(0, 1))
    def test_never_refuse_an_adapter_for_being_better(self, low, better, ratio, more):
        if decide(figures(low, ratio)).is_promoted:
            assert decide(figures(low + better, ratio + more)).is_promoted

    @given(asked=st.floats(0, 0.99), stricter=st.floats(0, 0.99), low=st.floats(0, 1))
    def test_only_let_fewer_through_when_raised(self, asked, stricter, low):
        asked, stricter = sorted((asked, stricter))
        if decide(figures(low), GateSettings(min_win_rate_low=stricter)).is_promoted:
            assert decide(figures(low), GateSettings(min_win_rate_low=asked)).is_promoted

    @pytest.mark.parametrize(
        "wrong", [{"min_win_rate_low": 1.0}, {"min_diversity_ratio": -1}, {"min_outfits": 0}, {"max_fall": -1}]
    )
    def test_that_make_no_sense_are_refused(self, wrong):
        with pytest.raises(ValidationError):
            GateSettings(**wrong)
