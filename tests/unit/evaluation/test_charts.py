"""Charts: readable PNG files of what is there, and clear errors for what is not."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from fashiondpo.contracts import Interval
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.charts import (
    CURVES,
    curve_points,
    round_curve,
    running_mean,
    score_histogram,
    training_curve,
)

ROWS = [{"step": step, "loss": 0.693 - step / 1000, "kl": math.nan} for step in range(1, 41)]


def opened(png):
    return Image.open(io.BytesIO(png))


class TestScoreHistogram:
    def test_is_a_png_that_shows_both_sides(self):
        scores = np.random.default_rng(0).normal(size=(30, 7))
        colours = {
            colour for _, colour in opened(score_histogram(scores, scores + 1)).convert("RGB").getcolors(1 << 20)
        }
        assert (14, 107, 102) in colours
        assert len(colours) > 10

    def test_is_the_same_file_for_the_same_scores(self):
        scores = np.linspace(0, 1, 50)
        assert score_histogram(scores, scores) == score_histogram(scores, scores)

    def test_leaves_gaps_out(self):
        scores = np.array([0.1, 0.4, 0.9])
        assert score_histogram(np.append(scores, np.nan), scores) == score_histogram(scores, scores)

    def test_of_scores_that_are_all_equal_can_be_drawn(self):
        assert opened(score_histogram(np.ones(5), np.ones(5))).format == "PNG"

    def test_of_nothing_is_refused(self):
        with pytest.raises(InvalidInput, match="one side has none"):
            score_histogram(np.array([np.nan]), np.ones(3))


class TestTrainingCurve:
    @pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["many steps", "one step"])
    def test_is_a_png(self, rows):
        assert opened(training_curve(rows, "loss")).format == "PNG"

    @pytest.mark.parametrize("name", ["kl", "margin"], ids=["only NaN", "never logged"])
    def test_of_nothing_is_refused_by_name(self, name):
        with pytest.raises(InvalidInput, match=f"no finite value of '{name}'"):
            training_curve(ROWS, name)

    def test_skips_rows_that_lack_the_figure(self):
        steps, values = curve_points([{"step": 1, "loss": 0.5}, {"step": 2}, {"step": 3, "loss": math.inf}], "loss")
        assert (steps.tolist(), values.tolist()) == ([1], [0.5])

    def test_is_explained_for_every_figure_the_trainer_logs(self):
        assert set(CURVES) == {"loss", "implicit_accuracy", "margin", "clipped_fraction", "kl"}
        assert CURVES["loss"].neutral == pytest.approx(math.log(2))

    def test_of_another_objective_is_not_squeezed_by_the_line_at_log_two(self):
        rows = [{"step": step, "loss": 0.16 + step / 1e4} for step in range(1, 41)]
        ink = np.asarray(opened(training_curve(rows, "loss")).convert("RGB"))
        is_drawn_in = (ink == (14, 107, 102)).all(2).any(1)
        assert is_drawn_in.mean() > 0.4, "the curve must span most of the chart's height"


class TestRoundCurve:
    def test_is_a_png(self):
        changes = [Interval(mean=x, low=x - 0.01, high=x + 0.01) for x in (0.05, 0.09, 0.12)]
        assert opened(round_curve(changes, unit="σ")).format == "PNG"

    def test_of_no_round_is_refused(self):
        with pytest.raises(InvalidInput, match="at least one round"):
            round_curve([], unit="σ")


class TestRunningMean:
    def test_is_the_mean_of_the_neighbours_there_are(self):
        values = np.random.default_rng(0).normal(size=23)
        expected = [values[max(0, i - 3) : i + 4].mean() for i in range(23)]
        np.testing.assert_allclose(running_mean(values, 3), expected, rtol=1e-12)

    def test_without_reach_changes_nothing(self):
        np.testing.assert_allclose(running_mean(np.arange(5.0), 0), np.arange(5.0))
