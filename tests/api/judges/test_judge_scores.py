"""What the three judges answer over HTTP, with the real mini weights."""

import base64
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from fashiondpo.contracts import Outfit
from fashiondpo.judges.base import JudgeInput
from fashiondpo.messages import ScoreResponse
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import DataSet
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.workspace import Workspace
from tests.api.judges.judge_apps import JUDGES, base64_of, candidates, noise, serving


def score(client: TestClient, *items: dict) -> ScoreResponse:
    response = client.post("/score", json={"candidates": items})
    assert response.status_code == 200, response.text
    return ScoreResponse.model_validate_json(response.content)


def only(client: TestClient, item: dict):
    return score(client, item).scores[0]


@pytest.mark.parametrize("criterion", JUDGES)
class TestEveryJudge:
    def test_says_what_it_is(self, judges, criterion):
        info = judges[criterion].get("/info").json()
        assert info["criterion"] == criterion
        assert info["low"] < info["high"]
        assert (info["features"] is None) == (criterion == "quality")
        assert info["embeddings"] is None

    def test_scores_like_the_library(self, judges, criterion, data: DataSet, tmp_path):
        asked = candidates(data, 20, split="test")
        place = Workspace(tmp_path)
        place.__dict__["data_set"] = data  # opened already
        judge = next(judge for judge in place.judges("test") if judge.info.criterion == criterion)
        blanks = data.blanks_of("test", 20)
        inputs = [
            JudgeInput(item["candidate_id"], blank.outfit, blank.slot, data.catalogue.image(blank.true_item_id))
            for item, blank in zip(asked, blanks, strict=True)
        ]
        expected = [one.value for one in judge.score(inputs)]
        answer = score(judges[criterion], *asked)
        assert answer.judge == judge.info
        assert [one.value for one in answer.scores] == pytest.approx(expected, abs=1e-4)  # kernels differ by batch

    def test_keeps_the_order_of_hundreds(self, judges, criterion, data: DataSet):
        asked = candidates(data, 300)
        answer = score(judges[criterion], *asked)
        assert [one.candidate_id for one in answer.scores] == [item["candidate_id"] for item in asked]
        assert len({one.value for one in answer.scores}) > 100

    def test_a_candidate_that_cannot_be_judged_has_the_reason_and_spoils_no_other(self, judges, criterion, data):
        good, other = candidates(data, 2)
        bad = [
            {**good, "candidate_id": "slot", "slot": 17},
            {**good, "candidate_id": "text", "image": base64.b64encode(b"no picture").decode()},
            {**good, "candidate_id": "gone", "image": None, "artifact": f"{'ab' * 32}.png"},
            {**good, "candidate_id": "weights", "image": None, "artifact": f"{'ab' * 32}.safetensors"},
        ]
        answer = score(judges[criterion], good, *bad, other)
        assert [one.value is None for one in answer.scores] == [False, True, True, True, True, False]
        assert [(one.reason or "").split(":")[0] for one in answer.scores[1:-1]] == [
            "invalid_input",
            "invalid_input",
            "not_found",
            "not_found",
        ]
        assert all(one.is_final for one in answer.scores)
        assert score(judges[criterion], good, other).scores[0].value == pytest.approx(answer.scores[0].value, abs=1e-4)

    def test_takes_pictures_from_the_artifact_store(self, judges, criterion, data, artifacts_folder: Path):
        (item,) = candidates(data, 1)
        content = base64.b64decode(item["image"])
        ref = FolderArtifacts(artifacts_folder).put(content, "png")
        by_ref = only(judges[criterion], {**item, "image": None, "artifact": ref})
        assert by_ref.value == only(judges[criterion], item).value

    def test_a_request_without_candidates_or_with_too_many_is_422(self, judges, criterion, data):
        (item,) = candidates(data, 1)
        for asked in ([], [item] * 513):
            assert judges[criterion].post("/score", json={"candidates": asked}).status_code == 422

    @pytest.mark.parametrize("ref", ["../../etc/passwd", "/etc/passwd", f"{'ab' * 32}.png/../x", f"{'AB' * 32}.png"])
    def test_a_path_in_place_of_a_reference_is_422_and_reaches_no_file(self, judges, criterion, data, ref):
        (item,) = candidates(data, 1)
        asked = {**item, "image": None, "artifact": ref}
        assert judges[criterion].post("/score", json={"candidates": [asked]}).status_code == 422

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.png", "file:///etc/passwd", "data:image/png;base64,AAAA"])
    def test_an_address_in_place_of_a_picture_is_422_and_is_not_fetched(self, judges, criterion, data, url):
        (item,) = candidates(data, 1)
        assert judges[criterion].post("/score", json={"candidates": [{**item, "image": url}]}).status_code == 422


