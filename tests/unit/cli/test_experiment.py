"""Experiments from the command line: the same candidates for every configuration, and on after a stop."""

import json

import pytest

from tests.smoke_assets import SMALL_RUN


@pytest.fixture(scope="module")
def compared(fashiondpo, tmp_path_factory):
    """Two configurations, then a third."""
    folder = tmp_path_factory.mktemp("experiment")

    def run(*names, **changes):
        configurations = {"first": {}, "nft": {"objective": "diffusion_nft", "beta": 1}, "wider": {"rank": 2}}
        asked = {
            "run": SMALL_RUN.model_dump(mode="json") | changes,
            "configurations": {name: configurations[name] for name in names},
            "weights": {"wider": {"votes": 1}} if "wider" in names else {},
            "taste": "dark",
            "seeds": [4],
        }
        (folder / "asked.json").write_text(json.dumps(asked))
        return fashiondpo("experiment", folder / "asked.json", "--run", folder / "run")

    said = [run("first", "nft"), run("first", "nft", "wider"), run("first", outfits=3)]
    lines = (folder / "run" / "results.jsonl").read_text().splitlines()
    return folder / "run", said, [json.loads(line) for line in lines]


class TestExperiment:
    def test_every_result_is_a_line_and_none_is_made_twice(self, compared):
        _, said, results = compared
        assert [finished.code for finished in said[:2]] == [0, 0], said[0].err + said[1].err
        assert [(r["configuration"], r["seed"]) for r in results] == [("first", 4), ("nft", 4), ("wider", 4)]

    def test_all_are_compared_with_the_same_parent_on_the_same_outfits(self, compared):
        _, _, results = compared
        assert len({r["comparison"]["judges"]["quality"]["before"] for r in results}) == 1
        assert len({r["comparison"]["combined"]["delta"] for r in results}) > 1

    def test_a_taste_is_measured_for_all_and_votes_are_learned_from_where_they_weigh(self, compared):
        _, _, results = compared
        assert all("taste_dark" in r["comparison"]["held_out"] for r in results)
        assert len({r["comparison"]["held_out"]["taste_dark"]["before"] for r in results}) == 1
        # the combined score is the run's for all, whoever was learned from
        assert all(set(r["comparison"]["weights"]) == {*SMALL_RUN.preferences.weights} for r in results)

    def test_candidates_are_collected_once(self, compared):
        folder, _, _ = compared
        assert [path.name for path in (folder / "seed-4" / "training").iterdir() if path.is_dir()]
        assert len(list((folder / "seed-4" / "feedback" / "rounds").iterdir())) == 1

    def test_the_table_has_a_column_for_each(self, compared):
        _, said, _ = compared
        for word in ("first", "nft", "wider", "combined (σ)", "win rate", "held out: palette"):
            assert word in said[1].out

    def test_a_folder_keeps_to_one_experiment(self, compared):
        _, said, _ = compared
        assert said[2].code == 2
        assert "another run or split" in said[2].err


@pytest.fixture(scope="module")
def drawn(fashiondpo, staged, tmp_path_factory):
    """The curve of a run of one round."""
    run = staged.copied(tmp_path_factory.mktemp("curve") / "run")
    return run, fashiondpo("curve", "--run", run.folder)


class TestCurve:
    def test_compares_every_round_with_the_base(self, drawn):
        run, said = drawn
        assert said.code == 0, said.err
        (point,) = json.loads((run.folder / "rounds.json").read_text())["points"]
        assert (point["round_id"], point["version"], point["is_promoted"]) == ("round-0001", 1, False)
        assert "round-0001" in said.out and "refused" in said.out

    def test_says_what_the_report_says_of_the_same_outfits(self, drawn):
        run, _ = drawn
        (point,) = json.loads((run.folder / "rounds.json").read_text())["points"]
        reported = json.loads((run.folder / "report.json").read_text())
        assert point["comparison"]["combined"] == reported["combined"]

    def test_draws_a_chart_for_every_figure(self, drawn):
        run, _ = drawn
        found = {path.stem.removeprefix("rounds-") for path in run.folder.glob("rounds-*.png")}
        assert found >= {"combined", "quality", "compatibility", "personalization", "palette", "harmony", "diversity"}

    def test_needs_a_round(self, fashiondpo, tmp_path):
        said = fashiondpo("curve", "--run", tmp_path / "nothing")
        assert said.code == 2
        assert "there is no run" in said.err

    def test_on_training_outfits_is_refused(self, fashiondpo, staged):
        said = fashiondpo("curve", "--run", staged.folder, "--split", "train")
        assert said.code == 2
        assert "prove nothing" in said.err
