"""Settings of a run from mode, file and options; the places it remembers."""

from __future__ import annotations

import json

import pytest

from fashiondpo.cli.options import new_workspace, opened_workspace, run_settings, settings_of
from fashiondpo.contracts import GuidanceScales, RoundRecord, SamplerSettings
from fashiondpo.errors import InvalidInput
from fashiondpo.run_settings import RunSettings
from fashiondpo.training.config import paper_settings
from tests.smoke_assets import SMALL_RUN


@pytest.fixture
def file(tmp_path):
    """Writes a settings file."""

    def write(**content: object):
        path = tmp_path / "settings.json"
        path.write_text(json.dumps(content))
        return path

    return write


class TestRunSettings:
    def test_are_the_defaults_if_nothing_is_said(self):
        assert run_settings() == RunSettings()

    def test_a_file_overrides_only_what_it_names(self, file):
        found = run_settings(file=file(outfits=5, training={"rank": 8}))
        assert (found.outfits, found.training.rank) == (5, 8)
        assert found.training.learning_rate == RunSettings().training.learning_rate
        assert found.candidates == RunSettings().candidates

    def test_what_a_file_s_sampler_does_not_name_stays_as_the_bundle_has_it(self, file, tmp_path):
        own = SamplerSettings(num_inference_steps=9, guidance={"category": 3, "mutual": 2, "history": 2})
        (tmp_path / "difashion.json").write_text(json.dumps({"sampler": own.model_dump(mode="json")}))
        found = run_settings(file=file(sampler={"guidance": {"history": 5}}), bundle=str(tmp_path))
        assert found.sampler == own.model_copy(update={"guidance": GuidanceScales(category=3, mutual=2, history=5)})

    def test_an_option_overrides_the_file(self, file):
        found = run_settings(file=file(outfits=5, candidates=3), outfits=6)
        assert (found.outfits, found.candidates) == (6, 3)

    def test_the_file_overrides_the_mode(self, file):
        found = run_settings(file=file(training={"learning_rate": 0.5}), mode="paper")
        assert found.training == paper_settings().model_copy(update={"learning_rate": 0.5})
        assert found.preferences.mode == "paper"

    def test_the_seed_option_is_the_training_s_too(self, file):
        found = run_settings(file=file(seed=1, training={"seed": 2}), seed=3)
        assert (found.seed, found.training.seed) == (3, 3)

    def test_one_judge_s_weight_means_that_judge_alone(self, file):
        found = run_settings(file=file(preferences={"weights": {"quality": 1.0}}))
        assert found.preferences.weights == {"quality": 1.0}
        assert found.preferences.min_margin == RunSettings().preferences.min_margin

    def test_everything_written_down_is_read_back(self, file):
        assert run_settings(file=file(**SMALL_RUN.model_dump(mode="json"))) == SMALL_RUN

    def test_names_every_wrong_value_at_once(self, file):
        with pytest.raises(InvalidInput, match=r"outfits: .*; training\.rank: "):
            run_settings(file=file(outfits=0, training={"rank": -1}))


class TestSettingsOf:
    def test_a_record_are_those_it_was_begun_with(self):
        described = json.loads(json.dumps(SMALL_RUN.model_dump(mode="json")))
        assert settings_of(RoundRecord(round_id="r", seed=0, settings=described)) == SMALL_RUN

    def test_a_record_that_something_else_began_are_refused(self):
        with pytest.raises(InvalidInput, match=r"settings of r-1 .* judges"):
            settings_of(RoundRecord(round_id="r-1", seed=0, settings={"judges": 3}))


class TestPlaces:
    def test_mean_the_same_in_another_folder(self, smoke_assets, tmp_path, monkeypatch):
        monkeypatch.setenv("FASHIONDPO_ASSETS", str(smoke_assets))
        monkeypatch.chdir(smoke_assets)
        begun = new_workspace(tmp_path / "run", "catalogue", "mini", "judges", "cpu")
        begun.next_round(SMALL_RUN)
        monkeypatch.chdir(tmp_path)
        later, record = opened_workspace(tmp_path / "run", "cpu")
        assert len(later.data_set.split("test")) == len(begun.data_set.split("test"))
        assert settings_of(record) == SMALL_RUN

    def test_of_quality_are_remembered_and_cannot_change_within_a_run(self, smoke_assets, tmp_path, monkeypatch):
        monkeypatch.setenv("FASHIONDPO_ASSETS", str(smoke_assets))
        monkeypatch.setenv("FASHIONDPO_VLM_API_KEY", "key")
        chosen = "remote:http://127.0.0.1:9?dialect=ollama&levels=5&model=m"
        begun = new_workspace(tmp_path / "run", "mini", "mini", "mini", "cpu", quality=chosen)
        assert begun.quality_judge.info.version.startswith("m@unknown+ollama+rubric-5-")
        begun.next_round(SMALL_RUN)
        later, _ = opened_workspace(tmp_path / "run", "cpu")
        assert later.quality_judge.info == begun.quality_judge.info
        assert "key" not in (tmp_path / "run" / "run.json").read_text()
        again = new_workspace(tmp_path / "run", "mini", "mini", "mini", "cpu")
        assert again.quality_judge.info == begun.quality_judge.info
        with pytest.raises(InvalidInput, match="belongs to a run with"):
            new_workspace(tmp_path / "run", "mini", "mini", "mini", "cpu", quality="mini")

    def test_of_a_run_of_before_there_was_a_choice_of_quality_are_the_mini_network(
        self, smoke_assets, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("FASHIONDPO_ASSETS", str(smoke_assets))
        run = tmp_path / "run"
        new_workspace(run, "mini", "mini", "mini", "cpu").next_round(SMALL_RUN)
        (run / "run.json").write_text('{"places": {"data": "mini", "bundle": "mini", "judges": "mini"}}')
        later, _ = opened_workspace(run, "cpu")
        assert later.quality_judge.info.version.startswith("mini-quality-")

    def test_of_quality_that_are_none_are_refused(self, smoke_assets, tmp_path, monkeypatch):
        monkeypatch.setenv("FASHIONDPO_ASSETS", str(smoke_assets))
        with pytest.raises(InvalidInput, match="is no backend of the quality judge"):
            new_workspace(tmp_path / "run", "mini", "mini", "mini", "cpu", quality="vllm")
        assert not (tmp_path / "run").exists()
