"""kill -9 of a worker's child, and of its main process, in every stage: the round goes on and publishes one adapter."""

from __future__ import annotations

from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S

MOMENTS = (
    (b'"position"', 3),  # collecting: the third set is stored
    (b'"criterion": "compatibility"', 1),  # judging: one judge is done, the second has begun
    (b'"stage": "pair"', 1),
    (b'"implicit_accuracy"', 1),  # training: the figures of the first updates
    (b'"position"', 3),  # gate: the third held-out set
    (b'"stage": "publish"', 1),
    (b'"stage": "done"', 1),
)
"""What a worker writes when it is in the middle of a stage, or has just come to one that takes no time."""


def check_published_once(deployment, round_id: str, log: str) -> None:
    view = deployment.ended(round_id)
    assert view.state == "succeeded", (view.problem, log[-3000:])
    assert len(deployment.versions_of(round_id)) == 1
    stored = deployment.stores.feedback
    assert len(stored.set_ids(round_id)) == len(view.record.set_ids) == 12
    assert all(len(scored.scores) == 9 for scored in stored.scored_sets(round_id))
    assert [row["step"] for row in view.metrics] == list(range(1, 13))


def test_round_whose_worker_s_child_is_killed_in_every_stage_publishes_one_adapter(deployment, wire, worker):
    round_id = ""
    for words, at in MOMENTS:
        wire.arm(words, at=at)
        round_id = round_id or deployment.train()
        assert wire.tripped.wait(PATIENCE_S), (words, deployment.round(round_id), worker.log()[-3000:])
        child = worker.child()
        child.kill()
        eventually(lambda child=child: not child.is_running() or child.status() == "zombie")
    wire.release()
    check_published_once(deployment, round_id, worker.log())
    assert worker.main.is_running()


def test_round_whose_worker_is_killed_in_every_stage_publishes_one_adapter(deployment, wire, only_own_workers):
    round_id, log = "", ""
    for words, at in MOMENTS:
        wire.arm(words, at=at)
        with deployment.worker(redis_port=wire.port) as worker:
            round_id = round_id or deployment.train()
            assert wire.tripped.wait(PATIENCE_S), (words, deployment.round(round_id), worker.log()[-3000:])
            child = worker.child()
            worker.kill9()
            eventually(lambda child=child: not child.is_running() or child.status() == "zombie")
            log = worker.log()
    wire.release()
    with deployment.worker():
        check_published_once(deployment, round_id, log)
