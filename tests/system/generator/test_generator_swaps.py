"""A hundred swaps of adapters under traffic, with a rollback: no request fails, and memory does not grow."""

import threading

import httpx
import pytest

from tests.generator_calls import completion, registration

SWAPS = 100
SETTLED = 20
"""Swaps after which every buffer has been filled once."""


@pytest.fixture
def generator(start_generator, adapter_contents):
    generator = start_generator()
    for position, content in enumerate(adapter_contents, start=1):
        body = registration(content, f"r{position}")
        assert httpx.post(f"{generator.url}/adapters", json=body, timeout=60).json()["version"] == position
    return generator


def activate(generator, version: int) -> dict:
    response = httpx.post(f"{generator.url}/adapters/{version}/activate", json={"force": True}, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


class Traffic:
    """Callers that ask again and again until they are told to stop."""

    def __init__(self, url: str, callers: int) -> None:
        self._is_over = threading.Event()
        self.answers: list[tuple[int, int | None]] = []
        self._threads = [threading.Thread(target=self._ask, args=(url, i)) for i in range(callers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, number: int) -> None:
        with httpx.Client(timeout=120) as client:
            while not self._is_over.is_set():
                body = completion(steps=3 + number, seed=len(self.answers))
                made = client.post(f"{url}/generate", json=body)
                version = None
                if made.status_code == 200:
                    version = made.json()["adapter"]["version"]
                    of_sets = {s["adapter"]["version"] for s in made.json()["candidate_sets"]}
                    assert of_sets == {version}
                self.answers.append((made.status_code, version))


class TestHundredSwaps:
    def test_under_traffic_with_a_rollback_fail_no_request_and_leave_memory_as_it_was(self, generator):
        with Traffic(generator.url, callers=3) as traffic:
            for swap in range(SETTLED):
                activate(generator, 1 + swap % 3)
            before = generator.memory_bytes()
            for swap in range(SETTLED, SWAPS):
                assert activate(generator, 1 + swap % 3)["active"]["version"] == 1 + swap % 3
            rolled_back = httpx.post(f"{generator.url}/adapters/rollback", timeout=60).json()
            grown = generator.memory_bytes() - before
        assert rolled_back["active"]["version"] == 1 + (SWAPS - 2) % 3
        assert {status for status, _ in traffic.answers} == {200}
        assert {version for _, version in traffic.answers} >= {1, 2, 3}
        assert grown < 30e6

    def test_leave_what_was_begun_on_the_version_it_began_with(self, generator):
        activate(generator, 1)
        with httpx.stream(
            "POST", f"{generator.url}/generate", json=completion(steps=120), timeout=120,
            headers={"Accept": "text/event-stream"},
        ) as response:  # fmt: skip
            lines = response.iter_lines()
            for line in lines:
                if '"running"' in line:
                    break
            assert activate(generator, 2)["active"]["version"] == 2
            assert (
                httpx.post(f"{generator.url}/generate", json=completion(), timeout=60).json()["adapter"]["version"] == 2
            )
            *_, last = [line for line in lines if line.startswith("data: ")]
        assert '"adapter":{"version":1,' in last
