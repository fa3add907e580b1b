import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashiondpo.errors import UnparseableAnswer
from fashiondpo.judges.rubric import (
    Rubric,
    entropy,
    expected_level,
    label_probabilities,
    quality_rubric,
    scored_by_label,
    scored_by_probabilities,
)
from tests.reference import judge_formulas as reference

RUBRICS = [quality_rubric(5), quality_rubric(10)]
LOG_PROBS = st.lists(st.floats(-30, 0), min_size=2, max_size=10)


@pytest.mark.parametrize("rubric", RUBRICS, ids=lambda rubric: f"{rubric.levels} levels")
class TestRubric:
    def test_names_every_label_of_its_scale_once_and_none_of_another(self, rubric):
        named = re.findall(r"^([A-Z])\. ", rubric.prompt, re.MULTILINE)
        assert tuple(named) == rubric.labels
        assert rubric.prompt.endswith(f"from A to {rubric.labels[-1]} and nothing else.")

    def test_speaks_of_no_number_and_of_no_other_criterion(self, rubric):
        assert re.search(r"\d", rubric.prompt) is None
        assert not re.search(r"match|compatib|outfit|\buser\b|prefer", rubric.prompt)

    def test_gives_the_first_label_the_lowest_level(self, rubric):
        assert [rubric.level_of(label) for label in rubric.labels] == list(range(1, rubric.levels + 1))

    @pytest.mark.parametrize("label", ["", "a", "K", "AB", " A", "1"])
    def test_knows_no_other_label(self, rubric, label):
        with pytest.raises(UnparseableAnswer, match="one letter from A"):
            rubric.level_of(label)

    def test_has_a_version_that_changes_with_its_words(self, rubric):
        other = Rubric(rubric.question + " ", rubric.meanings)
        assert str(rubric.levels) in rubric.version
        assert other.version != rubric.version


def test_there_is_no_rubric_of_seven_levels():
    with pytest.raises(ValueError, match="5, 10 levels, not of 7"):
        quality_rubric(7)


class TestExpectedLevel:
    @given(LOG_PROBS)
    def test_is_the_mean_level_under_the_softmax(self, log_probs):
        found = expected_level(label_probabilities(log_probs))
        # both sum some ten terms in float64
        assert found == pytest.approx(reference.expected_level(log_probs), rel=1e-12)

    @given(LOG_PROBS, st.floats(-500, 500))
    def test_does_not_depend_on_what_the_log_probabilities_are_normalised_by(self, log_probs, shift):
        shifted = [value + shift for value in log_probs]
        assert label_probabilities(shifted) == pytest.approx(label_probabilities(log_probs), rel=1e-9, abs=1e-12)

    def test_of_a_sure_model_is_its_level_and_of_one_without_an_idea_the_middle(self):
        assert expected_level((0, 0, 0, 1, 0)) == 4
        assert expected_level((0.1,) * 10) == pytest.approx(5.5)


class TestEntropy:
    @given(LOG_PROBS)
    def test_is_shannon_s(self, log_probs):
        found = entropy(label_probabilities(log_probs))
        assert found == pytest.approx(reference.shannon_entropy(log_probs), rel=1e-9, abs=1e-11)

    def test_is_nothing_for_a_sure_model_and_the_logarithm_of_the_levels_for_one_without_an_idea(self):
        assert entropy((0, 1, 0)) == 0
        assert entropy((0.2,) * 5) == pytest.approx(math.log(5))


class TestLabelProbabilities:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_refuse_what_is_no_number(self, bad):
        with pytest.raises(UnparseableAnswer, match="no numbers"):
            label_probabilities([-1.0, bad])

    def test_refuse_an_answer_in_which_no_label_is_possible(self):
        with pytest.raises(UnparseableAnswer, match="none of the labels"):
            label_probabilities([-math.inf] * 5)


class TestScoredByProbabilities:
    def test_tells_the_likeliest_label_how_sure_the_model_was_and_how_much_it_wanted_to_answer(self):
        rubric, log_probs = quality_rubric(5), {"D": math.log(0.6), "E": math.log(0.2), "A": math.log(0.1)}
        scored = scored_by_probabilities(rubric, log_probs)
        assert scored.value == pytest.approx((4 * 0.6 + 5 * 0.2 + 1 * 0.1) / 0.9)
        assert scored.diagnostics["label"] == "D"
        assert scored.diagnostics["label_mass"] == pytest.approx(0.9, abs=1e-6)
        expected = reference.shannon_entropy(list(log_probs.values()))
        assert scored.diagnostics["entropy"] == pytest.approx(expected, abs=1e-6)

    @given(st.lists(st.floats(-40, 0), min_size=10, max_size=10))
    def test_stays_on_the_scale(self, log_probs):
        rubric = quality_rubric(10)
        assert 1 <= scored_by_probabilities(rubric, dict(zip(rubric.labels, log_probs, strict=True))).value <= 10

    def test_tells_apart_what_one_label_would_not(self):
        rubric = quality_rubric(10)
        rng = np.random.default_rng(0)
        values = set()
        for _ in range(20):
            log_probs = dict(zip(rubric.labels, [-9.0] * 7 + [0.0] + list(rng.uniform(-4, -1, 2)), strict=True))
            scored = scored_by_probabilities(rubric, log_probs)
            assert scored.diagnostics["label"] == "H"
            values.add(scored.value)
        assert len(values) == 20


class TestScoredByLabel:
    def test_is_the_level_and_says_that_it_is_no_mean(self):
        scored = scored_by_label(quality_rubric(5), "B")
        assert (scored.value, scored.diagnostics["by"]) == (2.0, "label")
