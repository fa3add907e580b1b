"""What leases promise, wherever they are kept: one holder at a time, and tokens that only grow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fashiondpo.errors import InvalidInput, LeaseLost
from fashiondpo.storage.leases import Lease, Leases, MemoryLeases
from fashiondpo.storage.redis_connection import connect, lease_key
from fashiondpo.storage.redis_leases import RedisLeases
from tests.polling import eventually
from tests.protocols.places import Places


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def memory(_places: Places) -> tuple[Leases, Callable[[str], None]]:
    clock = Clock()
    return MemoryLeases(clock), lambda _name: setattr(clock, "now", clock.now + 1000)


def in_redis(places: Places) -> tuple[Leases, Callable[[str], None]]:
    client, prefix = places.redis(), places.prefix()
    return RedisLeases(client, prefix), lambda name: client.hset(lease_key(prefix, name), "until_ms", 1)


# Each makes leases that nobody holds, and a way to let one's time pass.
IMPLEMENTATIONS = {"memory": memory, "redis": in_redis}


@pytest.fixture(params=IMPLEMENTATIONS)
def opened(request: pytest.FixtureRequest, places: Places) -> tuple[Leases, Callable[[str], None]]:
    return IMPLEMENTATIONS[request.param](places)


@pytest.fixture
def leases(opened) -> Leases:
    return opened[0]


@pytest.fixture
def expire(opened) -> Callable[[str], None]:
    return opened[1]


class TestAcquire:
    def test_gives_a_lease_that_says_what_and_whose_it_is(self, leases):
        lease = leases.acquire("r1", "worker/ä 1", 60)
        assert (lease.name, lease.holder) == ("r1", "worker/ä 1")
        assert leases.current("r1") == lease

    def test_gives_nobody_what_somebody_holds_not_even_the_holder(self, leases):
        assert leases.acquire("r1", "a", 60)
        assert leases.acquire("r1", "b", 60) is None
        assert leases.acquire("r1", "a", 60) is None

    def test_keeps_names_apart(self, leases):
        assert leases.acquire("r1", "a", 60) and leases.acquire("r2", "b", 60)

    def test_gives_it_again_once_it_was_released_or_has_expired(self, leases, expire):
        first = leases.acquire("r1", "a", 60)
        leases.release(first)
        second = leases.acquire("r1", "b", 60)
        expire("r1")
        third = leases.acquire("r1", "a", 60)
        assert first.token < second.token < third.token

    def test_lets_one_of_many_have_it(self, leases, busy_threads):
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda i: leases.acquire("r1", f"worker-{i}", 60), range(24)))
        assert sum(lease is not None for lease in taken) == 1

    @pytest.mark.parametrize("name", ["", "../r1", "a:b", "r1\n"])
    def test_refuses_what_is_no_name(self, leases, name):
        with pytest.raises(InvalidInput):
            leases.acquire(name, "a", 60)

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf"), 1e9])
    def test_refuses_what_is_no_time(self, leases, ttl_s):
        with pytest.raises(InvalidInput):
            leases.acquire("r1", "a", ttl_s)


class TestRenew:
    def test_keeps_it(self, leases):
        lease = leases.acquire("r1", "a", 60)
        leases.renew(lease, 60)
        assert leases.current("r1") == lease

    def test_is_too_late_once_it_expired(self, leases, expire):
        lease = leases.acquire("r1", "a", 60)
        expire("r1")
        assert leases.current("r1") is None
        with pytest.raises(LeaseLost, match="a no longer holds the lease of 'r1'"):
            leases.renew(lease, 60)
        assert leases.current("r1") is None

    def test_does_not_take_it_from_another(self, leases, expire):
        late = leases.acquire("r1", "a", 60)
        expire("r1")
        current = leases.acquire("r1", "b", 60)
        with pytest.raises(LeaseLost):
            leases.renew(late, 60)
        assert leases.current("r1") == current

    def test_is_refused_to_who_made_a_lease_up(self, leases):
        real = leases.acquire("r1", "a", 60)
        for made_up in (Lease("r1", "b", real.token), Lease("r1", "a", real.token + 1), Lease("r2", "a", real.token)):
            with pytest.raises(LeaseLost):
                leases.renew(made_up, 60)


class TestRelease:
    def test_may_be_said_twice(self, leases):
        lease = leases.acquire("r1", "a", 60)
        leases.release(lease)
        leases.release(lease)
        assert leases.current("r1") is None

    def test_is_lost_once_it_expired(self, leases, expire):
        lease = leases.acquire("r1", "a", 60)
        expire("r1")
        with pytest.raises(LeaseLost):
            leases.release(lease)

    def test_does_not_end_the_lease_of_another(self, leases):
        late = leases.acquire("r1", "a", 60)
        leases.release(late)
        current = leases.acquire("r1", "b", 60)
        with pytest.raises(LeaseLost):
            leases.release(late)
        assert leases.current("r1") == current


class TestTime:
    @pytest.fixture(params=["memory", "redis"])
    def leases(self, request: pytest.FixtureRequest, places: Places) -> Leases:
        return MemoryLeases() if request.param == "memory" else RedisLeases(places.redis(), places.prefix())

    def test_ends_a_lease_that_nobody_renews(self, leases):
        lease = leases.acquire("r1", "a", 0.05)
        eventually(lambda: leases.current("r1") is None)
        with pytest.raises(LeaseLost):
            leases.renew(lease, 1)

    def test_is_given_anew_by_renewing(self, leases):
        lease = leases.acquire("r1", "a", 0.05)
        leases.renew(lease, 60)
        other = leases.acquire("r2", "a", 0.06)
        eventually(lambda: leases.current("r2") is None)
        assert other and leases.current("r1") == lease


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_leases_are_held_by_one_and_tokens_grow_in_any_history(implementation, places):
    class Histories(RuleBasedStateMachine):
        @initialize()
        def open(self) -> None:
            self.leases, self.expire = IMPLEMENTATIONS[implementation](places)
            self.held: dict[str, Lease] = {}
            self.all: list[Lease] = []

        @rule(name=st.sampled_from(["r1", "r2"]), holder=st.sampled_from(["a", "b"]))
        def acquire(self, name: str, holder: str) -> None:
            lease = self.leases.acquire(name, holder, 60)
            assert (lease is None) == (name in self.held)
            if lease is not None:
                assert all(lease.token > old.token for old in self.all if old.name == name)
                self.held[name] = lease
                self.all.append(lease)

        @rule(which=st.integers(0, 100), is_release=st.booleans())
        def renew_or_release(self, which: int, is_release: bool) -> None:
            if not self.all:
                return
            lease = self.all[which % len(self.all)]
            if self.held.get(lease.name) == lease:
                self.leases.renew(lease, 60)
                if is_release:
                    self.leases.release(lease)
                    del self.held[lease.name]
            else:
                with pytest.raises(LeaseLost):
                    self.leases.renew(lease, 60)

        @rule()
        def let_time_pass(self) -> None:
            for name in list(self.held):
                self.expire(name)
            self.held.clear()

        @invariant()
        def names_the_holder(self) -> None:
            for name in ("r1", "r2"):
                assert self.leases.current(name) == self.held.get(name)

    run_state_machine_as_test(Histories, settings=settings(max_examples=25, stateful_step_count=15))


class TestRedisLeases:
    def test_give_growing_tokens_even_if_the_server_has_forgotten_everything(self, places):
        client, prefix = places.redis(), places.prefix()
        leases = RedisLeases(client, prefix)
        for _ in range(5):
            before = leases.acquire("r1", "a", 60)
            leases.release(before)

        def larger() -> Lease | None:
            client.delete(lease_key(prefix, "r1"))
            lease = leases.acquire("r1", "b", 60)
            return lease if lease.token > before.token else None

        # tokens are milliseconds, and the first five may have come within one
        assert eventually(larger, within_s=2) == leases.current("r1")

    def test_end_with_a_holder_that_was_killed(self, places, valkey_url, start_python):
        prefix = places.prefix()
        holds = (
            "import sys\n"
            "from fashiondpo.storage.redis_connection import connect\n"
            "from fashiondpo.storage.redis_leases import RedisLeases\n"
            "print(RedisLeases(connect(sys.argv[1]), sys.argv[2]).acquire('r1', 'a', 0.3).token, flush=True)\n"
            "sys.stdin.read()\n"
        )
        holder = start_python(holds, valkey_url, prefix)
        token = int(holder.stdout.readline())
        holder.kill()
        leases = RedisLeases(connect(valkey_url), prefix)
        assert eventually(lambda: leases.acquire("r1", "b", 60)).token > token
