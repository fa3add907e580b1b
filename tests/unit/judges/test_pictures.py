"""Garments that are in no catalogue: pictures among the given items and in the history."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fashiondpo.contracts import ArtifactRef, CandidateSet, Outfit, SamplerSettings, content_ref
from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.offline import judge_inputs
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import DataSet, History, Image
from fashiondpo.storage.artifacts import MemoryArtifacts
from tests.unit.judges.small_world import garment, outfit


def ref_of(image: Image) -> ArtifactRef:
    return content_ref(encode_png(image), "png")


def with_picture(given: Outfit, slot: int, image: Image) -> Outfit:
    return Outfit.model_validate({**given.model_dump(), "item_images": {slot: ref_of(image)}})


@pytest.fixture
def compatibility(features: OpenClipFeatures, items: CatalogueFeatures) -> CompatibilityJudge:
    torch.manual_seed(0)
    return CompatibilityJudge(VBPR(VBPRConfig(features.dim, 8, 4, feature_id=features.feature_id)), features, items)


@pytest.fixture
def personalization(features: OpenClipFeatures, items: CatalogueFeatures) -> PersonalizationJudge:
    return PersonalizationJudge(features, items, History({0: {0: [10, 11]}}))


@pytest.fixture
def item_2(data: DataSet) -> Image:
    return data.catalogue.image(2)


class TestCompatibilityOfPictures:
    def test_a_picture_of_an_item_counts_as_the_item(self, compatibility: CompatibilityJudge, item_2: Image):
        by_id = JudgeInput("c", outfit(None, 1, 2, 3), 0, garment((200, 0, 0)))
        pictured = with_picture(outfit(None, 1, None, 3), 2, item_2)
        by_picture = replace(by_id, outfit=pictured, pictures={ref_of(item_2): item_2})
        first, second = compatibility.score([by_id, by_picture])
        assert first.value == pytest.approx(second.value, abs=1e-5)  # kernels differ by batch size
        assert first.diagnostics == second.diagnostics

    def test_a_picture_alone_is_an_outfit_to_compare_with(self, compatibility: CompatibilityJudge, item_2: Image):
        pictured = with_picture(outfit(None, None, None, None), 2, item_2)
        (score,) = compatibility.score([JudgeInput("c", pictured, 0, item_2, pictures={ref_of(item_2): item_2})])
        assert score.diagnostics == {"given_items": 1.0}

    def test_the_picture_in_the_judged_slot_is_no_context(self, compatibility: CompatibilityJudge, item_2: Image):
        pictured = with_picture(outfit(None, None, None, None), 2, item_2)
        (score,) = compatibility.score([JudgeInput("c", pictured, 2, item_2, pictures={ref_of(item_2): item_2})])
        assert score.reason == "no_outfit"

    def test_a_picture_that_was_not_sent_along_spoils_only_its_own_candidate(self, compatibility, item_2: Image):
        pictured = with_picture(outfit(None, 1, None, 3), 2, item_2)
        lost = JudgeInput("lost", pictured, 0, item_2)
        there = JudgeInput("there", pictured, 0, item_2, pictures={ref_of(item_2): item_2})
        scores = compatibility.score([lost, there])
        assert (scores[0].reason or "").startswith("invalid_input: the picture")
        assert scores[1].value is not None

    def test_a_picture_that_is_none_spoils_only_its_own_candidate(self, compatibility, item_2: Image):
        pictured = with_picture(outfit(None, 1, None, 3), 2, item_2)
        bad = JudgeInput("bad", pictured, 0, item_2, pictures={ref_of(item_2): np.zeros((0, 4, 3), np.uint8)})
        good = JudgeInput("good", outfit(None, 1, 2, 3), 0, item_2)
        scores = compatibility.score([bad, good])
        assert (scores[0].reason or "").startswith("invalid_input")
        assert scores[1].value is not None


class TestHistoryThatCameAlong:
    def test_counts_before_what_the_catalogue_knows(self, personalization: PersonalizationJudge, data: DataSet):
        own = data.catalogue.image(20)
        candidate = JudgeInput("c", outfit(None, 1, 2, 3), 0, own, history=(20,))
        (score,) = personalization.score([candidate])
        assert score.value == pytest.approx(1, abs=1e-5)
        assert score.diagnostics == {"history": "inline", "history_items": 1.0}

    def test_may_hold_pictures(self, personalization: PersonalizationJudge, data: DataSet):
        image = data.catalogue.image(20)
        inputs = [
            JudgeInput("c", outfit(None, 1, 2, 3), 0, garment((9, 9, 9)), (10, source), {ref_of(image): image})
            for source in (20, ref_of(image))
        ]
        first, second = personalization.score(inputs)
        assert first.value == pytest.approx(second.value, abs=1e-5)
        assert second.diagnostics["history_items"] == 2.0

    def test_that_is_empty_means_that_there_is_none(self, personalization: PersonalizationJudge):
        (score,) = personalization.score([JudgeInput("c", outfit(None, 1, 2, 3), 0, garment((9, 9, 9)), history=())])
        assert (score.value, score.reason) == (None, "no_history")


class TestJudgeInputsOfStoredCandidates:
    def test_have_the_pictures_of_outfit_and_history(self):
        artifacts = MemoryArtifacts()
        images = [garment(colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
        candidate, given, worn = (artifacts.put(encode_png(image), "png") for image in images)
        kept = CandidateSet(
            set_id="s",
            outfit=with_picture(outfit(None, 1, None, 3), 2, images[1]),
            slot=0,
            candidates=({"candidate_id": "s-0", "index": 0, "seed": 1, "image": candidate},),  # type: ignore[arg-type]
            sampler=SamplerSettings(),
            base_digest="0" * 64,
            history=(5, worn),
        )
        (judge_input,) = judge_inputs([kept], artifacts)
        assert judge_input.history == (5, worn)
        assert set(judge_input.pictures) == {given, worn}
        assert np.array_equal(judge_input.pictures[worn], images[2])
