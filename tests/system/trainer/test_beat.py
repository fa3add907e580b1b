"""Beat ends, by a signal or without a word: rounds that wait are found again as soon as there is a beat."""

from __future__ import annotations

import pytest

from services.trainer.round_ends import seconds_since
from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S


@pytest.mark.parametrize(
    "is_killed", [pytest.param(True, id="kill -9"), pytest.param(False, id="SIGTERM", marks=pytest.mark.slow)]
)
def test_round_that_waits_when_beat_ends_goes_on_with_the_next_beat_and_loses_nothing(
    deployment, wire, worker, mortal_beat, is_killed
):
    wire.arm(b'"position"', at=3)
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    if is_killed:
        mortal_beat.kill9()
    else:
        mortal_beat.terminate()
        assert mortal_beat.ended() == 0
    job = lambda: deployment.stores.jobs.get(round_id)  # noqa: E731
    with deployment.artifacts_away():
        wire.release()
        waiting = eventually(lambda: job().problem is not None and job(), within_s=PATIENCE_S)
    eventually(lambda: seconds_since(waiting.not_before) > 1, within_s=PATIENCE_S)
    assert job() == waiting
    mortal_beat.start()
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    assert len(deployment.versions_of(round_id)) == 1
    assert len(deployment.stores.feedback.set_ids(round_id)) == 12


@pytest.mark.slow
def test_round_is_worked_on_without_beat_as_long_as_nothing_fails(deployment, worker, mortal_beat):
    mortal_beat.kill9()
    view = deployment.ended(deployment.train())
    assert view.state == "succeeded", worker.log()[-3000:]
