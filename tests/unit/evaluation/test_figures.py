"""How figures are said and drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiondpo.contracts import Interval
from fashiondpo.evaluation.comparison import MISMATCHED, Figure
from fashiondpo.evaluation.figures import (
    bar_of,
    duration,
    figure_row,
    number,
    percent,
    ruler_reach,
    signed,
    span,
    spoken,
    tone_of,
)


def interval(low, high):
    return Interval(mean=(low + high) / 2, low=low, high=high)


def figure(**changes):
    made = {"delta": 0.014, "ci": (0.007, 0.021), "before": 0.711, "after": 0.725, "sigma": 0.12, "outfits": 60}
    return Figure(**{**made, **changes})


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "said"), [(0.123, "+0.12"), (-0.5, "−0.50"), (0.0, "0.00"), (-0.001, "0.00"), (0.001, "0.00")]
    )
    def test_carry_their_sign_unless_they_are_zero(self, value, said):
        assert signed(value) == said

    def test_have_a_true_minus(self):
        assert (number(-1.5, 1), percent(-0.051), span(interval(-1, 2), 0)) == ("−1.5", "−5.1%", "−1 to +2")


class TestTone:
    @pytest.mark.parametrize(
        ("low", "high", "tone"),
        [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "unclear"), (0, 1, "unclear")],
    )
    def test_is_clear_only_if_the_whole_interval_is_on_one_side(self, low, high, tone):
        assert tone_of(interval(low, high)) == tone

    def test_turns_around_where_lower_is_better(self):
        assert tone_of(interval(-0.2, -0.1), is_lower_better=True) == "better"

    def test_of_a_win_rate_is_measured_from_one_half(self):
        assert tone_of(interval(0.4, 0.45), neutral=0.5) == "worse"


class TestBar:
    def test_places_the_interval_on_the_ruler(self):
        bar = bar_of(interval(0.0, 0.5), low=-1, high=1)
        assert (bar.low, bar.mean, bar.high, bar.zero) == (50, 62.5, 75, 50)

    @given(st.floats(-9, 9), st.floats(0, 9))
    def test_never_leaves_the_ruler_and_can_always_be_seen(self, low, length):
        bar = bar_of(interval(low, low + length), low=-1, high=1)
        assert 0 <= bar.low <= bar.mean <= bar.high <= 100
        assert bar.width >= 0.8


class TestRulerReach:
    @given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e3)), min_size=1, max_size=5))
    def test_holds_every_interval_without_wasting_much(self, ends):
        changes = [interval(low, low + length) for low, length in ends]
        furthest = max(max(abs(change.low), abs(change.high)) for change in changes)
        reach = ruler_reach(changes)
        assert furthest <= reach * (1 + 1e-6)
        assert furthest == 0 or reach <= furthest * 2.5 * (1 + 1e-6)

    @pytest.mark.parametrize(("furthest", "reach"), [(0.03, 0.05), (0.05, 0.05), (0.6, 1), (1.1, 2), (0, 1)])
    def test_is_a_round_number(self, furthest, reach):
        assert ruler_reach([interval(-furthest, furthest)]) == pytest.approx(reach)


class TestFigureRow:
    def test_is_said_with_the_digits_its_spread_deserves(self):
        row = figure_row("quality", figure(), 1.0, {})
        assert (row.before, row.after, row.delta, row.interval) == ("0.711", "0.725", "+0.014", "+0.007 to +0.021")

    def test_explains_known_names_and_prefers_what_it_is_told(self):
        assert figure_row("quality", figure(), 1.0, {}).meaning.startswith("Is it a clean")
        assert figure_row("quality", figure(), 1.0, {"quality": "Our own."}).meaning == "Our own."
        assert figure_row("fid_k", figure(), 1.0, {}).meaning == ""

    def test_draws_its_bar_in_units_of_its_spread(self):
        row = figure_row("quality", figure(delta=0.06, ci=(0.06, 0.06)), 1.0, {})
        assert row.bar is not None
        assert row.bar.mean == pytest.approx(75)

    def test_of_a_baseline_is_neither_better_nor_worse(self):
        shown = [figure_row(name, figure(), 1.0, {}) for name in ("quality", MISMATCHED)]
        assert [row.tone for row in shown] == ["better", "unclear"]
        assert [row.bar.tone for row in shown] == ["better", "unclear"]

    def test_has_no_bar_without_a_spread(self):
        assert figure_row("quality", figure(sigma=0.0), 1.0, {}).bar is None


class TestWords:
    @pytest.mark.parametrize(
        ("name", "said"),
        [("clip_image_score", "CLIP image score"), ("lpips", "LPIPS"), ("quality", "Quality"), ("", "")],
    )
    def test_of_names_are_those_people_write(self, name, said):
        assert spoken(name) == said

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [(0.41, "0.4 s"), (52.2, "52 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
    )
    def test_of_durations_are_the_two_largest_units(self, seconds, said):
        assert duration(seconds) == said
