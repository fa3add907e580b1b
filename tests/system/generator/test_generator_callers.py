"""Callers of a generator process that hang up, come in crowds, or ask for the same thing many times."""

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.generator_calls import ASYNC, EVENTS, LONG, completion, events_of
from tests.polling import eventually

HONEST = {200, 202, 429, 503}


def figure(generator, name: str) -> float:
    """A number from /metrics."""
    lines = httpx.get(f"{generator.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def steps_seen(generator, generation_id: str) -> int:
    return httpx.get(f"{generator.url}/generations/{generation_id}").json()["done"]


def ended_for(generator, request_id: str) -> list[dict]:
    """Log lines of the generations that a request has begun."""
    return [line for line in generator.lines("generation") if line["request_id"] == request_id]


class TestEvents:
    def test_tell_of_every_step_then_of_the_set_then_of_the_whole(self, generator):
        with httpx.stream(
            "POST", f"{generator.url}/generate", json=completion(steps=5, previews=True), headers=EVENTS, timeout=60
        ) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-cache"
            events = list(events_of(response.iter_lines()))
        names = [name for name, _ in events]
        assert names[0] == "progress" and names[-2:] == ["set", "done"]
        told = [one["step"] for name, data in events if name == "progress" for one in data["sets"]]
        assert told[-1] == 5 and told == sorted(told)
        previews = [p for name, data in events if name == "progress" for one in data["sets"] for p in one["previews"]]
        assert previews
        assert events[-1][1]["candidate_sets"] == [data for name, data in events if name == "set"]

    def test_of_a_failure_end_with_the_problem(self, generator):
        body = completion(steps=LONG, deadline_s=0.2)
        with httpx.stream("POST", f"{generator.url}/generate", json=body, headers=EVENTS, timeout=60) as response:
            *_, (name, problem) = events_of(response.iter_lines())
        assert (name, problem["code"]) == ("error", "deadline_exceeded")

    def test_can_be_joined_by_others_whose_hanging_up_stops_nothing(self, generator):
        place = (
            generator.url
            + httpx.post(f"{generator.url}/generate", json=completion(steps=150), headers=ASYNC).headers["location"]
        )
        with httpx.stream("GET", place, headers=EVENTS, timeout=60) as response:
            next(events_of(response.iter_lines()))
        with httpx.stream("GET", place, headers=EVENTS, timeout=60) as response:
            *_, (name, whole) = events_of(response.iter_lines())
        assert (name, whole["status"]) == ("done", "succeeded")


class TestCallerThatHangsUp:
    def test_on_an_event_stream_stops_the_painting_within_two_steps(self, generator):
        with httpx.stream(
            "POST", f"{generator.url}/generate", json=completion(steps=LONG), headers=EVENTS, timeout=60
        ) as response:
            for _, data in events_of(response.iter_lines()):
                if data["done"] >= 3:
                    break
            generation_id, seen = data["generation_id"], data["done"]
        eventually(lambda: httpx.get(f"{generator.url}/generations/{generation_id}").json()["status"] == "cancelled")
        # what was painted between the last event that was read and the end of the connection is not the engine's fault
        assert steps_seen(generator, generation_id) < seen + LONG / 4

    def test_on_a_plain_answer_stops_the_painting_long_before_its_end(self, generator):
        headers = {"X-Request-Id": "hangs-up"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{generator.url}/generate", json=completion(steps=LONG), headers=headers, timeout=0.5)
        (ended,) = eventually(lambda: ended_for(generator, "hangs-up"))
        assert ended["status"] == "cancelled"
        eventually(lambda: figure(generator, "fashiondpo_engine_running_rows") == 0)

    def test_on_an_asynchronous_answer_stops_nothing(self, generator):
        place = httpx.post(f"{generator.url}/generate", json=completion(steps=100), headers=ASYNC).headers["location"]
        eventually(lambda: httpx.get(generator.url + place).json()["status"] == "succeeded")

    def test_while_another_waits_for_the_same_key_stops_nothing(self, generator):
        headers, body = {"Idempotency-Key": "shared"}, completion(steps=200)
        with ThreadPoolExecutor(1) as pool:
            patient = pool.submit(httpx.post, f"{generator.url}/generate", json=body, headers=headers, timeout=60)
            eventually(lambda: figure(generator, "fashiondpo_engine_running_rows") > 0)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{generator.url}/generate", json=body, headers=headers, timeout=0.2)
            assert patient.result().status_code == 200


class TestCrowd:
    def test_that_sends_one_key_twenty_times_at_once_gets_one_generation_and_one_answer(self, generator):
        def ask(_: int) -> httpx.Response:
            headers = {"Idempotency-Key": "twenty", "X-Request-Id": "of-twenty"}
            return httpx.post(f"{generator.url}/generate", json=completion(steps=20), headers=headers, timeout=60)

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(ask, range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert len(ended_for(generator, "of-twenty")) == 1

    def test_of_five_times_what_fits_is_answered_200_202_429_or_503_and_nothing_accepted_is_lost(self, start_generator):
        generator = start_generator(max_queued_rows=20)
        body = completion(num_candidates=4, steps=8)

        def ask(i: int) -> httpx.Response:
            headers = ASYNC if i % 3 == 0 else {}
            return httpx.post(f"{generator.url}/generate", json=body | {"seed": i}, headers=headers, timeout=60)

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(5 * 20)))
        counted = Counter(answer.status_code for answer in answers)
        assert set(counted) <= HONEST and counted[429] > 0 and counted[200] > 0
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 429)
        for answer in answers:
            if answer.status_code == 202:
                place = generator.url + answer.headers["location"]
                eventually(lambda place=place: httpx.get(place).json()["status"] == "succeeded", within_s=60)
        assert httpx.get(f"{generator.url}/readyz").status_code == 200


