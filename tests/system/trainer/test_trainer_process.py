"""The trainer's API as a real process: told to end under load, and asked for more than it has room for."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.redis_connection import connect
from fashiondpo.storage.redis_stores import redis_stores
from services.trainer.opening import all_jobs
from tests.polling import eventually
from tests.service_process import ServiceProcess

ROUND = {"outfits": 4, "gate_outfits": 30, "candidates": 3}
ROOM = 4
CLOSING = {"Connection": "close"}


@pytest.fixture
def start_trainer(valkey_url, redis_prefix, tmp_path):
    """Starts trainers, ready, whose rounds no worker takes."""
    with ExitStack() as stack:

        def start(**settings: object) -> ServiceProcess:
            shared = {"redis_url": valkey_url, "redis_prefix": redis_prefix, "artifacts_url": tmp_path / "artifacts"}
            return stack.enter_context(ServiceProcess("trainer", **shared, **settings)).wait_until_ready()

        yield start


@pytest.fixture
def stores(valkey_url, redis_prefix, tmp_path):
    return redis_stores(connect(valkey_url), FolderArtifacts(tmp_path / "artifacts"), redis_prefix)


class TestSigterm:
    def test_under_load_answers_what_was_accepted_and_ends_with_0(self, start_trainer, stores):
        trainer = start_trainer()

        def ask(_: int) -> tuple[int | str, str]:
            try:
                answer = client.post(f"{trainer.url}/train", json=ROUND, headers=CLOSING)
            except httpx.TransportError:
                return "not accepted", ""
            return answer.status_code, answer.json().get("round_id", "")

        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(12) as pool:
            asked = pool.map(ask, range(120))
            eventually(lambda: any(line["path"] == "/train" for line in trainer.events("request")))
            trainer.terminate()
            answers = list(asked)
        assert trainer.ended() == 0
        counted = Counter(status for status, _ in answers)
        assert set(counted) <= {202, 503, "not accepted"} and counted[202] > 0
        told = [round_id for status, round_id in answers if status == 202]
        assert len(told) == len(set(told))
        assert set(told) <= {job.round_id for job in all_jobs(stores)}


class TestOverload:
    def test_of_five_times_the_room_is_429_with_a_time_while_probes_are_answered_and_nobody_is_forgotten(
        self, start_trainer, stores
    ):
        trainer = start_trainer(max_requests=ROOM)
        first = httpx.post(f"{trainer.url}/train", json=ROUND, timeout=60).json()["round_id"]
        with ExitStack() as readers:
            for _ in range(ROOM):  # a reader of events that takes its place for as long as it likes
                opened = httpx.stream("GET", f"{trainer.url}/rounds/{first}/events", timeout=60)
                readers.enter_context(opened)
            with ThreadPoolExecutor(5 * ROOM) as pool:
                refused = list(
                    pool.map(lambda _: httpx.post(f"{trainer.url}/train", json=ROUND, timeout=60), range(5 * ROOM))
                )
            assert httpx.get(f"{trainer.url}/readyz", timeout=30).status_code == 200
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert len(list(all_jobs(stores))) == 1
        eventually(lambda: httpx.post(f"{trainer.url}/train", json=ROUND, timeout=60).status_code == 202)
        assert len(list(all_jobs(stores))) == 2
