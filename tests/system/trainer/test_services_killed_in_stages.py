"""Redis is killed in every stage of a round, and a judge while the gate asks it: the round goes on and publishes once."""

from __future__ import annotations

from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S

COLLECTING = (b'"position"', 3)
JUDGING = (b'"criterion": "compatibility"', 1)
PAIRED = (b'"stage": "pair"', 1)
TRAINING = (b'"implicit_accuracy"', 1)
PUBLISHING = (b'"stage": "publish"', 1)
ENDING = (b'"stage": "done"', 1)
"""What a worker sends to Redis in the middle of a stage, or at its end; Redis has it, and the worker does not know."""


def test_round_during_which_redis_is_killed_in_every_stage_publishes_one_adapter(deployment, wire, worker):
    round_id = ""
    for words, at in (COLLECTING, JUDGING, PAIRED, TRAINING, COLLECTING, PUBLISHING, ENDING):
        wire.arm(words, at=at)
        round_id = round_id or deployment.train()
        assert wire.tripped.wait(PATIENCE_S), (words, worker.log()[-3000:])
        deployment.valkey.restart()
    wire.release()
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    assert len(deployment.versions_of(round_id)) == 1
    assert len(deployment.stores.feedback.set_ids(round_id)) == len(view.record.set_ids) == 12
    assert all(len(scored.scores) == 9 for scored in deployment.stores.feedback.scored_sets(round_id))
    assert [row["step"] for row in view.metrics] == list(range(1, 13))


def test_judge_that_is_killed_while_the_gate_asks_it_is_waited_for_and_nothing_is_painted_twice(
    deployment, wire, worker
):
    judge = deployment.judges[1]
    wire.arm(TRAINING[0])
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    wire.arm(b'"criterion": "quality"')
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    judge.kill9()
    wire.release()
    waiting = eventually(lambda: deployment.round(round_id).problem, within_s=PATIENCE_S)
    assert waiting.code == "unavailable"
    painted = deployment.stores.feedback.set_ids(f"gate-{round_id}-before")
    judge.start().wait_until_ready()
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    assert deployment.stores.feedback.set_ids(f"gate-{round_id}-before") == painted
    assert len(deployment.versions_of(round_id)) == 1