class TestQuality:
    def test_prefers_a_garment_to_noise(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        answer = score(judges["quality"], item, {**item, "candidate_id": "noise", "image": base64_of(noise())})
        assert answer.scores[0].value > answer.scores[1].value + 1

    def test_does_not_read_pictures_that_it_does_not_look_at(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        outfit = {**item["outfit"], "item_ids": [None] * 4, "item_images": {"1": f"{'ab' * 32}.png"}}
        lost = [{"artifact": f"{'cd' * 32}.png"}]
        assert only(judges["quality"], {**item, "outfit": outfit, "slot": 0, "history": lost}).value is not None

    def test_has_no_catalogue_to_judge_items_of(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        assert "no catalogue" in (only(judges["quality"], {**item, "image": None, "item_id": 3}).reason or "")


class TestCompatibility:
    def test_of_an_item_of_the_catalogue_is_that_of_its_picture(self, judges, data: DataSet):
        (blank,) = data.blanks_of("test", 1)
        (item,) = candidates(data, 1)
        by_id = only(judges["compatibility"], {**item, "image": None, "item_id": blank.true_item_id})
        assert by_id.value == pytest.approx(only(judges["compatibility"], item).value, abs=1e-4)

    def test_of_a_garment_sent_along_is_that_of_the_item_it_shows(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        outfit = Outfit.model_validate(item["outfit"])
        slot = next(s for s, item_id in enumerate(outfit.item_ids) if item_id is not None)
        image = data.catalogue.image(outfit.item_ids[slot])
        without = outfit.without(slot).model_dump(mode="json")
        sent = only(judges["compatibility"], {**item, "outfit": without, "given_images": {slot: base64_of(image)}})
        assert sent.value == pytest.approx(only(judges["compatibility"], item).value, abs=1e-4)
        assert sent.diagnostics["given_items"] == 3.0

    def test_of_a_garment_in_the_artifact_store_is_that_of_the_item_it_shows(self, judges, data, artifacts_folder):
        (item,) = candidates(data, 1)
        outfit = Outfit.model_validate(item["outfit"])
        slot = next(s for s, item_id in enumerate(outfit.item_ids) if item_id is not None)
        ref = FolderArtifacts(artifacts_folder).put(encode_png(data.catalogue.image(outfit.item_ids[slot])), "png")
        stored = {**outfit.without(slot).model_dump(mode="json"), "item_images": {slot: ref}}
        assert only(judges["compatibility"], {**item, "outfit": stored}).value == pytest.approx(
            only(judges["compatibility"], item).value, abs=1e-4
        )

    def test_a_slot_with_an_item_and_a_picture_is_refused_for_that_candidate(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        slot = next(s for s, item_id in enumerate(item["outfit"]["item_ids"]) if item_id is not None)
        refused = only(judges["compatibility"], {**item, "given_images": {slot: base64_of(noise())}})
        assert "have an item and a picture" in (refused.reason or "")

    def test_alone_in_its_outfit_a_candidate_has_no_score(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        outfit = {**item["outfit"], "item_ids": [None] * 4}
        assert only(judges["compatibility"], {**item, "outfit": outfit}).reason == "no_outfit"

    def test_an_item_that_is_not_in_the_catalogue_is_named(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        outfit = {**item["outfit"], "item_ids": [None, None, None, 10**9]}
        assert (
            "unknown_item: item 1000000000"
            in only(judges["compatibility"], {**item, "outfit": outfit, "slot": 0}).reason
        )


class TestPersonalization:
    def test_knows_the_histories_of_all_splits_unless_told_otherwise(self, judges, data: DataSet):
        for split in ("train", "valid", "test"):
            (item,) = candidates(data, 1, split=split)
            assert only(judges["personalization"], item).diagnostics["history"] == "category"

    def test_knows_only_the_users_of_a_split_if_told_so(self, open_app, data: DataSet):
        with serving(open_app("personalization", history="train")) as client:
            assert only(client, *candidates(data, 1, split="train")).value is not None
            assert only(client, *candidates(data, 1, split="test")).reason == "no_history"

    def test_of_a_history_that_came_along_counts_items_pictures_and_artifacts(self, judges, data, artifacts_folder):
        (item,) = candidates(data, 1)
        images = [data.catalogue.image(item_id) for item_id in (10, 20, 30)]
        ref = FolderArtifacts(artifacts_folder).put(encode_png(images[2]), "png")
        mixed = [{"item_id": 10}, {"image": base64_of(images[1])}, {"artifact": ref}]
        by_id = [{"item_id": item_id} for item_id in (10, 20, 30)]
        first, second = (only(judges["personalization"], {**item, "history": h}) for h in (mixed, by_id))
        assert first.value == pytest.approx(second.value, abs=1e-4)
        assert first.diagnostics == {"history": "inline", "history_items": 3.0}

    def test_without_history_a_candidate_finally_has_no_score(self, judges, data: DataSet):
        (item,) = candidates(data, 1)
        answer = only(judges["personalization"], {**item, "history": []})
        assert (answer.reason, answer.is_final) == ("no_history", True)


class TestCatalogueFeatures:
    def test_are_kept_for_the_next_start(self, judges, features_cache: Path, data: DataSet):
        files = list(features_cache.iterdir())
        assert len(files) == 1  # both judges share the one model's
        assert np.load(files[0], mmap_mode="r").shape[0] == len(data.catalogue.item_ids())
