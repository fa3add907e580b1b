"""What happens to accepted work when a generator, or the Redis behind it, is killed or hangs."""

import httpx
import pytest

from tests.generator_calls import ASYNC, completion, registration
from tests.polling import eventually


@pytest.fixture
def shared(own_valkey):
    return {"redis_url": own_valkey.url, "claim_s": 2, "poll_adapters_s": 0.5}


def status(url: str) -> str | None:
    try:
        return httpx.get(url, timeout=30).json().get("status")
    except httpx.HTTPError:
        return None


class TestKilledGenerator:
    def test_loses_no_accepted_generation_and_serves_the_champion_again(
        self, start_generator, shared, adapter_contents
    ):
        generator = start_generator(**shared)
        httpx.post(f"{generator.url}/adapters", json=registration(adapter_contents[0], "r1"), timeout=60)
        httpx.post(f"{generator.url}/adapters/1/activate", json={"force": True}, timeout=60)
        body = completion(steps=60, seed=5, adapter_version=1)
        place = httpx.post(f"{generator.url}/generate", json=body, headers=ASYNC, timeout=60).headers["location"]
        generator.kill9()
        generator.start()
        eventually(lambda: status(generator.url + place) == "succeeded", within_s=90)
        made = httpx.get(generator.url + place, timeout=60).json()
        again = httpx.post(f"{generator.url}/generate", json=body, timeout=120).json()
        assert _images(made) == _images(again)
        assert httpx.get(f"{generator.url}/adapters", timeout=60).json()["active"]["version"] == 1

    def test_leaves_its_work_to_another_that_lives(self, start_generator, shared):
        one, other = start_generator(**shared), start_generator(**shared)
        place = httpx.post(f"{one.url}/generate", json=completion(steps=60), headers=ASYNC, timeout=60).headers[
            "location"
        ]
        one.kill9()
        eventually(lambda: status(other.url + place) == "succeeded", within_s=90)
        assert [line["status"] for line in other.lines("generation")] == ["succeeded"]


class TestKilledRedis:
    def test_that_comes_back_has_lost_no_accepted_generation(self, start_generator, shared, own_valkey):
        generator = start_generator(**shared)
        place = httpx.post(f"{generator.url}/generate", json=completion(steps=60), headers=ASYNC, timeout=60).headers[
            "location"
        ]
        own_valkey.kill9()
        eventually(lambda: generator.lines("generation"), within_s=60)
        own_valkey.start()
        eventually(lambda: status(generator.url + place) == "succeeded", within_s=60)
        eventually(generator.is_ready, within_s=60)
        assert len(generator.lines("generation")) == 1

    def test_that_hangs_makes_readyz_honest_and_leaves_pictures_working(self, start_generator, shared, own_valkey):
        generator = start_generator(**shared)
        own_valkey.pause()
        assert httpx.post(f"{generator.url}/generate", json=completion(), timeout=60).status_code == 200
        assert not generator.is_ready()
        own_valkey.resume()
        eventually(generator.is_ready, within_s=60)


def _images(generation: dict) -> list[str]:
    return [c["image"] for s in generation["candidate_sets"] for c in s["candidates"]]
