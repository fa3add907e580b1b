from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from fashiondpo.errors import InvalidInput
from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.outfits.model import DataSet
from tests.reference.judge_formulas import vbpr_score
from tests.unit.judges.small_world import garment, outfit, small_features


def network(features: OpenClipFeatures, **config: object) -> VBPR:
    torch.manual_seed(0)
    return VBPR(VBPRConfig(features.dim, 8, 4, **{"feature_id": features.feature_id, **config}))  # type: ignore[arg-type]


@pytest.fixture
def judge(features: OpenClipFeatures, items: CatalogueFeatures) -> CompatibilityJudge:
    return CompatibilityJudge(network(features), features, items)


INPUTS = [
    JudgeInput("full", outfit(None, 1, 2, 3), 0, garment((200, 0, 0))),
    JudgeInput("bad", outfit(None, 1, 2, 3), 0, np.zeros((4, 4), np.uint8)),
    JudgeInput("one", outfit(None, None, 7, None), 1, garment((0, 0, 200))),
    JudgeInput("alone", outfit(None, None, None, None), 2, garment((0, 0, 200))),
    JudgeInput("ghost", outfit(None, 1, 2, 999_999), 0, garment((0, 0, 200))),
    JudgeInput("again", outfit(None, 1, 2, 3), 0, garment((200, 0, 0))),
]


class TestCompatibilityJudge:
    def test_is_a_judge_of_compatibility(self, judge: CompatibilityJudge):
        assert isinstance(judge, Judge)
        assert judge.info.criterion == "compatibility"

    def test_its_version_names_network_and_features(self, judge: CompatibilityJudge, features: OpenClipFeatures):
        assert judge.info.version == f"{network(features).version}+{features.feature_id}"

    def test_says_in_version_and_log_that_published_weights_cannot_be_scored_as_they_were_meant(self, features, items):
        vbpr = network(features, feature_id="unsaved-random-layer", features_are_reproducible=False)
        with capture_logs() as lines:
            info = CompatibilityJudge(vbpr, features, items).info
        assert info.version == f"{vbpr.version}+{features.feature_id}+features-not-reproducible"
        (line,) = lines
        assert (line["log_level"], line["trained_on"]) == ("warning", "unsaved-random-layer")

    def test_of_its_own_features_warns_of_nothing(self, features, items):
        with capture_logs() as lines:
            CompatibilityJudge(network(features), features, items)
        assert lines == []

    def test_scores_are_vbprs_on_the_other_items(self, judge, features, data: DataSet):
        weights = {name: tensor.double().numpy() for name, tensor in network(features).state_dict().items()}
        candidate = features.images([garment((200, 0, 0))])[0].double().numpy()
        others = list(features.images([data.catalogue.image(i) for i in (1, 2, 3)]).double().numpy())
        expected = vbpr_score(candidate, others, weights, slope=0.2, shared_map=False)
        assert judge.score(INPUTS)[0].value == pytest.approx(expected, abs=1e-5)  # float32 against float64

    def test_keeps_the_order_and_tells_what_it_cannot_score(self, judge: CompatibilityJudge):
        scores = judge.score(INPUTS)
        assert [score.candidate_id for score in scores] == ["full", "bad", "one", "alone", "ghost", "again"]
        assert [score.value is None for score in scores] == [False, True, False, True, True, False]
        assert scores[0].value == scores[5].value
        assert scores[3].reason == "no_outfit"
        assert (scores[1].reason or "").startswith("invalid_input: expected an image")
        assert (scores[4].reason or "").startswith("unknown_item: item 999999")

    def test_does_not_depend_on_the_batch(self, judge: CompatibilityJudge):
        together = [score.value for score in judge.score(INPUTS)]
        alone = [judge.score([judge_input])[0].value for judge_input in INPUTS]
        assert together == pytest.approx(alone, abs=1e-5)  # kernels differ by batch size

    def test_the_item_in_the_judged_slot_is_no_context(self, judge: CompatibilityJudge):
        image = garment((0, 90, 0))
        filled, empty = (JudgeInput("c", outfit(first, 1, 2, 3), 0, image) for first in (9, None))
        assert judge.score([filled])[0].value == judge.score([empty])[0].value

    def test_nothing_in_nothing_out(self, judge: CompatibilityJudge):
        assert judge.score([]) == []

    def test_output_that_is_not_finite_is_no_score(self, features: OpenClipFeatures, items: CatalogueFeatures):
        broken = network(features)
        torch.nn.init.constant_(broken.visual_bias.bias, torch.nan)
        (score,) = CompatibilityJudge(broken, features, items).score(INPUTS[:1])
        assert (score.reason or "").startswith("non_finite")

    def test_refuses_a_network_trained_on_other_features(self, features: OpenClipFeatures, items: CatalogueFeatures):
        with pytest.raises(InvalidInput, match="was trained on features 'clip-old'"):
            CompatibilityJudge(network(features, feature_id="clip-old"), features, items)

    def test_accepts_published_weights_whose_features_nobody_knows(self, features, items: CatalogueFeatures):
        published = network(features, feature_id="unknown", features_are_reproducible=False)
        assert CompatibilityJudge(published, features, items).score(INPUTS[:1])[0].value is not None

    def test_refuses_features_of_another_width(self, features: OpenClipFeatures, items: CatalogueFeatures):
        wide = VBPR(VBPRConfig(512, features_are_reproducible=False))
        with pytest.raises(InvalidInput, match="features of width 512, got 16"):
            CompatibilityJudge(wide, features, items)

    def test_refuses_catalogue_features_of_another_model(self, items: CatalogueFeatures):
        other = small_features(seed=1)
        with pytest.raises(InvalidInput, match="the catalogue's features are"):
            CompatibilityJudge(network(other), other, items)

    def test_loads_from_a_folder_with_a_plain_catalogue(self, judge, features, data: DataSet, tmp_path: Path):
        network(features).save(tmp_path)
        loaded = CompatibilityJudge.load(tmp_path, features, data.catalogue)
        values = [score.value for score in judge.score(INPUTS)]
        assert [score.value for score in loaded.score(INPUTS)] == pytest.approx(values, abs=1e-5)
