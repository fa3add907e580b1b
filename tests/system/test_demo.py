"""`fashiondpo demo` over the tiny bundle: what people see when the gate promotes an adapter, and when it refuses it."""

import json

import pytest
from PIL import Image

from fashiondpo.contracts import AdapterRef, CandidateSet
from tests.embedded_run import CommandProcess, fashiondpo, save_tiny_assets

SHORT = {
    "outfits": 4,
    "candidates": 2,
    "gate_outfits": 3,
    "training": {
        "learning_rate": 1e-9,  # paints the same as before: a tie on every outfit
        "outfits_per_update": 2,
        "steps_per_outfit": 2,
        "visits_per_forward": 4,
        "checkpoint_every": 1,
    },
}
LENIENT = {"min_outfits": 1, "min_win_rate_low": 0, "min_diversity_ratio": 0, "max_fall": None}
IMPOSSIBLE = {"min_outfits": 1, "min_win_rate_low": 0.99}
DEMO_S = 600


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    return save_tiny_assets(tmp_path_factory.mktemp("assets") / "mini")


def played(assets, run, gate, *options) -> CommandProcess:
    settings = assets.parent / f"{run.name}.json"
    settings.write_text(json.dumps({**SHORT, "gate": gate}))
    sizes = ("--shown", 2, "--report-outfits", 3)
    with fashiondpo(assets, "demo", "--run", run, "--settings", settings, *sizes, *options) as command:
        assert command.ended(DEMO_S) == 0, command.output
    return command


def painted(run, name) -> list[CandidateSet]:
    return [CandidateSet.model_validate(found) for found in json.loads((run / f"{name}.json").read_text())]


def without_noise_of_names(candidate_set: CandidateSet) -> tuple:
    return candidate_set.outfit, candidate_set.slot, tuple(c.seed for c in candidate_set.candidates)


class TestDemo:
    def test_shows_the_same_outfits_before_and_after_the_swap(self, assets, tmp_path):
        run = tmp_path / "run"
        said = played(assets, run, LENIENT).output
        for expected in ("The gate promoted the adapter", "round-0001 published adapter version 1",
                         "The generator serves version 1, without a restart", "Before and after on 3 held-out outfits",
                         f"The report lies in {run / 'report.html'}"):  # fmt: skip
            assert expected in said
        before, after = painted(run, "before"), painted(run, "after")
        assert [without_noise_of_names(s) for s in before] == [without_noise_of_names(s) for s in after]
        assert {s.adapter for s in before} == {AdapterRef()}
        assert {s.adapter.version for s in after} == {1}
        Image.open(run / "before-and-after.png").verify()
        report = json.loads((run / "report.json").read_text())
        assert report["verdict"]["is_promoted"]
        assert report["training"]["rows"] > 0
        assert {"collect", "judge", "train", "gate", "report"} <= set(report["seconds"])

        again = played(assets, run, LENIENT).output
        assert "This demo is finished" in again
        assert "Valkey" not in again

    def test_says_that_the_gate_refused_and_rolls_a_marked_trial_back(self, assets, tmp_path):
        run = tmp_path / "run"
        said = played(assets, run, IMPOSSIBLE).output
        in_order = ("The gate refused the adapter", "Version 1 does not serve", "a TRIAL, by force",
                    "The generator serves version 1", "The generator serves version 0", "it was rolled back")  # fmt: skip
        places = [said.find(text) for text in in_order]
        assert -1 not in places
        assert places == sorted(places)
        assert {s.adapter.version for s in painted(run, "trial")} == {1}
        assert not (run / "after.json").exists()
        assert (run / "before-and-trial.png").exists()
        assert not json.loads((run / "report.json").read_text())["verdict"]["is_promoted"]
