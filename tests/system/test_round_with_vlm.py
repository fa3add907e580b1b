"""The whole of `fashiondpo demo`, and of the offline round, with quality judged by a vision-language model.

Its weights are random, so its scores mean nothing; everything else is as it would be with real ones.
"""

import json

import pytest

from fashiondpo.contracts import Score
from fashiondpo.storage.feedback import FolderFeedback
from tests.embedded_run import fashiondpo, save_tiny_assets
from tests.model_server import transformers_serve
from tests.system.test_demo import LENIENT, played
from tests.tiny_vlm import save_tiny_llava, save_tiny_vlm

pytestmark = pytest.mark.slow
ROUND_S = 900


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    return save_tiny_assets(tmp_path_factory.mktemp("assets") / "mini")


@pytest.fixture(scope="module")
def minicpm(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("local") / "minicpm")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = save_tiny_llava(tmp_path_factory.mktemp("served") / "llava")
    with transformers_serve(model) as url:
        yield f"remote:{url}?dialect=transformers&model={model}&concurrency=2"


def check_demo(run, said: str, version: str) -> None:
    """The demo went through all of its steps, with this judge of quality."""
    for expected in ("The gate promoted the adapter", "The generator serves version 1, without a restart",
                     f"The report lies in {run / 'report.html'}"):  # fmt: skip
        assert expected in said
    report = json.loads((run / "report.json").read_text())
    assert report["verdict"]["is_promoted"]
    assert report["training"]["rows"] > 0
    lines = [
        json.loads(line) for line in (run / "logs" / "judge_quality.log").read_text().splitlines() if line[:1] == "{"
    ]
    (judge,) = [line for line in lines if line["event"] == "quality_judge"]
    assert judge["version"].startswith(version)
    assert [line["status"] for line in lines if line["event"] == "request" and line["path"] == "/score"].count(200) >= 3


class TestDemo:
    def test_goes_through_with_minicpm_in_the_judge_s_own_process(self, assets, minicpm, tmp_path):
        run = tmp_path / "run"
        said = played(assets, run, LENIENT, "--quality", f"local:{minicpm}?batch=4").output
        check_demo(run, said, "minicpm-v-4.6-")

    def test_goes_through_with_a_model_server(self, assets, server, tmp_path):
        run = tmp_path / "run"
        check_demo(
            run,
            played(assets, run, LENIENT, "--quality", server).output,
            server.partition("model=")[2].partition("&")[0],
        )


def quality_scores(run) -> list[Score]:
    """What the quality judge said in a round."""
    feedback = FolderFeedback(run / "feedback")
    (round_id,) = feedback.round_ids()
    found = feedback.scored_sets(round_id)
    return [score for scored in found for score in scored.scores if score.criterion == "quality"]


class TestOfflineRound:
    @pytest.fixture
    def settings(self, tmp_path):
        file = tmp_path / "settings.json"
        training = {"passes": 1, "outfits_per_update": 2, "steps_per_outfit": 2, "visits_per_forward": 4}
        file.write_text(
            json.dumps({"outfits": 4, "candidates": 2, "gate_outfits": 3, "report_outfits": 3, "training": training})
        )
        return file

    def test_goes_through_with_minicpm_and_a_later_stage_knows_it(self, assets, minicpm, settings, tmp_path):
        run = tmp_path / "run"
        options = ("--run", run, "--settings", settings, "--quality", f"local:{minicpm}")
        with fashiondpo(assets, "round", *options) as command:
            assert command.ended(ROUND_S) == 0, command.output
        scores = quality_scores(run)
        assert len(scores) == 4 * 2
        assert all(score.judge_version.startswith("minicpm-v-4.6-") and 1 <= score.value <= 10 for score in scores)
        assert json.loads((run / "run.json").read_text())["places"]["quality"] == f"local:{minicpm}"
        with fashiondpo(assets, "evaluate", "--run", run, "--outfits", 2) as command:
            assert command.ended(ROUND_S) == 0, command.output

    def test_goes_through_with_a_model_server(self, assets, server, settings, tmp_path):
        run = tmp_path / "run"
        with fashiondpo(assets, "round", "--run", run, "--settings", settings, "--quality", server) as command:
            assert command.ended(ROUND_S) == 0, command.output
        assert all("transformers+rubric-10-" in score.judge_version for score in quality_scores(run))
