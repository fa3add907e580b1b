"""Which row of the table is whose, and what is said of what cannot be measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fashiondpo.errors import InvalidBundle, InvalidInput
from fashiondpo.judges.vbpr import VBPR, VBPRConfig
from fashiondpo.paper_suite.instruments import Instruments, SuiteFiles, open_instruments
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.workspace import Workspace
from tests.unit.judges.small_world import small_features
from tests.unit.metrics.backbones import random_backbone
from tests.unit.paper_suite.conftest import Bench

OF_CLIP = {"clip_score", "clip_image_score", "history", "history_of_others", "history_lead", "retrieval", "diversity"}
OF_RULES = {"harmony", "palette", "colour_match"}


def groups(instruments: Instruments) -> dict[str, str]:
    return {metric.key: metric.group for metric in instruments.metrics()}


class TestGroups:
    def test_judges_that_made_the_labels_stand_apart(self, bench: Bench):
        found = groups(bench.instruments)
        judges = {key: group for key, group in found.items() if key.startswith("judge_")}
        assert set(judges.values()) == {"labels"}
        assert {key for key, group in found.items() if group == "labels"} == set(judges)

    def test_what_looks_through_a_labellers_network_is_no_held_out_measure(self, bench: Bench):
        found = groups(bench.instruments)
        clip = bench.instruments.clip.feature_id
        shared = {key for key, group in found.items() if group == "shared"}
        assert shared == OF_CLIP | {f"fid_{clip}", f"kid_{clip}"}

    def test_the_classifier_rules_and_lpips_are_held_out(self, bench: Bench):
        found = groups(bench.instruments)
        name = bench.instruments.classifier.name
        held_out = {key for key, group in found.items() if group == "held_out"}
        assert held_out == OF_RULES | {f"fid_{name}", f"kid_{name}", "is", "is_accuracy", "lpips", "lpips_diversity"}

    def test_a_judge_without_weight_made_no_label(self, bench: Bench):
        quality = bench.instruments.judges[0].info
        alone = groups(replace(bench.instruments, labellers=[quality]))
        assert alone["judge_quality"] == "labels"
        assert alone["judge_compatibility"] == alone["clip_score"] == "held_out"

    def test_a_judge_without_weight_that_shares_a_network_is_no_held_out_one_either(self, bench: Bench):
        compatibility = bench.instruments.judges[1].info
        found = groups(replace(bench.instruments, labellers=[compatibility]))
        assert found["judge_personalization"] == "shared"
        assert found["judge_quality"] == "held_out"

    def test_another_clip_is_held_out(self, bench: Bench):
        other = replace(bench.instruments, clip=small_features(seed=5))
        assert {groups(other)[key] for key in OF_CLIP} == {"held_out"}


class TestNames:
    def test_every_fid_says_which_features_it_is_of(self, bench: Bench):
        fids = [metric for metric in bench.instruments.metrics() if metric.key.startswith("fid_")]
        assert [metric.detail for metric in fids] == [
            f"features: {extractor.feature_id}" for extractor in bench.instruments.extractors
        ]

    def test_keys_are_there_once(self, bench: Bench):
        keys = [metric.key for metric in bench.instruments.metrics()]
        assert len(keys) == len(set(keys))


@pytest.fixture(scope="module")
def workspace(smoke_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("run"), mini_assets=smoke_assets)


def opened(workspace: Workspace, **files) -> Instruments:
    return open_instruments(workspace, "test", PreferenceSettings(), SuiteFiles(**files), seed=0)


class TestOpenInstruments:
    def test_takes_the_runs_own_models(self, workspace: Workspace):
        found = opened(workspace)
        assert found.clip is workspace.features
        assert found.classifier.name.startswith("held-out-")
        assert found.facts is not None
        assert [info.criterion for info in found.labellers] == ["quality", "compatibility", "personalization"]

    def test_says_what_cannot_be_measured_and_which_option_helps(self, workspace: Workspace):
        left = {one.title: one.reason for one in opened(workspace).left_out}
        assert set(left) == {"FID and KID on Inception", "LPIPS"}
        assert "--inception" in left["FID and KID on Inception"]
        assert "--lpips" in left["LPIPS"]

    def test_without_a_held_out_network_clip_names_the_categories_and_says_so(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(Workspace, "held_out_folder", None)
        found = opened(workspace)
        assert found.classifier.name == f"zero-shot-{workspace.features.feature_id}"
        assert found.group_of(found.classifier.name) == "shared"
        assert found.facts is None
        assert "Compatibility by another evaluator" in {one.title for one in found.left_out}

    def test_another_evaluator_gives_a_row_of_its_own(self, workspace: Workspace, tmp_path: Path):
        torch.manual_seed(1)
        VBPR(VBPRConfig(workspace.features.dim, feature_id=workspace.features.feature_id)).save(tmp_path)
        found = opened(workspace, evaluator=tmp_path)
        assert groups(found)["evaluator"] == "shared"

    def test_the_judge_itself_is_no_other_evaluator(self, workspace: Workspace, smoke_assets: Path):
        with pytest.raises(InvalidInput, match="is the judge that made the labels"):
            opened(workspace, evaluator=smoke_assets / "judges" / "vbpr")

    def test_an_evaluator_of_other_features_is_refused(self, workspace: Workspace, tmp_path: Path):
        VBPR(VBPRConfig(workspace.features.dim, feature_id="others")).save(tmp_path)
        with pytest.raises(InvalidInput, match="was trained on features 'others'"):
            opened(workspace, evaluator=tmp_path)

    def test_another_clip_embeds_pictures_and_items(self, workspace: Workspace, tmp_path: Path):
        other = small_features(seed=7)
        other.save(tmp_path)
        found = opened(workspace, clip=str(tmp_path))
        assert found.clip.feature_id == found.items.features.feature_id == other.feature_id
        assert found.group_of(found.clip.feature_id) == "held_out"

    def test_weights_of_lpips_give_rows_that_are_held_out(self, workspace: Workspace, tmp_path: Path):
        torch.save(random_backbone("alexnet"), tmp_path / "alexnet.pth")
        found = opened(workspace, lpips=tmp_path / "alexnet.pth")
        assert groups(found)["lpips"] == groups(found)["lpips_diversity"] == "held_out"
        assert {left.title for left in found.left_out} == {"FID and KID on Inception"}

    @pytest.mark.parametrize("option", ["inception", "lpips"])
    def test_a_file_that_holds_something_else_is_refused(self, workspace: Workspace, tmp_path: Path, option):
        torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
        with pytest.raises(InvalidBundle, match=r"other\.pth"):
            opened(workspace, **{option: tmp_path / "other.pth"})
