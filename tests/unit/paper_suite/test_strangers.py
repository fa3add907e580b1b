"""Similarity to a history, and the baseline of other users' histories."""

from __future__ import annotations

import numpy as np
import pytest

from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.outfits.mini import world_data_set
from fashiondpo.outfits.model import DataSet, History
from fashiondpo.paper_suite.strangers import STRANGERS, HistoryTastes
from tests.unit.judges.small_world import garment, outfit, small_features, world

CATEGORY = 5


@pytest.fixture(scope="module")
def data() -> DataSet:
    return world_data_set(world())


@pytest.fixture(scope="module")
def items(data: DataSet) -> CatalogueFeatures:
    return CatalogueFeatures(small_features(), data.catalogue)


@pytest.fixture(scope="module")
def pictures(items: CatalogueFeatures) -> np.ndarray:
    return items.features.images([garment((40 * k, 90, 200 - 30 * k)) for k in range(6)]).double().numpy()


def tastes(items: CatalogueFeatures, history: dict[int, list[int]], *, seed: int = 0) -> HistoryTastes:
    return HistoryTastes(items, History({user: {CATEGORY: of_user} for user, of_user in history.items()}), seed=seed)


class TestSimilarity:
    def test_is_what_the_personalization_judge_says(self, data: DataSet, items: CatalogueFeatures):
        history = History({0: {CATEGORY: [3, 4, 9]}})
        images = [garment((40 * k, 90, 90)) for k in range(4)]
        worn = outfit(1, 2, None, 4, category_ids=(0, 1, CATEGORY, 8))
        inputs = [JudgeInput(str(k), worn, 2, image) for k, image in enumerate(images)]
        judged = [s.value for s in PersonalizationJudge(items.features, items, history).score(inputs)]
        vectors = items.features.images(images).double().numpy()
        found = HistoryTastes(items, history, seed=0).similarity(vectors, [0] * 4, [CATEGORY] * 4)
        assert found == pytest.approx(judged, abs=1e-6)

    def test_of_an_item_with_itself_alone_is_one(self, items: CatalogueFeatures):
        vector = items.of([7]).double().numpy()
        assert tastes(items, {0: [7]}).similarity(vector, [0], [CATEGORY]) == pytest.approx([1], abs=1e-6)

    def test_is_unknown_without_a_history_of_the_category(self, items: CatalogueFeatures, pictures: np.ndarray):
        found = tastes(items, {0: [7]}).similarity(pictures[:2], [0, 0], [CATEGORY, 8])
        assert np.isnan(found).tolist() == [False, True]


class TestBaseline:
    def test_of_users_who_wore_the_same_equals_their_own(self, items: CatalogueFeatures, pictures: np.ndarray):
        same = tastes(items, {user: [3, 8, 11] for user in range(20)})
        users, categories = list(range(6)), [CATEGORY] * 6
        own, others = same.similarity(pictures, users, categories), same.baseline(pictures, users, categories)
        assert own == pytest.approx(others, abs=1e-12)

    def test_is_the_mean_over_the_strangers(self, items: CatalogueFeatures, pictures: np.ndarray):
        some = tastes(items, {user: [user + 1, user + 9] for user in range(12)})
        one_by_one = [
            some.similarity(pictures[:1], [stranger], [CATEGORY])[0] for stranger in some.strangers(2, CATEGORY)
        ]
        assert some.baseline(pictures[:1], [2], [CATEGORY])[0] == pytest.approx(np.mean(one_by_one))

    def test_is_unknown_where_nobody_else_wore_the_category(self, items: CatalogueFeatures, pictures: np.ndarray):
        assert np.isnan(tastes(items, {0: [7]}).baseline(pictures[:1], [0], [CATEGORY])).all()


class TestStrangers:
    def test_are_other_users_with_a_history_of_the_category(self, items: CatalogueFeatures):
        some = tastes(items, {user: [1] if user % 2 else [] for user in range(30)})
        found = some.strangers(3, CATEGORY)
        assert len(set(found)) == STRANGERS
        assert 3 not in found
        assert all(user % 2 for user in found)

    def test_follow_from_the_seed(self, items: CatalogueFeatures):
        history = {user: [1] for user in range(30)}
        one, again, other = (tastes(items, history, seed=seed).strangers(3, CATEGORY) for seed in (0, 0, 1))
        assert one == again != other

    def test_are_all_where_there_are_few(self, items: CatalogueFeatures):
        assert set(tastes(items, {user: [1] for user in range(3)}).strangers(0, CATEGORY)) == {1, 2}
