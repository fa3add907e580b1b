"""A judge as a real process: starting, stopping under load, overload, memory, and what it refuses."""

import asyncio
import base64

import httpx
import numpy as np
import pytest

from fashiondpo.outfits.images import encode_png
from tests.polling import eventually
from tests.service_process import ServiceProcess

OUTFIT = {"outfit_id": 1, "user_id": 1, "category_ids": [0, 1, 5, 8], "item_ids": [None, 1, 2, 3]}


def body(candidates: int, seed: int = 0) -> dict:
    """A request with pictures of noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (candidates, 32, 32, 3), np.uint8)
    return {
        "candidates": [
            {
                "candidate_id": f"c-{n}",
                "outfit": OUTFIT,
                "slot": 0,
                "image": base64.b64encode(encode_png(image)).decode(),
            }
            for n, image in enumerate(images)
        ]
    }


async def ask_all(url: str, count: int, asked: dict, *, at_once: int) -> list[httpx.Response | None]:
    """Answers to the same request, each over a connection of its own; None where there was no answer at all."""
    room = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(base_url=url, timeout=60, headers={"Connection": "close"}) as client:

        async def one() -> httpx.Response | None:
            async with room:
                try:
                    return await client.post("/score", json=asked)
                except httpx.TransportError:
                    return None

        return await asyncio.gather(*(one() for _ in range(count)))


@pytest.fixture(scope="module")
def judge():
    with ServiceProcess("judge_quality", max_queued=64, max_batch=32) as process:
        yield process.wait_until_ready()


class TestStart:
    def test_says_where_it_listens_and_becomes_ready(self, judge: ServiceProcess):
        assert judge.events("listening")[0]["port"] > 0
        assert httpx.get(f"{judge.url}/readyz").json() == {"is_ready": True, "checks": {"judge": "ok"}}

    def test_without_its_weights_ends_and_says_why(self, tmp_path):
        with ServiceProcess("judge_quality", weights=tmp_path / "nowhere") as process:
            assert process.ended() == 1
            assert "nowhere" in process.events("failed")[0]["reason"]


class TestOverload:
    def test_at_five_times_the_capacity_answers_are_200_or_429_and_readiness_stays(self, judge: ServiceProcess):
        async def scenario():
            load = asyncio.create_task(ask_all(judge.url, 60, body(32), at_once=20))  # 640 candidates for a room of 64
            async with httpx.AsyncClient() as client:
                ready = await client.get(f"{judge.url}/readyz", timeout=30)
            return await load, ready

        answers, ready = asyncio.run(scenario())
        statuses = [answer.status_code if answer is not None else None for answer in answers]
        assert set(statuses) == {200, 429}
        assert ready.status_code == 200
        assert all(len(a.json()["scores"]) == 32 for a in answers if a is not None and a.status_code == 200)
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a is not None and a.status_code == 429)

    def test_memory_returns_to_its_level(self, judge: ServiceProcess):
        def load() -> None:
            asyncio.run(ask_all(judge.url, 30, body(64), at_once=8))

        load()
        before = judge.memory_mb()
        for _ in range(3):
            load()
        assert judge.memory_mb() < before + 30  # a leak of the pictures alone would be 70 MB


class TestSigterm:
    def test_under_load_finishes_what_was_accepted_and_ends_with_0(self):
        with ServiceProcess("judge_quality", max_batch=4, max_queued=100_000) as process:
            process.wait_until_ready()

            async def scenario() -> list[httpx.Response | None]:
                load = asyncio.create_task(ask_all(process.url, 200, body(64), at_once=12))
                while not process.events("request"):
                    await asyncio.sleep(0.01)
                process.terminate()
                return await load

            answers = asyncio.run(scenario())
            assert process.ended() == 0
        answered = [answer for answer in answers if answer is not None]
        assert {answer.status_code for answer in answered} == {200}
        assert all(len(answer.json()["scores"]) == 64 for answer in answered)
        served = [line["status"] for line in process.events("request") if line["path"] == "/score"]
        assert served == [200] * len(answered)  # nobody who was let in went without an answer
        assert len(answered) < 200 and process.events("stopping")[0]["requests"] >= 1

    def test_while_it_loads_ends_at_once(self, tmp_path):
        with ServiceProcess("judge_compat", features_cache=tmp_path) as process:
            eventually(lambda: process.events("loading"), within_s=60)
            process.terminate()
            assert process.ended(within_s=20) == 0
