"""The stages of a round as commands, alone, together and again."""

from __future__ import annotations

import json
import re

import pytest

STAGES = ("generate", "score", "pairs", "train", "gate", "evaluate")


class TestStages:
    @pytest.mark.parametrize("stage", STAGES)
    def test_each_succeeds_alone(self, staged, stage):
        assert staged.said[stage].code == 0, staged.said[stage].err

    @pytest.mark.parametrize(
        ("stage", "following"), [("generate", "judge"), ("score", "pair"), ("pairs", "train"), ("train", "gate")]
    )
    def test_each_says_what_comes_next(self, staged, stage, following):
        assert f"next is '{following}'" in staged.said[stage].out

    @pytest.mark.parametrize("again", ["generate again", "score again", "train again", "gate again"])
    def test_done_twice_says_that_it_is_done(self, staged, again):
        assert staged.said[again].code == 0
        assert "is done already" in staged.said[again].out

    def test_the_gate_gives_its_reasons_and_publishes(self, staged):
        assert "The gate refused the adapter" in staged.said["gate"].out
        assert "fewer than the 30 asked for" in staged.said["gate"].out
        assert "the round is finished" in staged.said["gate"].out

    def test_after_the_last_nothing_is_left_to_do_and_no_new_round_begins(self, staged):
        assert "the round is finished" in staged.said["score at the end"].out
        assert staged.feedback.round_ids() == ("round-0001",)

    @pytest.mark.parametrize(
        ("command", "word"),
        [
            ("score before anything", "begin one with `fashiondpo generate"),
            ("pairs too early", "is at stage 'judge': do that before 'pair'"),
            ("evaluate too early", "finish a round first"),
        ],
    )
    def test_out_of_order_is_one_clear_line(self, staged, command, word):
        finished = staged.said[command]
        assert finished.code == 2
        assert word in finished.err
        assert len(finished.err.strip().splitlines()) == 1

    def test_an_open_round_refuses_other_settings_and_names_them(self, staged):
        refused = staged.said["generate with another seed"]
        assert refused.code == 2
        assert "unfinished and has other settings for seed, training" in refused.err

    def test_time_is_kept_for_every_stage(self, staged):
        assert set(staged.record().seconds) == {"collect", "judge", "pair", "train", "gate", "publish"}

    def test_every_candidate_has_every_score(self, staged):
        for scored in staged.feedback.scored_sets("round-0001"):
            assert len(scored.scores) == 3 * len(scored.candidate_set.candidates)


class TestRound:
    def test_makes_the_same_adapter_as_its_stages(self, staged, whole):
        assert whole.said["round"].code == 0, whole.said["round"].err
        assert whole.adapters.manifest(1).digest == staged.adapters.manifest(1).digest

    def test_reports_the_same_figures_as_its_stages(self, staged, whole):
        figures = [json.loads((run.folder / "report.json").read_text()) for run in (staged, whole)]
        for name in ("combined", "win_rate", "judges", "held_out"):
            assert figures[0][name] == figures[1][name]

    def test_shows_the_comparison_and_where_the_report_lies(self, whole):
        out = whole.said["round"].out
        assert "Before and after on 3 held-out outfits" in out
        assert f"The report lies in {whole.folder / 'report.html'}" in out

    def test_again_begins_another_one_from_the_same_champion(self, fashiondpo, whole, small_settings, tmp_path):
        copied = whole.copied(tmp_path / "copy")
        fashiondpo.well("generate", "--run", copied.folder, "--settings", small_settings)
        assert copied.feedback.round_ids() == ("round-0001", "round-0002")
        assert copied.record(2).adapter.version == 0

    def test_takes_the_next_step_from_an_adapter_that_is_forced_to_serve(
        self, fashiondpo, whole, small_settings, tmp_path
    ):
        copied = whole.copied(tmp_path / "copy")
        fashiondpo.well("adapters", "activate", 1, "--force", "--run", copied.folder)
        fashiondpo.well("round", "--run", copied.folder, "--settings", small_settings, "--rounds", 2)
        assert copied.record(2).adapter == copied.adapters.manifest(1).ref
        assert copied.adapters.manifest(2).parent == copied.adapters.manifest(1).ref
        assert copied.adapters.manifest(2).digest != copied.adapters.manifest(1).digest
        assert json.loads((copied.folder / "report.json").read_text())["title"] == "Adapter 2 against the base model"

    def test_in_a_folder_that_holds_enough_rounds_only_writes_the_report_again(
        self, fashiondpo, whole, small_settings, tmp_path
    ):
        copied = whole.copied(tmp_path / "copy")
        (copied.folder / "report.json").unlink()
        said = fashiondpo.well("round", "--run", copied.folder, "--settings", small_settings)
        assert "--rounds 2 adds another" in said
        assert copied.feedback.round_ids() == ("round-0001",)
        assert (copied.folder / "report.json").exists()


