"""What the way of recorded sets promises, wherever it is kept: nothing is lost, nothing is handed to two."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fashiondpo.contracts import AdapterRef
from fashiondpo.errors import InvalidInput
from fashiondpo.storage.redis_connection import connect
from fashiondpo.storage.redis_traffic import RedisTraffic
from fashiondpo.storage.traffic import Backlog, MemoryTraffic, Provenance, Traffic, TrafficEntry
from tests.protocols.places import Places
from tests.protocols.small_records import make_adapter, make_set

# Each makes an empty way.
IMPLEMENTATIONS: dict[str, Callable[[Places], Traffic]] = {
    "memory": lambda _: MemoryTraffic(),
    "redis": lambda places: RedisTraffic(places.redis(), places.prefix()),
}
BASE = Provenance.of(make_set())
FIRST = Provenance.of(make_set(adapter_version=1))


@pytest.fixture(params=IMPLEMENTATIONS)
def traffic(request: pytest.FixtureRequest, places: Places) -> Traffic:
    return IMPLEMENTATIONS[request.param](places)


@pytest.fixture
def let_time_pass(traffic: Traffic) -> Callable[[], None]:
    """Let a quarter of an hour pass for whoever holds something."""

    def in_redis() -> None:
        client = traffic._client
        for stream in client.scan_iter(f"{traffic._prefix}:traffic-*", _type="stream"):
            for held in client.xpending_range(stream, "takers", "-", "+", 100):
                client.xclaim(stream, "takers", held["consumer"], 0, [held["message_id"]], idle=900_000, justid=True)

    def in_memory() -> None:
        traffic._clock = lambda then=traffic._clock: then() + 900

    return in_memory if isinstance(traffic, MemoryTraffic) else in_redis


def names(entries: tuple[TrafficEntry, ...]) -> list[str]:
    return [entry.set_id for entry in entries]


def add(traffic: Traffic, *set_ids: str, adapter_version: int = 0) -> None:
    for set_id in set_ids:
        traffic.add(make_set(set_id, adapter_version=adapter_version))


def add_scored(traffic: Traffic, *set_ids: str, adapter_version: int = 0) -> None:
    add(traffic, *set_ids, adapter_version=adapter_version)
    traffic.claim_recorded("judge", 1000)
    traffic.mark_scored("judge", set_ids)


class TestProvenance:
    def test_is_the_same_for_sets_that_a_round_can_learn_from_together(self):
        assert Provenance.of(make_set("s1")) == Provenance.of(make_set("s2", candidates=5))

    def test_differs_with_adapter_sampler_and_base_model(self):
        other_base = make_set().model_copy(update={"base_digest": "0" * 64})
        made = [make_set(), make_set(adapter_version=1), make_set(category_scale=7.5), other_base]
        assert len(set(map(Provenance.of, made))) == 4

    def test_names_the_adapter(self):
        assert BASE.adapter == AdapterRef() and FIRST.adapter == make_adapter(1)


class TestRecordedSets:
    def test_wait_for_the_judges_oldest_first(self, traffic):
        add(traffic, "s3", "s1", "s2")
        assert traffic.waiting() == 3
        assert names(traffic.claim_recorded("w", 2)) == ["s3", "s1"]
        assert traffic.waiting() == 1

    def test_say_what_made_them(self, traffic):
        add(traffic, "s1", adapter_version=1)
        assert traffic.claim_recorded("w", 1) == (TrafficEntry(set_id="s1", made_by=FIRST),)

    def test_are_on_their_way_once_however_often_they_are_added(self, traffic):
        add(traffic, "s1", "s1")
        traffic.claim_recorded("w", 5)
        add(traffic, "s1")
        traffic.mark_scored("w", ["s1"])
        add(traffic, "s1")
        assert traffic.waiting() == 0 and traffic.backlogs() == (Backlog(BASE, 1, 0),)

    def test_are_handed_to_one_consumer_each(self, traffic):
        add(traffic, "s1", "s2", "s3")
        assert names(traffic.claim_recorded("a", 2)) == ["s1", "s2"]
        assert names(traffic.claim_recorded("b", 2)) == ["s3"]
        assert traffic.claim_recorded("c", 2) == ()

    def test_that_a_consumer_holds_come_first_when_it_claims_again(self, traffic):
        add(traffic, "s1", "s2", "s3")
        traffic.claim_recorded("w", 2)
        assert names(traffic.claim_recorded("w", 2)) == ["s1", "s2"]
        assert names(traffic.claim_recorded("w", 3)) == ["s1", "s2", "s3"]
        assert names(traffic.claim_recorded("w", 1)) == ["s1"]

    def test_are_handed_out_once_among_many(self, traffic, busy_threads):
        add(traffic, *(f"s{i}" for i in range(40)))
        with ThreadPoolExecutor(8) as pool:
            claimed = list(pool.map(lambda i: names(traffic.claim_recorded(f"w{i}", 5)), range(8)))
        assert sorted(set_id for set_ids in claimed for set_id in set_ids) == sorted(f"s{i}" for i in range(40))

    def test_of_a_silent_consumer_can_be_taken_over(self, traffic, let_time_pass):
        add(traffic, "s1", "s2")
        traffic.claim_recorded("dead", 1)
        assert names(traffic.claim_recorded("w", 5, idle_s=600)) == ["s2"]
        let_time_pass()
        assert names(traffic.claim_recorded("w", 5, idle_s=600)) == ["s2", "s1"]
        assert traffic.pending("dead") == () and traffic.mark_scored("dead", ["s1"]) == 0
        assert traffic.mark_scored("w", ["s1", "s2"]) == 2

    def test_of_a_consumer_that_claims_again_are_not_taken_over(self, traffic, let_time_pass):
        add(traffic, "s1", "s2")
        traffic.claim_recorded("slow", 1)
        traffic.claim_recorded("dead", 2)
        let_time_pass()
        traffic.claim_recorded("slow", 1)
        assert names(traffic.claim_recorded("w", 5, idle_s=600)) == ["s2"]
        assert names(traffic.pending("slow")) == ["s1"]

    def test_are_not_taken_over_unless_that_is_asked_for(self, traffic, let_time_pass):
        add(traffic, "s1")
        traffic.claim_recorded("slow", 1)
        let_time_pass()
        assert traffic.claim_recorded("w", 5) == ()

    def test_wait_again_after_they_were_given_back(self, traffic):
        add(traffic, "s1", "s2", "s3")
        traffic.claim_recorded("w", 2)
        assert traffic.give_back("w") == 2
        assert traffic.waiting() == 3 and traffic.pending("w") == ()
        assert names(traffic.claim_recorded("v", 5)) == ["s3", "s1", "s2"]

    def test_can_be_dropped(self, traffic):
        add(traffic, "s1")
        traffic.claim_recorded("w", 1)
        assert traffic.acknowledge("w", ["s1"]) == 1
        assert traffic.waiting() == 0 and traffic.backlogs() == ()


class TestScoredSets:
    def test_wait_for_a_round_by_what_made_them(self, traffic):
        add_scored(traffic, "s1", "s2", "s3")
        add_scored(traffic, "t1", adapter_version=1)
        assert traffic.backlogs() == (Backlog(BASE, 3, 0), Backlog(FIRST, 1, 0))
        assert names(traffic.claim_scored("r1", 9, FIRST)) == ["t1"]
        assert names(traffic.claim_scored("r1", 2, BASE)) == ["s1", "s2"]
        assert traffic.backlogs() == (Backlog(BASE, 1, 2), Backlog(FIRST, 0, 1))

    def test_come_in_the_order_in_which_they_were_scored(self, traffic):
        add(traffic, "s1", "s2", "s3")
        traffic.claim_recorded("w", 3)
        assert traffic.mark_scored("w", ["s3"]) == 1 and traffic.mark_scored("w", ["s1", "s2", "s1", "s9"]) == 2
        assert names(traffic.claim_scored("r1", 9, BASE)) == ["s3", "s1", "s2"]

    def test_must_have_been_held_by_who_says_so(self, traffic):
        add(traffic, "s1", "s2")
        traffic.claim_recorded("w", 1)
        assert traffic.mark_scored("v", ["s1", "s2"]) == 0 and traffic.mark_scored("w", ["s2"]) == 0
        assert traffic.backlogs() == () and traffic.waiting() == 1

    def test_stay_with_their_round_until_it_acknowledges_them(self, traffic):
        add_scored(traffic, "s1", "s2", "s3")
        traffic.claim_scored("r1", 2, BASE)
        assert names(traffic.claim_scored("r1", 2, BASE)) == names(traffic.pending("r1")) == ["s1", "s2"]
        assert traffic.acknowledge("r2", ["s1"]) == 0
        assert traffic.acknowledge("r1", ["s1", "s2", "s3"]) == 2
        assert traffic.acknowledge("r1", ["s1", "s2", "s3"]) == 0
        assert traffic.pending("r1") == () and traffic.backlogs() == (Backlog(BASE, 1, 0),)

    def test_wait_for_another_round_after_they_were_given_back(self, traffic):
        add_scored(traffic, "s1", "s2")
        add_scored(traffic, "t1", adapter_version=1)
        traffic.claim_scored("r1", 9, BASE)
        traffic.claim_scored("r1", 9, FIRST)
        assert traffic.give_back("r1") == 3 and traffic.give_back("r1") == 0
        assert names(traffic.claim_scored("r2", 9, BASE)) == ["s1", "s2"]

    def test_of_a_round_that_is_silent_can_be_taken_over(self, traffic, let_time_pass):
        add_scored(traffic, "s1")
        traffic.claim_scored("r1", 1, BASE)
        assert traffic.claim_scored("r2", 1, BASE, idle_s=600) == ()
        let_time_pass()
        assert names(traffic.claim_scored("r2", 1, BASE, idle_s=600)) == ["s1"]

    def test_that_nobody_can_use_any_more_are_discarded(self, traffic):
        add_scored(traffic, "s1", "s2", "s3")
        add_scored(traffic, "t1", adapter_version=1)
        traffic.claim_scored("r1", 1, BASE)
        assert traffic.discard(BASE) == 2 and traffic.discard(BASE) == 0
        assert names(traffic.pending("r1")) == ["s1"]
        assert traffic.backlogs() == (Backlog(FIRST, 1, 0), Backlog(BASE, 0, 1))

    def test_are_none_of_a_provenance_that_never_was(self, traffic):
        assert traffic.claim_scored("r1", 5, BASE) == () and traffic.discard(BASE) == 0
        assert traffic.pending("r1") == () and traffic.give_back("r1") == 0


class TestNames:
    @pytest.mark.parametrize("name", ["", "../w", "a b", "a:b"])
    def test_that_cannot_be_are_refused(self, traffic, name):
        uses = (
            lambda: traffic.claim_recorded(name, 1),
            lambda: traffic.claim_scored(name, 1, BASE),
            lambda: traffic.mark_scored(name, []),
            lambda: traffic.mark_scored("w", [name]),
            lambda: traffic.acknowledge(name, []),
            lambda: traffic.give_back(name),
            lambda: traffic.pending(name),
            lambda: traffic.add(make_set().model_copy(update={"set_id": name})),
        )
        for use in uses:
            with pytest.raises(InvalidInput):
                use()

    @pytest.mark.parametrize("count", [-1, 100_001])
    def test_counts_that_cannot_be_are_refused(self, traffic, count):
        with pytest.raises(InvalidInput):
            traffic.claim_recorded("w", count)


SET_IDS = st.sampled_from([f"s{i}" for i in range(6)])
CONSUMERS = st.sampled_from(["a", "b"])
VERSIONS = st.integers(0, 1)


def test_redis_does_what_memory_does_in_any_history(places):
    class Histories(RuleBasedStateMachine):
        @initialize()
        def open(self) -> None:
            self.both = [open_one(places) for open_one in IMPLEMENTATIONS.values()]
            self.version_of: dict[str, int] = {}

        def alike(self, use: Callable[[Traffic], object]) -> None:
            in_memory, in_redis = map(use, self.both)
            assert in_memory == in_redis

        @rule(set_id=SET_IDS, version=VERSIONS)
        def add(self, set_id: str, version: int) -> None:
            made = make_set(set_id, adapter_version=self.version_of.setdefault(set_id, version))
            self.alike(lambda traffic: traffic.add(made))

        @rule(consumer=CONSUMERS, count=st.integers(0, 4))
        def claim_recorded(self, consumer: str, count: int) -> None:
            self.alike(lambda traffic: traffic.claim_recorded(consumer, count))

        @rule(consumer=CONSUMERS, count=st.integers(0, 4), made_by=st.sampled_from([BASE, FIRST]))
        def claim_scored(self, consumer: str, count: int, made_by: Provenance) -> None:
            self.alike(lambda traffic: traffic.claim_scored(consumer, count, made_by))

        @rule(consumer=CONSUMERS, set_ids=st.lists(SET_IDS))
        def mark_scored(self, consumer: str, set_ids: list[str]) -> None:
            self.alike(lambda traffic: traffic.mark_scored(consumer, set_ids))

        @rule(consumer=CONSUMERS, set_ids=st.lists(SET_IDS))
        def acknowledge(self, consumer: str, set_ids: list[str]) -> None:
            self.alike(lambda traffic: traffic.acknowledge(consumer, set_ids))

        @rule(consumer=CONSUMERS)
        def give_back(self, consumer: str) -> None:
            self.alike(lambda traffic: traffic.give_back(consumer))

        @rule(made_by=st.sampled_from([BASE, FIRST]))
        def discard(self, made_by: Provenance) -> None:
            self.alike(lambda traffic: traffic.discard(made_by))

        @invariant()
        def agree(self) -> None:
            self.alike(lambda traffic: (traffic.waiting(), traffic.backlogs()))
            for consumer in ("a", "b"):
                self.alike(lambda traffic, consumer=consumer: sorted(names(traffic.pending(consumer))))

    run_state_machine_as_test(Histories, settings=settings(max_examples=40, stateful_step_count=25))


class TestRedisTraffic:
    def test_leaves_nothing_behind_when_everything_was_acknowledged(self, places):
        client, prefix = places.redis(), places.prefix()
        traffic = RedisTraffic(client, prefix)
        for i in range(20):
            add_scored(traffic, f"s{i}", adapter_version=i % 3)
        for backlog in traffic.backlogs():
            traffic.acknowledge("r1", names(traffic.claim_scored("r1", 100, backlog.made_by)))
        assert list(client.scan_iter(f"{prefix}:*")) == []

    def test_keeps_no_consumer_that_holds_nothing(self, places):
        client, prefix = places.redis(), places.prefix()
        traffic = RedisTraffic(client, prefix)
        add(traffic, "s1", "s2")
        for i in range(5):
            traffic.claim_recorded(f"w{i}", 1)
            traffic.give_back(f"w{i}")
        traffic.claim_recorded("holds", 1)
        consumers = client.xinfo_consumers(f"{prefix}:traffic-recorded", "takers")
        assert [consumer["name"] for consumer in consumers] == ["holds"]

    def test_hands_a_set_to_one_of_several_processes(self, places, valkey_url, start_python):
        prefix = places.prefix()
        traffic = RedisTraffic(connect(valkey_url), prefix)
        add(traffic, *(f"s{i}" for i in range(60)))
        works = (
            "import sys\n"
            "from fashiondpo.storage.redis_connection import connect\n"
            "from fashiondpo.storage.redis_traffic import RedisTraffic\n"
            "traffic = RedisTraffic(connect(sys.argv[1]), sys.argv[2])\n"
            "while claimed := traffic.claim_recorded(sys.argv[3], 3):\n"
            "    set_ids = [entry.set_id for entry in claimed]\n"
            "    assert traffic.mark_scored(sys.argv[3], set_ids) == len(set_ids)\n"
        )
        running = [start_python(works, valkey_url, prefix, name) for name in "ab"]
        assert [process.wait(60) for process in running] == [0, 0]
        assert traffic.backlogs() == (Backlog(BASE, 60, 0),)
