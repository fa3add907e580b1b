import math

import numpy as np
import pytest

from fashiondpo.contracts import JudgeInfo
from fashiondpo.errors import InvalidInput, Unavailable, UnknownItem
from fashiondpo.judges.base import JudgeInput, Scored, Unscored, check_input, to_scores, unscored
from tests.unit.judges.small_world import garment, outfit

INFO = JudgeInfo(criterion="quality", version="v", low=0, high=1)


def judge_input(image: object = None, slot: int = 0, candidate_id: str = "c") -> JudgeInput:
    image = garment((200, 0, 0)) if image is None else image
    return JudgeInput(candidate_id, outfit(None, 1, 2, 3), slot, image)  # type: ignore[arg-type]


class TestCheckInput:
    def test_accepts_rgb_pictures_of_any_size(self):
        check_input(judge_input(np.zeros((3, 700, 3), np.uint8)))

    @pytest.mark.parametrize("slot", [-1, 4])
    def test_refuses_a_slot_that_the_outfit_does_not_have(self, slot: int):
        with pytest.raises(InvalidInput, match=f"slot {slot} is outside the outfit's 4 slots"):
            check_input(judge_input(slot=slot))

    @pytest.mark.parametrize(
        "image",
        [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 3), np.float32), "a.png"],
    )
    def test_refuses_what_is_no_rgb_picture(self, image: object):
        with pytest.raises(InvalidInput, match="expected an image of uint8"):
            check_input(judge_input(image))

    def test_refuses_a_picture_without_pixels(self):
        with pytest.raises(InvalidInput, match="no pixels"):
            check_input(judge_input(np.zeros((0, 32, 3), np.uint8)))


class TestToScores:
    def test_keeps_the_order_and_names_the_judge(self):
        inputs = [judge_input(candidate_id=name) for name in "abc"]
        scores = to_scores(inputs, INFO, [Scored(0.1), Unscored("no_outfit"), Scored(0.3, {"n": 1.0})])
        assert [(s.candidate_id, s.value, s.reason) for s in scores] == [
            ("a", 0.1, None),
            ("b", None, "no_outfit"),
            ("c", 0.3, None),
        ]
        assert {(s.criterion, s.judge_version) for s in scores} == {("quality", "v")}
        assert scores[2].diagnostics == {"n": 1.0}

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite_becomes_a_reason(self, value: float):
        (score,) = to_scores([judge_input()], INFO, [Scored(value)])
        assert score.value is None
        assert score.reason is not None
        assert score.reason.startswith("non_finite")

    def test_refuses_to_guess_missing_outcomes(self):
        with pytest.raises(ValueError, match="shorter"):
            to_scores([judge_input()], INFO, [])


class TestUnscored:
    def test_carries_the_errors_code_and_words(self):
        outcome = unscored(UnknownItem(7, "mini"))
        assert outcome.reason == "unknown_item: item 7 is not in the catalogue 'mini'"
        assert outcome.is_final

    def test_what_a_later_attempt_may_mend_is_not_final(self):
        assert not unscored(Unavailable("store is down")).is_final
