"""The artifact store is away while a round is at work, or has no room: the round waits, says why, and goes on."""

from __future__ import annotations

import httpx
import pytest

from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S, HttpProcess

COLLECTING = (b'"position"', 3)
JUDGING = (b'"criterion": "quality"', 2)
TRAINING = (b'"implicit_accuracy"', 1)
"""What a worker sends to Redis in the middle of a stage."""


def artifacts_check(service: HttpProcess) -> str:
    return str(httpx.get(f"{service.url}/readyz", timeout=30).json()["checks"]["artifacts"])


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(COLLECTING, id="collecting"),
        pytest.param(JUDGING, id="judging", marks=pytest.mark.slow),
        pytest.param(TRAINING, id="training"),
    ],
)
def test_round_whose_artifacts_are_away_waits_with_the_reason_and_goes_on_when_they_are_back(
    deployment, wire, worker, moment
):
    words, at = moment
    wire.arm(words, at=at)
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    for service in (deployment.api, deployment.generator):  # as whoever looks after them does
        assert artifacts_check(service) == "ok"
    with deployment.artifacts_away():
        wire.release()
        waiting = eventually(lambda: deployment.round(round_id).problem, within_s=PATIENCE_S)
        assert (waiting.status, waiting.code) in {(503, "unavailable"), (503, "unscored_candidates")}
        assert deployment.round(round_id).state == "running"
        assert "folder is not there" in artifacts_check(deployment.api)
        assert "folder is not there" in artifacts_check(deployment.generator)
        kept = deployment.stores.feedback.set_ids(round_id)
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    assert deployment.stores.feedback.set_ids(round_id)[: len(kept)] == kept
    assert len(deployment.versions_of(round_id)) == 1
    assert all(len(scored.scores) == 9 for scored in deployment.stores.feedback.scored_sets(round_id))
    assert [row["step"] for row in view.metrics] == list(range(1, 13))
    assert artifacts_check(deployment.api) == "ok"


@pytest.mark.slow
def test_round_whose_training_folder_cannot_be_written_waits_with_the_reason_and_goes_on_when_it_can(
    deployment, wire, worker
):
    folder, aside = deployment.folder / "training", deployment.folder / "training-aside"
    folder.mkdir(exist_ok=True)
    wire.arm(*JUDGING[:1])
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    folder.rename(aside)
    folder.write_text("a file in the place of the folder: nothing can be made below it")
    wire.release()
    waiting = eventually(lambda: deployment.round(round_id).problem, within_s=PATIENCE_S)
    assert (waiting.status, waiting.code) == (503, "unavailable")
    assert str(folder) in waiting.detail
    folder.unlink()
    aside.rename(folder)
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    assert len(deployment.versions_of(round_id)) == 1
