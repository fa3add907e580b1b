"""The artifacts are in S3, and S3 answers 503 while a round is at work: the round waits, says why, and goes on."""

from __future__ import annotations

import httpx
import pytest

from tests.faulty_store import FaultyStore
from tests.polling import eventually
from tests.s3_server import S3Server
from tests.trainer_processes import PATIENCE_S, Deployment, HttpProcess
from tests.tripwire import Tripwire

COLLECTING = (b'"position"', 3)
JUDGING = (b'"criterion": "quality"', 2)
TRAINING = (b'"implicit_accuracy"', 1)
GATING = (b'"criterion": "quality"', 1)
PUBLISHING = (b'"stage": "publish"', 1)
"""What a worker sends to Redis in the middle of a stage, or as one begins."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The wire to S3, which every process of the deployment takes."""
    folder = tmp_path_factory.mktemp("s3")
    with (
        S3Server(folder / "s3.log") as server,
        FaultyStore(server.port) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (server.environment | {"AWS_ENDPOINT_URL": store.url}).items():
            patch.setenv(name, value)
        store.bucket = server.bucket()
        yield store


@pytest.fixture(scope="module")
def deployment(store, tmp_path_factory):
    url = f"s3://{store.bucket}/artifacts"
    with Deployment(tmp_path_factory.mktemp("deployment"), artifacts_url=url) as started:
        yield started


@pytest.fixture(scope="module")
def wire(deployment):
    with Tripwire(deployment.valkey.port) as wire:
        yield wire


def problems(deployment: Deployment, round_id: str) -> list[dict[str, object]]:
    """Everything that the round has waited for."""
    return [event.details for event in deployment.stores.jobs.events(round_id) if event.kind == "problem"]


def artifacts_check(service: HttpProcess) -> str:
    return str(httpx.get(f"{service.url}/readyz", timeout=30).json()["checks"]["artifacts"])


@pytest.mark.slow
def test_round_whose_store_answers_503_in_every_stage_loses_nothing_and_does_nothing_twice(
    deployment, store, wire, worker
):
    moments = (COLLECTING, JUDGING, TRAINING, GATING, PUBLISHING)
    words, at = moments[0]
    wire.arm(words, at=at)
    round_id = deployment.train()
    feedback = deployment.stores.feedback
    sets, steps = (), 0
    for following in (*moments[1:], None):
        assert wire.tripped.wait(PATIENCE_S), worker.log()[-3000:]
        before = len(problems(deployment, round_id))
        store.be_busy()
        wire.release()
        eventually(lambda before=before: len(problems(deployment, round_id)) > before, within_s=PATIENCE_S)
        told = problems(deployment, round_id)[-1]
        assert (told["status"], told["code"]) in {(503, "unavailable"), (503, "unscored_candidates")}
        assert deployment.round(round_id).state == "running" and store.refused()
        assert all("does not answer" in artifacts_check(each) for each in (deployment.api, deployment.generator))
        assert feedback.set_ids(round_id)[: len(sets)] == sets
        assert len(deployment.round(round_id).metrics) >= steps
        sets, steps = feedback.set_ids(round_id), len(deployment.round(round_id).metrics)
        if following is not None:
            words, at = following
            wire.arm(words, at=at)
        store.heal()
    view = deployment.ended(round_id)
    assert (view.state, view.problem) == ("succeeded", None), worker.log()[-3000:]
    (version,) = deployment.versions_of(round_id)
    assert deployment.stores.adapters.weights(version)
    assert len(sets) == len(view.record.set_ids) == 12 and feedback.set_ids(round_id) == sets
    scored = feedback.scored_sets(round_id)
    assert all(len(each.scores) == 9 for each in scored)
    artifacts = deployment.stores.artifacts
    for each in scored:  # whole, or their digest would say so
        for ref in (each.candidate_set.trajectory, *(c.image for c in each.candidate_set.candidates)):
            assert artifacts.get(ref)
    assert [row["step"] for row in view.metrics] == list(range(1, 13))
    assert len(store.put()) == len(set(store.put()))
