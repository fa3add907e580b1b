"""Compatibility and personalization by a model of the published kind, over embeddings that were made before."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from open_clip.transformer import VisionTransformer

from fashiondpo.judges.base import Judge, JudgeInput
from fashiondpo.judges.compatibility import CompatibilityJudge
from fashiondpo.judges.embedding import embed_catalogue
from fashiondpo.judges.embeddings import CatalogueEmbeddings
from fashiondpo.judges.features import OpenClipFeatures
from fashiondpo.judges.item_features import CatalogueFeatures
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import DataSet, History
from fashiondpo.outfits.sources import load_data_set
from services.judge_compat.app import create_app as create_compat
from services.judge_compat.settings import JudgeCompatSettings
from services.judge_personal.app import create_app as create_personal
from services.judge_personal.settings import JudgePersonalSettings
from tests.api.small_service import wait_until_ready
from tests.polling import eventually
from tests.service_process import ServiceProcess
from tests.small_catalogue import save_small_catalogue
from tests.tiny_clip import save_tiny_clip

JUDGES = ("judge_compat", "judge_personal")


@dataclass(frozen=True)
class Places:
    """Everything that the services are told, and the same in this process."""

    data_folder: Path
    weights: Path
    vbpr: Path
    embeddings: Path
    data: DataSet
    features: OpenClipFeatures

    def settings(self, name: str) -> dict[str, object]:
        common = {"data_set": self.data_folder, "clip": self.weights, "embeddings": self.embeddings}
        return common | ({"vbpr": self.vbpr} if name == "judge_compat" else {})

    def judge(self, name: str) -> Judge:
        embeddings = CatalogueEmbeddings.open(self.embeddings, self.data.catalogue)
        items = CatalogueFeatures(self.features, self.data.catalogue, embeddings=embeddings)
        if name == "judge_compat":
            return CompatibilityJudge.load(self.vbpr, self.features, items)
        return PersonalizationJudge(self.features, items, History.joined(list(self.data.histories.values())))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    base = tmp_path_factory.mktemp("published")
    data_folder = save_small_catalogue(base / "data")
    weights = save_tiny_clip(base / "clip") / "open_clip_model.safetensors"
    data, features = load_data_set(data_folder), OpenClipFeatures.load(weights)
    embed_catalogue(features, data.catalogue, base / "embeddings")
    torch.manual_seed(2)
    VBPR(VBPRConfig(features.dim, 16, 8, feature_id=features.feature_id)).save(base / "vbpr")
    return Places(data_folder, weights, base / "vbpr", base / "embeddings", data, features)


def candidates(data: DataSet, count: int = 24) -> tuple[list[JudgeInput], dict[str, object]]:
    """The same candidates for a judge in this process and as a request."""
    rng = np.random.default_rng(0)
    blanks = data.blanks_of("test", count)
    inputs = [
        JudgeInput(f"c-{n}", blank.outfit, blank.slot, rng.integers(0, 256, (64, 64, 3), np.uint8))
        for n, blank in enumerate(blanks)
    ]
    items = [
        {
            "candidate_id": one.candidate_id,
            "outfit": one.outfit.model_dump(mode="json"),
            "slot": one.slot,
            "image": base64.b64encode(encode_png(one.image)).decode(),
        }
        for one in inputs
    ]
    return inputs, {"candidates": items}


class TestOverHTTP:
    @pytest.mark.parametrize("name", JUDGES)
    def test_scores_like_the_library_and_names_the_features(self, places: Places, name: str):
        judge, (inputs, request) = places.judge(name), candidates(places.data)
        with ServiceProcess(name, **places.settings(name)) as process:
            process.wait_until_ready()
            info = httpx.get(f"{process.url}/info").json()
            answer = httpx.post(f"{process.url}/score", json=request, timeout=60).json()
        assert info["version"] == judge.info.version
        assert info["features"] == places.features.feature_id
        assert info["embeddings"] == hashlib.sha256((places.embeddings / "vectors.npy").read_bytes()).hexdigest()
        expected = [score.value for score in judge.score(inputs)]
        assert [score["value"] for score in answer["scores"]] == pytest.approx(expected, abs=1e-4)
        assert len(set(expected)) == len(expected)

    @pytest.mark.slow
    def test_is_ready_no_sooner_than_everything_is_loaded(self, places: Places):
        answers = []
        with ServiceProcess("judge_personal", **places.settings("judge_personal")) as process:

            def is_ready() -> bool:
                answers.append(httpx.get(f"{process.url}/readyz", timeout=10))
                return answers[-1].status_code == 200

            eventually(is_ready, within_s=60)
            assert process.events("loaded")
        early = [answer.json()["checks"]["judge"] for answer in answers[:-1]]
        assert all(answer.status_code == 503 for answer in answers[:-1])
        assert all("load" in check for check in early)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", JUDGES)
    def test_ends_and_says_why_where_embeddings_are_unfinished(self, places: Places, tmp_path: Path, name: str):
        with ServiceProcess(name, **places.settings(name) | {"embeddings": tmp_path}) as process:
            assert process.ended() == 1
        assert "run `fashiondpo embed` to the end" in process.events("failed")[0]["reason"]

    @pytest.mark.slow
    def test_ends_and_names_both_models_where_embeddings_are_of_another(self, places: Places, tmp_path: Path):
        other = save_tiny_clip(tmp_path / "clip", seed=1)
        with ServiceProcess("judge_personal", **places.settings("judge_personal") | {"clip": other}) as process:
            assert process.ended() == 1
        reason = process.events("failed")[0]["reason"]
        assert places.features.feature_id in reason
        assert OpenClipFeatures.load(other).feature_id in reason

    @pytest.mark.slow
    def test_ends_and_names_both_where_vbpr_was_trained_on_other_features(self, places: Places, tmp_path: Path):
        VBPR(VBPRConfig(places.features.dim, feature_id="other-features")).save(tmp_path)
        with ServiceProcess("judge_compat", **places.settings("judge_compat") | {"vbpr": tmp_path}) as process:
            assert process.ended() == 1
        reason = process.events("failed")[0]["reason"]
        assert "other-features" in reason and places.features.feature_id in reason


class TestForwards:
    @pytest.fixture
    def forwards(self):
        """Pictures that went through any image tower of this process."""
        seen: list[int] = []

        def count(module: torch.nn.Module, arguments: tuple, _output: object) -> None:
            if isinstance(module, VisionTransformer):
                seen.append(len(arguments[0]))

        handle = torch.nn.modules.module.register_module_forward_hook(count)
        yield seen
        handle.remove()

    @pytest.mark.parametrize("name", JUDGES)
    def test_none_is_needed_to_start_over_embeddings(self, places: Places, name: str, forwards: list[int]):
        settings = places.settings(name)
        app = (
            create_compat(JudgeCompatSettings(**json.loads(json.dumps(settings, default=str))))
            if name == "judge_compat"
            else create_personal(JudgePersonalSettings(**json.loads(json.dumps(settings, default=str))))
        )
        _, request = candidates(places.data, 5)
        with TestClient(app) as client:
            wait_until_ready(client)
            assert forwards == []
            assert client.post("/score", json=request).status_code == 200
        assert sum(forwards) == 5  # the candidates alone: what is worn with them is known

    def test_the_whole_catalogue_goes_through_without_them(self, places: Places, tmp_path: Path, forwards: list[int]):
        settings = JudgePersonalSettings(
            data_set=places.data_folder, clip=str(places.weights), features_cache=tmp_path / "cache"
        )
        for expected in (len(places.data.catalogue.item_ids()), 0):  # the second start finds them in the cache
            forwards.clear()
            with TestClient(create_personal(settings)) as client:
                wait_until_ready(client)
            assert sum(forwards) == expected
