"""What idempotency keys promise, wherever they are kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fashiondpo.errors import Conflict, InvalidInput
from fashiondpo.storage.idempotency import Done, Idempotency, MemoryIdempotency, New, Running
from fashiondpo.storage.redis_idempotency import RedisIdempotency
from tests.polling import eventually
from tests.protocols.places import Places

# Each makes keys that nobody has used; a request is given up after the seconds given.
IMPLEMENTATIONS: dict[str, Callable[[Places, float], Idempotency]] = {
    "memory": lambda _, running_s: MemoryIdempotency(running_s=running_s),
    "redis": lambda places, running_s: RedisIdempotency(places.redis(), places.prefix(), running_s=running_s),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def make_keys(request: pytest.FixtureRequest, places: Places) -> Callable[[float], Idempotency]:
    return lambda running_s: IMPLEMENTATIONS[request.param](places, running_s)


@pytest.fixture
def keys(make_keys) -> Idempotency:
    return make_keys(600.0)


class TestBegin:
    def test_is_new_the_first_time_and_running_until_it_is_finished(self, keys):
        assert isinstance(keys.begin("k", "f", 60), New)
        assert keys.begin("k", "f", 60) == Running()

    def test_gives_the_answer_once_there_is_one(self, keys):
        new = keys.begin("k", "f", 60)
        keys.finish(new, 202, '{"größe": 1}', {"Location": "/rounds/r1"})
        done = Done(status=202, body='{"größe": 1}', headers={"Location": "/rounds/r1"})
        assert keys.begin("k", "f", 60) == done == keys.begin("k", "f", 60)

    def test_of_something_else_under_the_same_key_is_a_conflict(self, keys):
        new = keys.begin("k", "f", 60)
        for _ in ("running", "done"):
            with pytest.raises(Conflict, match="another request"):
                keys.begin("k", "g", 60)
            keys.finish(new, 200, "")

    def test_keeps_keys_apart_whatever_they_hold(self, keys):
        odd = ["k", "k ", "", "a:b", "../x", "*", "ключ", "\x00", "x" * 10_000]
        assert all(isinstance(keys.begin(key, "f", 60), New) for key in odd)

    def test_of_twenty_at_once_lets_one_do_it(self, keys, busy_threads):
        with ThreadPoolExecutor(20) as pool:
            began = list(pool.map(lambda _: keys.begin("k", "f", 60), range(20)))
        assert sum(isinstance(answer, New) for answer in began) == 1
        assert began.count(Running()) == 19

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan")])
    def test_refuses_what_is_no_time(self, keys, ttl_s):
        with pytest.raises(InvalidInput):
            keys.begin("k", "f", ttl_s)


class TestForget:
    def test_lets_it_be_tried_again(self, keys):
        keys.forget(keys.begin("k", "f", 60))
        assert isinstance(keys.begin("k", "g", 60), New)

    def test_does_not_take_back_an_answer(self, keys):
        new = keys.begin("k", "f", 60)
        keys.finish(new, 200, "yes")
        keys.forget(new)
        assert keys.begin("k", "f", 60) == Done(status=200, body="yes")

    def test_of_one_who_was_given_up_does_not_disturb_who_took_over(self, make_keys):
        keys = make_keys(0.05)
        late = keys.begin("k", "f", 60)
        second = eventually(lambda: _new(keys))
        keys.forget(late)
        keys.finish(second, 200, "second")
        assert keys.begin("k", "f", 60) == Done(status=200, body="second")


class TestFinish:
    def test_counts_the_first_time(self, keys):
        new = keys.begin("k", "f", 60)
        keys.finish(new, 200, "first")
        keys.finish(new, 200, "second")
        assert keys.begin("k", "f", 60) == Done(status=200, body="first")

    def test_that_comes_late_is_kept_if_nobody_took_over(self, make_keys):
        keys = make_keys(0.02)
        late = keys.begin("k", "f", 60)
        other = keys.begin("other", "f", 60)
        eventually(lambda: _new(keys, "other"))
        keys.finish(late, 200, "late")
        assert other and keys.begin("k", "f", 60) == Done(status=200, body="late")

    def test_is_forgotten_after_its_time(self, keys):
        keys.finish(keys.begin("k", "f", 0.05), 200, "old")
        assert eventually(lambda: _new(keys, fingerprint="other"))


def _new(keys: Idempotency, key: str = "k", fingerprint: str = "f") -> New | None:
    try:
        answer = keys.begin(key, fingerprint, 60)
    except Conflict:
        return None
    return answer if isinstance(answer, New) else None
