import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fashiondpo.errors import InvalidBundle
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.quality import MiniQualityJudge, QualityConfig, QualityNet, expected_level
from fashiondpo.judges.weights import save_module
from tests.unit.judges.small_world import garment, outfit


def network() -> QualityNet:
    torch.manual_seed(0)
    return QualityNet(QualityConfig(width=4))


def judge_input(name: str, image: np.ndarray) -> JudgeInput:
    return JudgeInput(name, outfit(None, 1, 2, 3), 0, image)


INPUTS = [
    judge_input("red", garment((200, 0, 0))),
    judge_input("bad", np.zeros((4, 4), np.uint8)),
    judge_input("large", garment((0, 0, 200), size_px=128)),
    judge_input("green", garment((0, 200, 0))),
]


class TestExpectedLevel:
    def test_runs_from_one_to_ten(self):
        levels = expected_level(torch.tensor([-100.0, 0.0, 100.0]))
        assert levels.tolist() == pytest.approx([1, 5.5, 10])

    def test_is_the_mean_of_a_judge_who_says_ten_or_one_with_these_odds(self):
        odds = 3.0
        assert expected_level(torch.tensor(math.log(odds))).item() == pytest.approx((10 * odds + 1) / (odds + 1))


class TestQualityNet:
    def test_of_the_shipped_size_has_fewer_than_a_hundred_thousand_weights(self):
        assert sum(p.numel() for p in QualityNet(QualityConfig()).parameters()) < 100_000


class TestMiniQualityJudge:
    def test_is_a_judge_of_quality_on_levels_one_to_ten(self):
        judge = MiniQualityJudge(network())
        assert isinstance(judge, Judge)
        assert (judge.info.criterion, judge.info.low, judge.info.high) == ("quality", 1, 10)

    def test_keeps_the_order_and_tells_what_it_cannot_score(self):
        scores = MiniQualityJudge(network()).score(INPUTS)
        assert [score.candidate_id for score in scores] == ["red", "bad", "large", "green"]
        assert [score.value is None for score in scores] == [False, True, False, False]
        assert all(1 <= score.value <= 10 for score in scores if score.value is not None)

    def test_does_not_depend_on_the_batch(self):
        judge = MiniQualityJudge(network())
        together = [score.value for score in judge.score(INPUTS)]
        assert together == pytest.approx([judge.score([x])[0].value for x in INPUTS], abs=1e-5)

    def test_nothing_in_nothing_out(self):
        assert MiniQualityJudge(network()).score([]) == []

    def test_output_that_is_not_finite_is_no_score(self):
        broken = network()
        nn.init.constant_(broken.head.bias, torch.nan)
        (score,) = MiniQualityJudge(broken).score(INPUTS[:1])
        assert (score.reason or "").startswith("non_finite")

    def test_a_saved_judge_gives_the_same_scores_under_the_same_version(self, tmp_path: Path):
        judge = MiniQualityJudge(network())
        judge.save(tmp_path)
        loaded = MiniQualityJudge.load(tmp_path)
        assert loaded.info == judge.info
        assert loaded.score(INPUTS) == judge.score(INPUTS)

    @pytest.mark.parametrize("config", [{"width": 5}, {"depth": 3}, {"width": "4"}])
    def test_refuses_a_configuration_that_does_not_fit(self, tmp_path: Path, config: dict[str, object]):
        save_module(tmp_path, network(), config)
        with pytest.raises(InvalidBundle):
            MiniQualityJudge.load(tmp_path)
