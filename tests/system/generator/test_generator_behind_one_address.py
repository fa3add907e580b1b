"""Two generators and a Redis behind one address: callers need not know who paints, nor that somebody died."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.generator_calls import ASYNC, EVENTS, LONG, completion, events_of, registration
from tests.polling import eventually
from tests.restartable_service import RestartableService
from tests.round_robin import SERVED_BY, RoundRobin

PATIENT = 120


@dataclass(frozen=True)
class Replicas:
    """What stands behind the address."""

    proxy: RoundRobin
    services: tuple[RestartableService, ...]

    def post(self, path: str, **asked: object) -> httpx.Response:
        return httpx.post(self.proxy.url + path, timeout=PATIENT, **asked)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.proxy.url + path, timeout=PATIENT)

    def from_everybody(self, path: str) -> list[httpx.Response]:
        """One answer of every replica, through the proxy."""
        answers = [self.get(path) for _ in self.services]
        assert {served_by(answer) for answer in answers} == set(range(len(self.services)))
        return answers

    def ended(self) -> list[dict]:
        """Log lines of generations that ended, whoever painted them."""
        return [line for service in self.services for line in service.lines("generation")]

    def accepted(self, **body: object) -> tuple[str, int]:
        """Ask for a generation, asynchronously; its path, and who accepted it."""
        answer = self.post("/generate", json=completion(**body), headers=ASYNC)
        assert answer.status_code == 202
        return answer.headers["location"], served_by(answer)


def served_by(answer: httpx.Response) -> int:
    return int(answer.headers[SERVED_BY])


@pytest.fixture
def replicas(start_generator, own_valkey) -> Iterator[Replicas]:
    shared = {"redis_url": own_valkey.url, "claim_s": 2, "poll_adapters_s": 0.5}
    services = tuple(start_generator(**shared) for _ in range(2))
    with RoundRobin([service.url for service in services]) as proxy:
        yield Replicas(proxy, services)


def test_what_one_accepts_the_other_shows_tells_and_stops(replicas, adapter_contents):
    """Several facts about two living replicas, which take a while to start."""
    _is_polled_anywhere_and_its_pictures_come_from_anywhere(replicas)
    _is_told_as_events_by_one_that_does_not_paint_it(replicas)
    _is_stopped_by_one_that_does_not_paint_it(replicas)
    _is_painted_once_under_a_key_that_is_sent_to_both_at_once(replicas)
    _is_painted_with_the_adapter_that_was_activated_at_either(replicas, adapter_contents[0])


def _is_polled_anywhere_and_its_pictures_come_from_anywhere(replicas: Replicas) -> None:
    place, _ = replicas.accepted(seed=1)
    seen = []

    def is_done() -> bool:
        seen.append(replicas.get(place))
        return seen[-1].json()["status"] == "succeeded"

    eventually(is_done, within_s=PATIENT)
    first, second = replicas.from_everybody(place)
    # one knows it first hand, the other by its record, which is written a moment later
    eventually(lambda: len({answer.text for answer in replicas.from_everybody(place)}) == 1, within_s=PATIENT)
    assert first.status_code == second.status_code == 200
    for candidate in first.json()["candidate_sets"][0]["candidates"]:
        one, other = replicas.from_everybody(f"/images/{candidate['image']}")
        assert one.status_code == 200 and one.content == other.content and one.content.startswith(b"\x89PNG")


def _is_told_as_events_by_one_that_does_not_paint_it(replicas: Replicas) -> None:
    place, painter = replicas.accepted(steps=200)
    with httpx.stream("GET", replicas.proxy.url + place, headers=EVENTS, timeout=PATIENT) as stream:
        assert served_by(stream) != painter
        told = list(events_of(stream.iter_lines()))
    names = [name for name, _ in told]
    assert names[0] == "progress" and names[-2:] == ["set", "done"]
    assert told[-1][1]["status"] == "succeeded"
    done = [data["done"] for name, data in told if name == "progress"]
    assert done == sorted(done) and done[-1] > 0


def _is_stopped_by_one_that_does_not_paint_it(replicas: Replicas) -> None:
    place, painter = replicas.accepted(steps=LONG)
    answer = httpx.delete(replicas.proxy.url + place, timeout=PATIENT)
    assert answer.status_code == 200 and served_by(answer) != painter
    eventually(lambda: {a.json()["status"] for a in replicas.from_everybody(place)} == {"cancelled"}, within_s=PATIENT)


def _is_painted_once_under_a_key_that_is_sent_to_both_at_once(replicas: Replicas) -> None:
    before = len(replicas.ended())
    body, headers = completion(steps=30, seed=3), {"Idempotency-Key": "both-at-once"}
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda _: replicas.post("/generate", json=body, headers=headers), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert {served_by(answer) for answer in answers} == {0, 1}
    assert len({answer.json()["generation_id"] for answer in answers}) == 1
    assert len({answer.json()["candidate_sets"][0]["candidates"][0]["image"] for answer in answers}) == 1
    assert len(replicas.ended()) == before + 1


def _is_painted_with_the_adapter_that_was_activated_at_either(replicas: Replicas, content: bytes) -> None:
    assert replicas.post("/adapters", json=registration(content, "r1")).status_code == 201
    assert replicas.post("/adapters/1/activate", json={"force": True}).status_code == 200
    eventually(
        lambda: {a.json()["active"]["version"] for a in replicas.from_everybody("/adapters")} == {1}, within_s=PATIENT
    )
    made = [replicas.post("/generate", json=completion(seed=4)) for _ in range(2)]
    assert {served_by(answer) for answer in made} == {0, 1}
    assert {answer.json()["adapter"]["version"] for answer in made} == {1}
    assert len({answer.json()["candidate_sets"][0]["candidates"][0]["image"] for answer in made}) == 1


def test_of_one_that_is_killed_the_other_finishes_what_it_had_accepted_and_those_who_waited_are_told_and_may_ask_again(
    replicas,
):
    place, painter = replicas.accepted(steps=80, seed=5)
    dying, living = replicas.services[painter], replicas.services[1 - painter]
    asked = [(completion(steps=LONG, seed=6), {}), (completion(steps=150, seed=7), {"Idempotency-Key": "again"})]
    with RoundRobin([dying.url]) as proxy, ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(_painted, proxy.url, body, headers) for body, headers in asked]
        eventually(lambda: replicas.get(place).json()["status"] == "running", within_s=PATIENT)
        eventually(lambda: _rows(dying) >= 6, within_s=PATIENT)
        dying.kill9()
        assert [answer.result(PATIENT).status_code for answer in waiting] == [502, 502]
    eventually(lambda: _status(replicas.get(place)) == "succeeded", within_s=PATIENT)
    assert [line["generation_id"] for line in living.lines("generation_taken_over")] == [place.rsplit("/", 1)[1]]
    for headers in ({}, {"Idempotency-Key": "again"}):
        answers = [replicas.post("/generate", json=asked[1][0], headers=headers) for _ in range(2)]
        assert sorted(answer.status_code for answer in answers) == [200, 502]


def _painted(address: str, body: dict, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{address}/generate", json=body, headers=headers, timeout=PATIENT)


def _status(answer: httpx.Response) -> str | None:
    """None where the turn was that of one who is dead."""
    assert answer.status_code in (200, 502)
    return None if answer.status_code == 502 else str(answer.json()["status"])


def _rows(service: RestartableService) -> int:
    """Candidates that it has accepted and not finished."""
    figures = httpx.get(f"{service.url}/metrics", timeout=PATIENT).text
    wanted = ("fashiondpo_engine_queued_rows ", "fashiondpo_engine_running_rows ")
    return sum(round(float(line.rsplit(" ", 1)[1])) for line in figures.splitlines() if line.startswith(wanted))
