"""Several generators on one Redis: one alias, one memory of generations, one way of recorded sets."""

import pytest
from fastapi.testclient import TestClient

from fashiondpo.contracts import CandidateSet
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.redis_connection import connect
from fashiondpo.storage.redis_feedback import RedisFeedback
from fashiondpo.storage.redis_traffic import RedisTraffic
from services.generator.app import create_app
from services.generator.settings import GeneratorSettings
from tests.generator_calls import ASYNC, EVENTS, LONG, completion, events_of, registration
from tests.polling import eventually


@pytest.fixture(scope="module")
def prefix():
    return "replicas"


@pytest.fixture(scope="module")
def shared(valkey_url, prefix, tmp_path_factory):
    """Settings that replicas have in common."""
    return {
        "redis_url": valkey_url,
        "redis_prefix": prefix,
        "artifacts_url": str(tmp_path_factory.mktemp("artifacts")),
        "poll_adapters_s": 0.2,
        "claim_s": 1.0,
    }


@pytest.fixture(scope="module")
def replicas(opened, shared):
    """Two of them, ready."""
    return [opened(**shared), opened(**shared)]


def active(client) -> int:
    return client.get("/adapters").json()["active"]["version"]


class TestReplicas:
    def test_say_in_readyz_that_redis_answers(self, replicas):
        assert [c.get("/readyz").json()["checks"]["redis"] for c in replicas] == ["ok", "ok"]

    def test_follow_the_same_alias(self, replicas, adapter_contents):
        one, other = replicas
        for position, content in enumerate(adapter_contents[:2], start=1):
            assert one.post("/adapters", json=registration(content, f"r{position}")).status_code == 201
        for version in (1, 2):
            assert (
                one.post(f"/adapters/{version}/activate", json={"force": True}).json()["active"]["version"] == version
            )
            eventually(lambda version=version: active(other) == version)
        other.post("/adapters/rollback")
        eventually(lambda: active(one) == 1)
        other.post("/adapters/0/activate")
        eventually(lambda: active(one) == 0)

    def test_know_each_others_generations(self, replicas):
        one, other = replicas
        place = one.post("/generate", json=completion(), headers=ASYNC).headers["location"]
        eventually(lambda: other.get(place).json()["status"] == "succeeded")
        assert other.get(place).json() == one.get(place).json()

    def test_tell_each_others_generations_as_events(self, replicas):
        one, other = replicas
        place = one.post("/generate", json=completion(steps=60), headers=ASYNC).headers["location"]
        with other.stream("GET", place, headers=EVENTS) as response:
            names = [name for name, _ in events_of(response.iter_lines())]
        assert names[0] == "progress" and names[-2:] == ["set", "done"]

    def test_stop_each_others_generations(self, replicas):
        one, other = replicas
        place = one.post("/generate", json=completion(steps=LONG), headers=ASYNC).headers["location"]
        assert other.delete(place).status_code == 200
        eventually(lambda: one.get(place).json()["status"] == "cancelled")

    def test_share_idempotency_keys(self, replicas):
        headers, body = {"Idempotency-Key": "shared"}, completion(steps=20)
        answers = [client.post("/generate", json=body, headers=headers) for client in replicas]
        assert answers[0].json() == answers[1].json()
        assert replicas[1].post("/generate", json=completion(seed=9), headers=headers).status_code == 409


class TestReplicaThatStopsTooEarly:
    def test_leaves_what_it_has_accepted_to_the_others(self, bundle_folder, shared, replicas):
        settings = GeneratorSettings(bundle=str(bundle_folder), shutdown_timeout_s=0.1, **shared)
        with TestClient(create_app(settings)) as client:
            eventually(lambda: client.get("/readyz").status_code == 200, within_s=60)
            place = client.post("/generate", json=completion(steps=LONG), headers=ASYNC).headers["location"]
        eventually(lambda: replicas[0].get(place).json()["status"] == "running", within_s=30)
        assert replicas[0].delete(place).status_code == 200
        eventually(lambda: replicas[1].get(place).json()["status"] == "cancelled")


class TestRecordedSet:
    @pytest.fixture
    def artifacts(self, shared):
        return FolderArtifacts(shared["artifacts_url"])

    def test_joins_the_traffic_that_rounds_draw_from(self, replicas, valkey_url, prefix, artifacts):
        made = replicas[0].post("/generate", json=completion(record=True)).json()
        recorded = CandidateSet.model_validate(made["candidate_sets"][0])
        client = connect(valkey_url)
        assert RedisFeedback(client, prefix).set(recorded.set_id) == recorded
        assert recorded.set_id in RedisFeedback(client, prefix).set_ids("traffic")
        taken = RedisTraffic(client, prefix).claim_recorded("judge", 100)
        assert recorded.set_id in [entry.set_id for entry in taken]
        trajectory = Trajectory.from_bytes(artifacts.get(recorded.trajectory))
        assert trajectory.seeds == tuple(c.seed for c in recorded.candidates)

    def test_of_a_round_is_the_rounds_business(self, replicas, valkey_url, prefix):
        made = replicas[0].post("/generate", json=completion(record=True, round_id="round-0001")).json()
        (collected,) = made["candidate_sets"]
        assert collected["trajectory"] is not None
        assert collected["set_id"] not in RedisFeedback(connect(valkey_url), prefix).set_ids("traffic")


class TestRedisThatIsGone:
    """Pictures need no Redis; what does need it says so, and comes back with it."""

    def test_leaves_plain_generations_working_and_everything_else_honest(self, opened, own_valkey, tmp_path):
        client = opened(redis_url=own_valkey.url, artifacts_url=str(tmp_path / "artifacts"), poll_adapters_s=0.2)
        own_valkey.kill9()
        assert client.post("/generate", json=completion()).status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.json()["checks"]["redis"] != "ok"
        for asked in (
            client.post("/generate", json=completion(), headers={"Idempotency-Key": "k"}),
            client.post("/generate", json=completion(), headers=ASYNC),
            client.get("/adapters"),
        ):
            assert (asked.status_code, asked.json()["code"]) == (503, "unavailable")
        own_valkey.start()
        eventually(lambda: client.get("/readyz").status_code == 200, within_s=30)
        assert client.post("/generate", json=completion(), headers=ASYNC).status_code == 202
