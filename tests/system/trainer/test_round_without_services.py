"""Redis, generator or judges are away while a round is at work: it waits, says why, and goes on."""

from __future__ import annotations

import time

from tests.polling import eventually
from tests.trainer_processes import PATIENCE_S

PAUSE_S = 30.0


def test_redis_that_is_killed_in_the_gate_and_paused_for_thirty_seconds_in_the_training_costs_a_round_nothing(
    deployment, wire, worker
):
    wire.arm(b'"implicit_accuracy"')
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    deployment.valkey.pause()
    wire.arm(b'"position"', at=3)
    time.sleep(PAUSE_S)  # the fault itself
    deployment.valkey.resume()
    assert wire.tripped.wait(PATIENCE_S), (deployment.round(round_id), worker.log()[-3000:])
    deployment.valkey.restart()
    wire.release()
    view = deployment.ended(round_id)
    assert view.state == "succeeded", (view.problem, worker.log()[-3000:])
    assert len(deployment.versions_of(round_id)) == 1
    assert [row["step"] for row in view.metrics] == list(range(1, 13))


def test_generator_that_is_killed_while_a_round_collects_is_waited_for(deployment, wire, worker):
    check_waits_for(deployment, wire, worker, deployment.generator, b'"position"')


def test_judge_that_is_killed_while_a_round_judges_is_waited_for(deployment, wire, worker):
    check_waits_for(deployment, wire, worker, deployment.judges[0], b'"criterion": "quality"')


def check_waits_for(deployment, wire, worker, service, words: bytes) -> None:
    wire.arm(words)
    round_id = deployment.train()
    assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
    service.kill9()
    wire.release()
    waiting = eventually(lambda: deployment.round(round_id).problem, within_s=PATIENCE_S)
    assert waiting.code == "unavailable"
    assert deployment.round(round_id).state == "running"
    service.start()
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    assert len(deployment.versions_of(round_id)) == 1
