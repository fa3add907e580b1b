"""Mistakes of the user: one clear line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.unit.cli.command_line import CommandLine


def line(finished) -> str:
    """The one line on stderr."""
    assert finished.code == 2, finished
    # bars of a library that other tests had imported before the command line could silence it
    said = [text for text in finished.err.splitlines() if text and not text.startswith("Loading weights")]
    (found,) = said
    assert found.startswith("error (")
    return found


@pytest.fixture(scope="module")
def nothing(tmp_path_factory) -> CommandLine:
    """A checkout in which the mini models were not made yet."""
    return CommandLine(tmp_path_factory.mktemp("no-assets"))


class TestMissingPlaces:
    @pytest.mark.parametrize("place", ["data", "bundle", "judges"])
    def test_a_folder_that_is_not_there_is_named(self, fashiondpo, tmp_path, place):
        found = line(fashiondpo("round", "--run", tmp_path / "run", f"--{place}", tmp_path / "nowhere"))
        assert f"{place}: there is no folder {tmp_path / 'nowhere'}" in found

    @pytest.mark.parametrize("command", ["round", "generate", "complete"])
    def test_nothing_is_written_for_a_run_that_cannot_begin(self, fashiondpo, tmp_path, command):
        line(fashiondpo(command, "--run", tmp_path / "run", "--data", tmp_path / "nowhere"))
        assert not (tmp_path / "run").exists()

    def test_missing_mini_models_come_with_how_to_make_them(self, nothing, tmp_path):
        assert "make assets" in line(nothing("round", "--run", tmp_path / "run"))

    @pytest.mark.parametrize("stage", ["score", "pairs", "train", "gate", "evaluate"])
    def test_a_stage_without_a_run_says_how_to_begin_one(self, fashiondpo, tmp_path, stage):
        assert "begin one with `fashiondpo generate" in line(fashiondpo(stage, "--run", tmp_path / "run"))

    @pytest.mark.parametrize("command", [("list",), ("show", 1), ("activate", 1), ("rollback",)])
    def test_adapters_of_no_run_are_an_error_and_make_no_folder(self, fashiondpo, tmp_path, command):
        assert "there is no run in" in line(fashiondpo("adapters", *command, "--run", tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_a_data_set_that_is_not_there_is_named_whatever_its_name(self, fashiondpo, tmp_path):
        assert "no data set folder" in line(fashiondpo("data", "show", tmp_path / "a[red]b[/x]"))
        assert "a[red]b[/x]" in line(fashiondpo("data", "show", tmp_path / "a[red]b[/x]"))

    def test_a_folder_without_fashion_mnist_comes_with_the_ways_to_get_it(self, fashiondpo, tmp_path):
        finished = fashiondpo("pretrain", "--preset", "smoke", "--fashion-mnist", tmp_path, "--out", tmp_path / "mini")
        assert "dataset-fashion-mnist" in line(finished)

    def test_a_bundle_to_train_from_must_be_one(self, fashiondpo, tmp_path):
        finished = fashiondpo("pretrain", "--preset", "generator", "--bundle", tmp_path, "--out", tmp_path / "new")
        assert "is not a DiFashion bundle" in line(finished)


class TestWrongSettings:
    @pytest.fixture
    def refused(self, fashiondpo, tmp_path):
        """The line about a settings file of this text."""

        def run(text: str) -> str:
            (tmp_path / "settings.json").write_text(text)
            return line(fashiondpo("round", "--run", tmp_path / "run", "--settings", tmp_path / "settings.json"))

        return run

    def test_an_unknown_mode_comes_with_the_known_ones(self, fashiondpo, tmp_path):
        found = line(fashiondpo("round", "--run", tmp_path / "run", "--mode", "fancy"))
        assert "unknown mode 'fancy': choose 'default' or 'paper'" in found

    def test_a_file_that_is_not_there_is_named(self, fashiondpo, tmp_path):
        assert "none.json" in line(fashiondpo("round", "--run", tmp_path, "--settings", tmp_path / "none.json"))

    @pytest.mark.parametrize("text", ["{", "[1]", "null", '"outfits"'])
    def test_what_is_no_object_of_settings_is_refused(self, refused, text):
        assert "settings.json: " in refused(text)

    @pytest.mark.parametrize("name", ["outfit", "training.rate", "gate.win", "sampler.steps", "preferences.margin"])
    def test_an_unknown_key_is_named(self, refused, name):
        content: object = 1
        for part in reversed(name.split(".")):
            content = {part: content}
        assert f"{name}: Extra inputs are not permitted" in refused(json.dumps(content))

    def test_a_value_that_cannot_be_is_named_with_what_was_got(self, refused):
        found = refused('{"candidates": 1, "training": 3}')
        assert "candidates: Input should be greater than or equal to 2, got 1" in found
        assert "training: " in found

    def test_a_single_option_that_cannot_be_is_refused_too(self, fashiondpo, tmp_path):
        assert "candidates: " in line(fashiondpo("generate", "--run", tmp_path / "run", "--candidates", 1))

    def test_more_test_outfits_than_there_are_is_said_before_the_work(self, fashiondpo, tmp_path):
        found = line(fashiondpo("round", "--run", tmp_path / "run", "--report-outfits", 1000))
        assert "1000 outfits were asked for, but 'test' of 'mini' has 36" in found
        assert not (tmp_path / "run" / "feedback").exists()

    def test_more_training_outfits_than_there_are_is_said_before_the_work(self, fashiondpo, tmp_path):
        found = line(fashiondpo("generate", "--run", tmp_path / "run", "--outfits", 1000))
        assert "1000 outfits were asked for, but 'train' of 'mini' has 36" in found

    def test_a_round_that_was_refused_can_be_begun_with_other_sizes(self, fashiondpo, small_settings, tmp_path):
        begin = ("generate", "--run", tmp_path / "run", "--settings", small_settings)
        line(fashiondpo(*begin, "--outfits", 1000))
        fashiondpo.well(*begin, "--outfits", 1)


class TestAnotherRunsFolder:
    def test_is_refused(self, fashiondpo, staged, smoke_assets):
        found = line(fashiondpo("round", "--run", staged.folder, "--data", smoke_assets / "catalogue"))
        assert "belongs to a run with" in found
        assert str(smoke_assets / "catalogue") in found

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"places": {"data": "mini"}}'])
    def test_with_a_damaged_file_is_refused_by_name(self, fashiondpo, tmp_path, content):
        (tmp_path / "run.json").write_text(content)
        assert str(tmp_path / "run.json") in line(fashiondpo("score", "--run", tmp_path))


class TestEvaluate:
    def test_refuses_the_outfits_that_were_learned_from(self, fashiondpo, staged):
        assert "choose 'valid' or 'test'" in line(fashiondpo("evaluate", "--run", staged.folder, "--split", "train"))

    def test_names_an_unknown_split(self, fashiondpo, staged):
        assert "no split 'tset'" in line(fashiondpo("evaluate", "--run", staged.folder, "--split", "tset"))

    def test_names_the_versions_that_there_are(self, fashiondpo, staged):
        assert "no adapter version 9; published: 1" in line(
            fashiondpo("evaluate", "--run", staged.folder, "--after", 9)
        )


class TestWrongUse:
    @pytest.mark.parametrize(
        ("command", "word"),
        [
            (("round", "--colour", "red"), "--colour"),
            (("rouns",), "rouns"),
            (("round", "--rounds", 0), "--rounds"),
            (("--log-level", "loud", "data", "show"), "--log-level"),
            (("--threads", 0, "data", "show"), "--threads"),
            (("pretrain", "--out", "x", "--preset", "big"), "--preset"),
            (("pretrain", "--out", "x", "--steps", 0), "--steps"),
            (("evaluate", "--outfits", 0), "--outfits"),
            (("complete", "--candidates", 0), "--candidates"),
            (("complete", "--seed", -1), "--seed"),
            (("adapters", "show", "newest"), "version"),
        ],
    )
    def test_of_an_option_names_it(self, fashiondpo, command, word):
        finished = fashiondpo(*command)
        assert finished.code == 2
        assert word in finished.err
        assert "Traceback" not in finished.err


class TestOwnProcess:
    def test_ends_a_mistake_with_one_line_and_exit_code_2(self, fashiondpo, tmp_path):
        finished = fashiondpo.own_process("score", "--run", tmp_path / "none")
        assert "there is no run in" in line(finished)

    def test_helps_without_loading_neural_networks(self):
        code = (
            "import sys; from fashiondpo.cli.main import main; sys.argv = ['fashiondpo', 'round', '--help']\n"
            "try: main()\n"
            "except SystemExit: print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
        )
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "--report-outfits" in printed
        assert printed.strip().splitlines()[-1] == "[]"
