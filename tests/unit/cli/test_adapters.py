"""`fashiondpo adapters`: look at versions, choose the one that serves, go back."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def run(whole, tmp_path):
    """A copy of a run whose only adapter was refused by the gate."""
    return whole.copied(tmp_path / "run")


def champion(shown: str) -> str:
    """The version on the row that says so."""
    (row,) = (line for line in shown.splitlines() if "champion" in line)
    return row.replace("│", " ").split()[0]


class TestAdapters:
    def test_list_shows_every_version_with_the_gate_s_verdict(self, fashiondpo, two_rounds, run):
        assert "refused" in fashiondpo.well("adapters", "list", "--run", run.folder)
        shown = fashiondpo.well("adapters", "list", "--run", two_rounds.folder)
        assert shown.count("promoted") == 2
        assert champion(shown) == "2"

    def test_show_prints_the_manifest(self, fashiondpo, run):
        shown = json.loads(fashiondpo.well("adapters", "show", 1, "--run", run.folder))
        assert shown == json.loads(run.adapters.manifest(1).model_dump_json())

    def test_activate_refuses_what_the_gate_refused(self, fashiondpo, run):
        finished = fashiondpo("adapters", "activate", 1, "--run", run.folder)
        assert finished.code == 2
        assert "the gate rejected it" in finished.err
        assert run.adapters.alias("champion") is None

    def test_activate_can_be_forced_and_rolled_back(self, fashiondpo, run):
        fashiondpo.well("adapters", "activate", 1, "--force", "--run", run.folder)
        assert champion(fashiondpo.well("adapters", "list", "--run", run.folder)) == "1"
        assert "The champion is version 0" in fashiondpo.well("adapters", "rollback", "--run", run.folder)
        assert run.adapters.alias("champion") == 0

    def test_rollback_without_a_previous_version_is_refused(self, fashiondpo, run):
        finished = fashiondpo("adapters", "rollback", "--run", run.folder)
        assert finished.code == 2
        assert "no previous adapter" in finished.err

    def test_rollback_returns_to_the_round_before(self, fashiondpo, two_rounds, tmp_path):
        run = two_rounds.copied(tmp_path / "two")
        assert "The champion is version 1" in fashiondpo.well("adapters", "rollback", "--run", run.folder)


class TestFetch:
    """What is refused before any service is asked; what is fetched: system/test_command_line_over_http.py."""

    def test_wants_to_know_where_to(self, fashiondpo):
        finished = fashiondpo("adapters", "fetch", 1)
        assert finished.code == 2
        assert "--run" in finished.err
        assert "--to" in finished.err

    def test_never_overwrites_a_file(self, fashiondpo, tmp_path):
        (tmp_path / "mine.safetensors").write_bytes(b"mine")
        finished = fashiondpo("adapters", "fetch", 1, "--to", tmp_path / "mine.safetensors")
        assert finished.code == 2
        assert "already exists" in finished.err
        assert (tmp_path / "mine.safetensors").read_bytes() == b"mine"

    def test_knows_that_the_base_model_has_no_weights(self, fashiondpo, tmp_path):
        assert fashiondpo("adapters", "fetch", 0, "--run", tmp_path).code == 2
