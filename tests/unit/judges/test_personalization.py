from pathlib import Path

import numpy as np
import pytest
import torch

from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.outfits.model import DataSet, History
from tests.reference.judge_formulas import cosine
from tests.unit.judges.small_world import garment, outfit

HISTORY = History({0: {0: [10, 11], 5: [12]}, 1: {8: [13]}, 3: {0: [999_999]}})


@pytest.fixture
def judge(features: OpenClipFeatures, items: CatalogueFeatures) -> PersonalizationJudge:
    return PersonalizationJudge(features, items, HISTORY)


def judge_input(user_id: int, slot: int = 0) -> JudgeInput:
    return JudgeInput(f"{user_id}-{slot}", outfit(None, None, 1, 2, user_id=user_id), slot, garment((200, 80, 0)))


class TestPersonalizationJudge:
    def test_is_a_judge_of_personalization(self, judge: PersonalizationJudge):
        assert isinstance(judge, Judge)
        assert (judge.info.criterion, judge.info.low, judge.info.high) == ("personalization", -1, 1)

    def test_score_is_the_cosine_to_the_mean_of_the_category(self, judge, features, data: DataSet):
        history = features.images([data.catalogue.image(i) for i in (10, 11)]).double().numpy()
        candidate = features.images([garment((200, 80, 0))])[0].double().numpy()
        (score,) = judge.score([judge_input(0)])
        assert score.value == pytest.approx(cosine(candidate, np.mean(history, axis=0)), abs=1e-5)
        assert score.diagnostics == {"history": "category", "history_items": 2.0}

    def test_the_users_own_item_is_the_best_match(self, judge: PersonalizationJudge, data: DataSet):
        own = JudgeInput("own", outfit(1, 2, None, 3), 2, data.catalogue.image(12))
        assert judge.score([own])[0].value == pytest.approx(1, abs=1e-5)

    def test_without_history_in_the_category_the_whole_history_counts(self, judge: PersonalizationJudge):
        (score,) = judge.score([judge_input(0, slot=1)])
        assert score.value is not None
        assert score.diagnostics == {"history": "all_categories", "history_items": 3.0}

    def test_without_any_history_there_is_finally_no_score(self, judge: PersonalizationJudge):
        (score,) = judge.score([judge_input(7)])
        assert (score.value, score.reason, score.is_final) == (None, "no_history", True)

    def test_keeps_the_order_and_tells_what_it_cannot_score(self, judge: PersonalizationJudge):
        inputs = [judge_input(7), judge_input(0), judge_input(3), judge_input(0, slot=9), judge_input(1)]
        scores = judge.score(inputs)
        assert [score.candidate_id for score in scores] == [x.candidate_id for x in inputs]
        assert [score.value is None for score in scores] == [True, False, True, True, False]
        assert (scores[2].reason or "").startswith("unknown_item")
        assert (scores[3].reason or "").startswith("invalid_input: slot 9")

    def test_does_not_depend_on_the_batch(self, judge: PersonalizationJudge):
        inputs = [judge_input(0), judge_input(1), judge_input(0, slot=1)]
        together = [score.value for score in judge.score(inputs)]
        alone = [judge.score([one])[0].value for one in inputs]
        assert together == pytest.approx(alone, abs=1e-5)

    def test_features_that_are_not_finite_give_no_score(self, features: OpenClipFeatures, data: DataSet):
        items = CatalogueFeatures(features, data.catalogue)
        items.of([13])
        items._vectors[:] = torch.nan  # type: ignore[index]
        (score,) = PersonalizationJudge(features, items, HISTORY).score([judge_input(1)])
        assert (score.reason or "").startswith("non_finite")

    def test_loads_from_a_folder(self, judge, features: OpenClipFeatures, data: DataSet, tmp_path: Path):
        features.save(tmp_path)
        loaded = PersonalizationJudge.load(tmp_path, data.catalogue, HISTORY)
        assert loaded.info == judge.info
        assert loaded.score([judge_input(0)])[0].value == pytest.approx(judge.score([judge_input(0)])[0].value)
