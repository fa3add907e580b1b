"""A request with an Idempotency-Key is done once, however often it is sent."""

import asyncio

import httpx
import pytest

from tests.api.small_service import CHIEF, KEYS, TRAINER, bearer, small_app


@pytest.fixture
def worked() -> list[int]:
    return []


@pytest.fixture
def ask(worked):
    """Sends orders at once, each a body and a key, and gives the answers."""
    app = small_app(worked, api_keys=KEYS)

    def send(*orders: tuple[int, str | None], key: str = TRAINER) -> list[httpx.Response]:
        async def all_at_once() -> list[httpx.Response]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                return await asyncio.gather(
                    *(
                        client.post(
                            "/orders",
                            json={"count": count},
                            headers=bearer(key) | ({} if once is None else {"Idempotency-Key": once}),
                        )
                        for count, once in orders
                    )
                )

        return asyncio.run(all_at_once())

    return send


class TestIdempotencyKey:
    def test_sent_twenty_times_at_once_the_work_is_done_once_and_all_get_its_answer(self, ask, worked):
        answers = ask(*[(3, "once")] * 20)
        assert worked == [3]
        assert {(a.status_code, a.text, a.headers["location"]) for a in answers} == {(202, '{"count":1}', "/orders/1")}
        assert sorted(a.headers.get("idempotency-replayed", "false") for a in answers) == ["false"] + ["true"] * 19

    def test_a_repetition_has_its_own_request_id_and_a_json_answer(self, ask):
        first, second = ask((3, "once"))[0], ask((3, "once"))[0]
        assert first.headers["x-request-id"] != second.headers["x-request-id"]
        assert first.headers["content-type"] == second.headers["content-type"] == "application/json"

    def test_for_another_request_is_a_conflict(self, ask, worked):
        ask((3, "once"))
        (answer,) = ask((4, "once"))
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert worked == [3]

    def test_of_another_client_is_another_key(self, ask, worked):
        ask((3, "once"))
        ask((4, "once"), key=CHIEF)
        assert worked == [3, 4]

    def test_of_a_request_that_failed_can_be_used_again(self, ask, worked):
        first, second = ask((9, "once"))[0], ask((9, "once"))[0]
        assert (first.status_code, second.status_code) == (503, 503)
        assert worked == [9, 9]

    def test_that_is_missing_means_that_every_request_counts(self, ask, worked):
        ask((3, None), (3, None))
        assert worked == [3, 3]

    @pytest.mark.parametrize("key", ["", "x" * 256, "with blank"])
    def test_that_is_none_is_422(self, ask, key):
        assert ask((3, key))[0].status_code == 422
