"""A real Celery worker whose trainings are done by two processes: watched, stopped, cancelled, killed."""

from __future__ import annotations

import psutil
import pytest

from fashiondpo.run_settings import TrainRequest
from fashiondpo.training.metrics import read_metrics
from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S, SMALL

pytestmark = pytest.mark.slow
LONG = TrainRequest.model_validate(
    SMALL.model_dump(exclude_unset=True) | {"training": {"passes": 200, "outfits_per_update": 2, "checkpoint_every": 1}}
)
UPDATES = 1200


def ranks(deployment) -> list[psutil.Process]:
    """Processes that train, whoever started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if "--is-process" in words and any(str(deployment.folder) in word for word in words):
            found.append(process)
    return found


def updates_done(deployment, round_id: str) -> int:
    return len(deployment.stores.jobs.get(round_id).metrics)


def in_training(deployment, round_id: str) -> list[psutil.Process]:
    """The two processes, once they have made updates that the round's readers see."""
    eventually(lambda: updates_done(deployment, round_id) > 0, within_s=PATIENCE_S)
    found = ranks(deployment)
    assert len(found) == 2
    return found


@pytest.fixture
def long_round(deployment):
    """Starts a round whose training takes minutes."""
    return lambda: deployment.train(training=LONG.training)


def test_round_is_trained_by_two_processes_and_its_readers_see_every_update(deployment, only_own_workers):
    with deployment.worker(processes=2) as worker:
        view = deployment.ended(deployment.train())
        assert view.state == "succeeded", (view.problem, worker.log()[-3000:])
    assert [row["step"] for row in view.metrics] == list(range(1, 13))
    (version,) = deployment.versions_of(view.round_id)
    assert deployment.stores.adapters.manifest(version).training["processes"] == 2
    assert ranks(deployment) == []


def test_slices_soft_shutdown_and_cancel_reach_all_processes(deployment, long_round, only_own_workers):
    with deployment.worker(processes=2) as worker:
        round_id = long_round()
        first = in_training(deployment, round_id)
        worker.terminate()
        assert worker.ended() == 0
        assert not any(process.is_running() for process in first)
    left = deployment.stores.jobs.get(round_id)
    assert (left.state, left.attempts, left.is_in_slice) == ("running", 0, False)
    saved = max(row["step"] for row in left.metrics)
    with deployment.worker(processes=2) as worker:
        eventually(lambda: deployment.stores.jobs.get(round_id).metrics[-1]["step"] > saved, within_s=PATIENCE_S)
        steps = [int(row["step"]) for row in deployment.stores.jobs.get(round_id).metrics]
        assert steps == list(range(steps[0], steps[-1] + 1)), "no update is lost, none is made twice"
        with deployment.client as client:
            client.cancel(round_id)
        assert deployment.ended(round_id).state == "cancelled"
        eventually(lambda: ranks(deployment) == [])
        assert worker.main.is_running()


def test_a_killed_process_is_told_with_the_end_of_its_log_and_a_killed_worker_takes_its_processes_with_it(
    deployment, long_round, only_own_workers
):
    with deployment.worker(processes=2) as worker:
        round_id = long_round()
        in_training(deployment, round_id)[1].kill()
        problems = eventually(
            lambda: [e for e in deployment.stores.jobs.events(round_id, "0") if e.kind == "problem"],
            within_s=PATIENCE_S,
        )
        assert problems[0].details["code"] == "training_process_failed"
        assert "was ended by signal 9" in problems[0].details["detail"]
        seen = updates_done(deployment, round_id)
        eventually(lambda: updates_done(deployment, round_id) > seen, within_s=PATIENCE_S)
        again = ranks(deployment)
        assert len(again) == 2
        worker.kill9()
        eventually(lambda: not any(process.is_running() for process in again), within_s=30)
    folders = sorted((deployment.folder / "training" / round_id).glob("lease-*"))
    assert len(read_metrics(folders[-1])) > seen
    with deployment.client as client:
        client.cancel(round_id)