class TestSigterm:
    def test_under_load_finishes_what_was_accepted_and_refuses_the_rest_without_a_5xx_but_503(self, start_generator):
        generator = start_generator(shutdown_timeout_s=30)
        statuses: list[int | str] = []

        def ask(i: int) -> None:
            try:
                answer = httpx.post(
                    f"{generator.url}/generate", json=completion(steps=80, seed=i), timeout=120,
                    headers={"Connection": "close"},
                )  # fmt: skip
                statuses.append(answer.status_code)
            except httpx.ConnectError:
                statuses.append("not accepted")

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, i) for i in range(8)]
            detached = httpx.post(f"{generator.url}/generate", json=completion(steps=60), headers=ASYNC)
            waiting, running = "fashiondpo_engine_queued_rows", "fashiondpo_engine_running_rows"
            eventually(lambda: figure(generator, waiting) + figure(generator, running) == 9 * 2)
            generator.signal(signal.SIGTERM)
            asked += [pool.submit(ask, i) for i in range(8, 16)]
            [one.result() for one in asked]
        assert generator.ended() == 0
        assert set(statuses) <= {200, 503, "not accepted"}
        assert statuses.count(200) >= 8
        ended = {line["generation_id"]: line["status"] for line in generator.lines("generation")}
        assert ended[detached.json()["generation_id"]] == "succeeded"
        assert set(ended.values()) == {"succeeded"}

    def test_does_not_wait_longer_than_its_time_for_what_never_ends(self, start_generator):
        generator = start_generator(shutdown_timeout_s=1)
        httpx.post(f"{generator.url}/generate", json=completion(steps=LONG, num_candidates=30), headers=ASYNC)
        began = time.monotonic()
        generator.signal(signal.SIGTERM)
        assert generator.ended() == 0
        assert time.monotonic() - began < 15


class TestLog:
    def test_of_a_generation_carries_the_id_of_its_request(self, generator):
        answer = httpx.post(f"{generator.url}/generate", json=completion(), headers={"X-Request-Id": "tell-me-apart"})
        (ended,) = eventually(lambda: ended_for(generator, "tell-me-apart"))
        assert ended["request_id"] == answer.headers["x-request-id"] == "tell-me-apart"
        assert ended["seconds"] > 0
