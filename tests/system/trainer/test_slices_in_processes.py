"""Slices in real workers: short ones, one that outlives its lease, one that is to end, and a round that cannot be done."""

from __future__ import annotations

from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S

TRAINING = b'"implicit_accuracy"'
"""What a worker writes after an update of the training."""


def test_slices_of_a_moment_make_the_same_round(deployment, only_own_workers):
    with deployment.worker(slice_s=0.05) as worker:
        view = deployment.ended(deployment.train())
        assert view.state == "succeeded", (view.problem, worker.log()[-3000:])
    assert deployment.stores.jobs.get(view.round_id).slice_number > 5
    assert len(deployment.versions_of(view.round_id)) == 1
    assert [row["step"] for row in view.metrics] == list(range(1, 13))


def test_slice_that_overruns_its_lease_is_fenced_off_while_another_worker_goes_on(deployment, wire, only_own_workers):
    with deployment.worker(redis_port=wire.port) as late, deployment.worker() as other:
        other.main.suspend()
        eventually(lambda: other.main.status() == "stopped")
        wire.arm(TRAINING)
        round_id = deployment.train()
        assert wire.tripped.wait(PATIENCE_S), late.log()[-3000:]
        frozen = late.child()
        frozen.suspend()
        wire.release()
        other.main.resume()
        view = deployment.ended(round_id)
        frozen.resume()
        eventually(lambda: "slice lost its lease" in late.log(), within_s=PATIENCE_S)
    assert view.state == "succeeded", (view.problem, other.log()[-3000:])
    assert deployment.round(round_id) == view
    assert len(deployment.versions_of(round_id)) == 1


def test_worker_that_is_told_to_end_saves_its_slice_and_no_update_is_lost(deployment, wire, only_own_workers):
    with deployment.worker(redis_port=wire.port) as first:
        wire.arm(TRAINING)
        round_id = deployment.train()
        assert wire.tripped.wait(PATIENCE_S), first.log()[-3000:]
        first.terminate()
        wire.release()
        assert first.ended() == 0
    left = deployment.stores.jobs.get(round_id)
    assert (left.state, left.attempts, left.is_in_slice, left.slice_number) == ("running", 0, False, 1)
    assert 1 <= len(left.metrics) < 12
    with deployment.worker():
        view = deployment.ended(round_id)
    assert view.state == "succeeded"
    assert [row["step"] for row in view.metrics] == list(range(1, 13))
    assert view.metrics[: len(left.metrics)] == left.metrics


def test_poison_round_fails_after_its_attempts_and_leaves_the_worker_to_others(deployment, wire, worker):
    wire.arm(b'"stage": "pair"')
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    for candidate_set in map(deployment.stores.feedback.set, deployment.stores.feedback.set_ids(round_id)):
        (path,) = (deployment.folder / "artifacts").rglob(candidate_set.trajectory)
        path.unlink()
    wire.release()
    view = deployment.ended(round_id)
    assert (view.state, view.attempts) == ("failed", 3)
    assert view.problem.code == "not_found"
    assert deployment.versions_of(round_id) == []
    assert deployment.ended(deployment.train()).state == "succeeded"


def test_round_that_is_cancelled_at_work_stops_and_publishes_nothing(deployment, wire, worker):
    wire.arm(TRAINING)
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    with deployment.client as client:
        assert client.cancel(round_id).is_cancel_requested
    wire.release()
    assert deployment.ended(round_id).state == "cancelled"
    assert deployment.versions_of(round_id) == []


def test_api_that_is_killed_leaves_rounds_at_work_and_shows_them_when_it_is_back(deployment, wire, worker):
    wire.arm(TRAINING)
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    deployment.api.kill9()
    wire.release()
    eventually(lambda: deployment.stores.jobs.get(round_id).is_finished, within_s=PATIENCE_S)
    deployment.api.start().wait_until_ready()
    assert deployment.round(round_id).state == "succeeded"