class TestTwoRounds:
    def test_end_with_two_promoted_adapters(self, two_rounds):
        assert two_rounds.said["round"].code == 0, two_rounds.said["round"].err
        assert two_rounds.adapters.versions() == (1, 2)
        assert two_rounds.adapters.alias("champion") == 2

    def test_the_second_starts_from_the_champion_of_the_first(self, two_rounds):
        first = two_rounds.adapters.manifest(1).ref
        assert two_rounds.record(1).adapter.version == 0
        assert two_rounds.record(2).adapter == first
        assert two_rounds.adapters.manifest(2).parent == first

    def test_the_second_paints_with_the_first_one_s_adapter(self, two_rounds):
        found = {two_rounds.feedback.set(name).adapter.version for name in two_rounds.record(2).set_ids}
        assert found == {1}

    def test_are_compared_with_what_was_before_both(self, two_rounds):
        report = json.loads((two_rounds.folder / "report.json").read_text())
        assert report["title"] == "Adapter 2 against the base model"


class TestReport:
    @pytest.fixture
    def report(self, whole) -> dict:
        return json.loads((whole.folder / "report.json").read_text())

    def test_holds_the_gain_with_its_interval(self, report):
        assert set(report["combined"]) == {"delta", "ci"}
        low, high = report["combined"]["ci"]
        assert low <= report["combined"]["delta"] <= high
        assert 0 <= report["win_rate"] <= 1

    def test_keeps_judges_and_held_out_metrics_apart(self, report):
        assert set(report["judges"]) == {"quality", "compatibility", "personalization"}
        assert {"category_accuracy", "palette", "harmony", "mismatched_personalization"} <= set(report["held_out"])

    def test_says_how_long_each_stage_took(self, report):
        assert set(report["seconds"]) == {"collect", "judge", "pair", "train", "gate", "publish", "report"}

    def test_is_about_the_test_users(self, report):
        assert report["facts"]["data set"] == "mini, test split"

    def test_is_one_page_that_loads_nothing(self, whole):
        page = (whole.folder / "report.html").read_text()
        loaded = re.findall(r"<(?:img|script|link|iframe)[^>]*?(?:src|href)=[\"']([^\"']*)", page)
        assert loaded
        assert all(source.startswith("data:") for source in loaded)
        assert not re.findall(r"url\(\s*[\"']?https?:|@import", page)


class TestModeOfThePaper:
    def test_brings_a_round_to_its_end_with_the_published_procedure(self, fashiondpo, small_settings, tmp_path):
        sampler = {"sampler": json.loads(small_settings.read_text())["sampler"]}
        settings = tmp_path / "sampler.json"
        settings.write_text(json.dumps(sampler | {"gate_outfits": 2}))
        run = tmp_path / "run"
        begin = ("generate", "--run", run, "--mode", "paper", "--settings", settings)
        fashiondpo.well(*begin, "--outfits", 3, "--candidates", 2)
        for stage in ("score", "pairs", "train", "gate"):
            fashiondpo.well(stage, "--run", run)
        shown = json.loads(fashiondpo.well("adapters", "show", 1, "--run", run))
        assert shown["training"]["is_accumulated"] is False
        assert shown["training"]["clip_sides"] == "both"
