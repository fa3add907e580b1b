"""The personalization judge over the real histories of Polyvore-U and embeddings of its 119,202 items."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.outfits.model import Blank, DataSet, Image
from tests.reference.judge_formulas import cosine
from tests.synthetic_embeddings import noise_vectors, write_embeddings

DIM = 12


class PixelFeatures:
    """A picture's first pixels as its vector."""

    feature_id, dim = "synthetic-1", DIM

    def images(self, images) -> Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(np.stack([vector_of(image) for image in images])), dim=1)


def vector_of(image: Image) -> np.ndarray:
    return image.reshape(-1)[:DIM].astype(np.float32) - 127.5


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return noise_vectors(119_202, DIM)


@pytest.fixture(scope="module")
def judge(polyvore_u: DataSet, vectors: np.ndarray, tmp_path_factory) -> PersonalizationJudge:
    folder = tmp_path_factory.mktemp("full") / "embeddings"
    embeddings = write_embeddings(folder, polyvore_u.catalogue, vectors)
    items = CatalogueFeatures(PixelFeatures(), polyvore_u.catalogue, embeddings=embeddings)
    return PersonalizationJudge(PixelFeatures(), items, polyvore_u.history("test"))


def inputs_of(blanks: list[Blank]) -> list[JudgeInput]:
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (len(blanks), 4, 4, 3), np.uint8)
    return [JudgeInput(str(n), blank.outfit, blank.slot, pictures[n]) for n, blank in enumerate(blanks)]


class TestPolyvoreUHistories:
    def test_every_score_is_the_cosine_with_the_mean_of_what_the_user_wore(self, judge, polyvore_u: DataSet, vectors):
        blanks = polyvore_u.blanks_of("test", 800, seed=2)
        history = polyvore_u.history("test")
        row_of = {item_id: row for row, item_id in enumerate(polyvore_u.catalogue.item_ids())}
        stored = vectors.astype(np.float16).astype(np.float64)
        inputs = inputs_of(blanks)
        for one, score in zip(inputs, judge.score(inputs), strict=True):
            user, category = one.outfit.user_id, one.outfit.category_ids[one.slot]
            worn = history.of(user, category) or history.all_of(user)
            taste = np.mean([stored[row_of[item_id]] for item_id in worn], axis=0)
            assert score.value == pytest.approx(cosine(vector_of(one.image).astype(np.float64), taste), abs=1e-5)
            assert score.diagnostics["history_items"] == len(worn)

    def test_the_category_comes_first_and_the_whole_history_where_it_has_none(self, judge, polyvore_u: DataSet):
        history, blanks = polyvore_u.history("test"), list(polyvore_u.blanks["test"])
        expected = Counter(
            "category" if history.of(b.outfit.user_id, b.outfit.category_ids[b.slot]) else "all_categories"
            for b in blanks
        )
        assert expected == {"category": 3_568, "all_categories": 63}
        assert Counter(score.diagnostics["history"] for score in judge.score(inputs_of(blanks))) == expected

    def test_who_has_no_history_gets_no_score(self, judge, polyvore_u: DataSet):
        (blank,) = polyvore_u.blanks_of("test", 1)
        stranger = blank.outfit.model_copy(update={"user_id": 999_999})
        (score,) = judge.score([JudgeInput("x", stranger, blank.slot, np.zeros((4, 4, 3), np.uint8))])
        assert (score.value, score.reason, score.is_final) == (None, "no_history", True)
