"""Whoever has lost a lease changes nothing any more, wherever things are kept."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

import pytest

from fashiondpo.contracts import PreferencePair, RoundRecord
from fashiondpo.errors import Conflict, LeaseLost, NotFound
from fashiondpo.pipeline import RoundParts, run_round
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.redis_stores import redis_stores
from fashiondpo.storage.stores import Stores, memory_stores
from fashiondpo.storage.traffic import Provenance
from tests.protocols.places import Places
from tests.protocols.small_adapters import publish
from tests.protocols.small_records import make_round, make_score, make_set
from tests.protocols.test_round_jobs import make_job

# Each makes empty stores.
IMPLEMENTATIONS: dict[str, Callable[[Places], Stores]] = {
    "memory": lambda _: memory_stores(),
    "redis": lambda places: redis_stores(places.redis(), MemoryArtifacts(), places.prefix()),
}

# What a holder may do: a name, and how.
WRITES: dict[str, Callable[[Stores], object]] = {
    "put_round": lambda s: s.feedback.put_round(make_round(stage="judge")),
    "put_set": lambda s: s.feedback.put_set("r1", make_set("s2")),
    "put_scores": lambda s: s.feedback.put_scores("s1", [make_score("s1-0")]),
    "put_pairs": lambda s: s.feedback.put_pairs("r1", [PreferencePair(set_id="s1", chosen=0, rejected=1, margin=1)]),
    "publish": lambda s: publish(s.adapters, "r2", 1.0),
    "activate": lambda s: s.adapters.activate(1),
    "activate the champion": lambda s: s.adapters.activate(2),
    "rollback": lambda s: s.adapters.rollback(),
    "update": lambda s: s.jobs.update("r1", lambda job: job.model_copy(update={"attempts": 5})),
    "append_event": lambda s: s.jobs.append_event("r1", "state", {"state": "running"}),
    "remove_sets": lambda s: s.feedback.remove_sets("r1", ["s1"]),
    "remove_round": lambda s: s.feedback.remove_round("r1"),
    "remove": lambda s: s.jobs.remove("ended"),
    "traffic.add": lambda s: s.traffic.add(make_set("s9")),
    "claim_recorded": lambda s: s.traffic.claim_recorded("w", 5),
    "mark_scored": lambda s: s.traffic.mark_scored("w", ["t1"]),
    "claim_scored": lambda s: s.traffic.claim_scored("w", 5, Provenance.of(make_set())),
    "acknowledge": lambda s: s.traffic.acknowledge("w", ["t1"]),
    "give_back": lambda s: s.traffic.give_back("w"),
    "discard": lambda s: s.traffic.discard(Provenance.of(make_set())),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def stores(request: pytest.FixtureRequest, places: Places) -> Stores:
    stores = IMPLEMENTATIONS[request.param](places)
    stores.jobs.open(make_job())
    stores.jobs.open(make_job("ended"))
    stores.jobs.update("ended", lambda job: job.model_copy(update={"state": "succeeded"}))
    stores.feedback.put_round(make_round())
    stores.feedback.put_set("r1", make_set())
    for round_id in ("r0", "r1"):
        publish(stores.adapters, round_id)
    stores.adapters.activate(2)
    for set_id in ("t1", "t2"):
        stores.traffic.add(make_set(set_id))
    stores.traffic.claim_recorded("w", 1)
    return stores


def everything(stores: Stores) -> tuple[object, ...]:
    """All that a write could have changed."""
    feedback, adapters, traffic = stores.feedback, stores.adapters, stores.traffic
    try:
        pairs = feedback.pairs("r1")
    except NotFound:
        pairs = None
    return (
        feedback.round("r1"),
        list(feedback.scored_sets("r1")),
        pairs,
        adapters.versions(),
        adapters.alias_history(),
        stores.jobs.get("r1"),
        stores.jobs.page(),
        stores.jobs.unfinished(),
        stores.jobs.events("r1"),
        traffic.waiting(),
        traffic.pending("w"),
        traffic.backlogs(),
    )


def lease_of(stores: Stores, holder: str = "a") -> Lease:
    lease = stores.leases.acquire("r1", holder, 60)
    assert lease is not None
    return lease


class TestHolder:
    @pytest.mark.parametrize("write", WRITES)
    def test_may_do_everything(self, stores, write):
        WRITES[write](stores.fenced(lease_of(stores)))

    @pytest.mark.parametrize("write", WRITES)
    def test_is_refused_whatever_it_writes_once_it_let_go(self, stores, write):
        lease = lease_of(stores)
        stores.leases.release(lease)
        before = everything(stores)
        with pytest.raises(LeaseLost, match="a no longer holds the lease of 'r1'"):
            WRITES[write](stores.fenced(lease))
        assert everything(stores) == before

    @pytest.mark.parametrize("write", WRITES)
    def test_is_refused_whatever_it_writes_once_another_has_the_lease(self, stores, write):
        late = lease_of(stores)
        stores.leases.release(late)
        current = lease_of(stores, "b")
        before = everything(stores)
        with pytest.raises(LeaseLost):
            WRITES[write](stores.fenced(late))
        assert everything(stores) == before
        WRITES[write](stores.fenced(current))

    def test_still_reads_after_it_lost_the_lease(self, stores):
        lease = lease_of(stores)
        stores.leases.release(lease)
        assert everything(stores.fenced(lease)) == everything(stores)

    def test_of_another_lease_is_not_concerned(self, stores):
        stores.leases.release(lease_of(stores))
        other = stores.leases.acquire("r2", "a", 60)
        stores.fenced(other).feedback.put_round(make_round(stage="judge"))
        assert stores.feedback.round("r1").stage == "judge"

    def test_of_a_lost_lease_can_still_be_asked_to_stop_by_others(self, stores):
        lease = lease_of(stores)
        stores.leases.release(lease)
        assert stores.fenced(lease).jobs.request_cancel("r1").is_cancel_requested

    def test_gets_the_same_errors_as_everybody(self, stores):
        fenced = stores.fenced(lease_of(stores))
        with pytest.raises(Conflict, match="other weights"):
            publish(fenced.adapters, "r1", 9.0)


class TestLateTwin:
    def test_never_writes_after_the_new_holder_has(self, stores, busy_threads):
        late, has_written, refused = lease_of(stores), Event(), Event()
        fenced = stores.fenced(late)

        def write_on_and_on() -> None:
            for seed in range(100_000):
                try:
                    fenced.feedback.put_round(make_round(seed=seed))
                except LeaseLost:
                    refused.set()
                    return
                has_written.set()

        twin = Thread(target=write_on_and_on)
        twin.start()
        assert has_written.wait(20)
        stores.leases.release(late)
        stores.fenced(lease_of(stores, "b")).feedback.put_round(make_round(seed=10**6))
        twin.join(60)
        assert refused.is_set() and stores.feedback.round("r1").seed == 10**6

    def test_cannot_bring_a_round_to_its_end(self, stores):
        lease = lease_of(stores)
        fenced = stores.fenced(lease)
        record = RoundRecord(round_id="r1", seed=7, stage="pair", set_ids=())
        stores.feedback.put_round(record)
        stores.leases.release(lease)
        parts = RoundParts(
            generator=None,
            judges=(),
            trainer=None,
            gate=None,
            artifacts=fenced.artifacts,
            feedback=fenced.feedback,
            adapters=fenced.adapters,
            preferences=PreferenceSettings(),
        )
        with pytest.raises(LeaseLost):
            run_round(record, [], parts)
        assert stores.feedback.round("r1") == record


class TestRedisStores:
    def test_refuse_a_write_of_another_process_that_lost_its_lease(self, places, valkey_url, start_python):
        prefix = places.prefix()
        stores = redis_stores(places.redis(), MemoryArtifacts(), prefix)
        writes_on_and_on = (
            "import sys\n"
            "from fashiondpo.contracts import RoundRecord\n"
            "from fashiondpo.errors import LeaseLost\n"
            "from fashiondpo.storage.artifacts import MemoryArtifacts\n"
            "from fashiondpo.storage.redis_connection import connect\n"
            "from fashiondpo.storage.redis_stores import redis_stores\n"
            "stores = redis_stores(connect(sys.argv[1]), MemoryArtifacts(), sys.argv[2])\n"
            "lease = stores.leases.acquire('r1', 'late', 0.2)\n"
            "try:\n"
            "    for seed in range(1_000_000):\n"
            "        stores.fenced(lease).feedback.put_round(RoundRecord(round_id='r1', seed=seed))\n"
            "        if not seed: print('written', flush=True)\n"
            "except LeaseLost:\n"
            "    print('lost', flush=True)\n"
        )
        late = start_python(writes_on_and_on, valkey_url, prefix)
        assert late.stdout.readline() == "written\n"
        lease = None
        while lease is None:
            lease = stores.leases.acquire("r1", "next", 60)
        stores.fenced(lease).feedback.put_round(make_round(seed=10**7))
        assert late.stdout.readline() == "lost\n"
        assert stores.feedback.round("r1").seed == 10**7
