"""Redis is killed, hangs, is full, or its answers get lost: nothing accepted is lost, and nothing is done twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from uuid import uuid4

import pytest
import redis
from structlog.testing import capture_logs

from fashiondpo.contracts import PreferencePair
from fashiondpo.errors import InvalidInput, LeaseLost, Unavailable
from fashiondpo.messages import Vote
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.idempotency import New
from fashiondpo.storage.redis_connection import (
    connect,
    durability_problems,
    redis_problem,
    warn_of_lost_records,
    without_password,
)
from fashiondpo.storage.redis_idempotency import RedisIdempotency
from fashiondpo.storage.redis_stores import redis_stores
from fashiondpo.storage.stores import Stores
from fashiondpo.storage.traffic import Provenance
from tests.lossy_proxy import LossyProxy
from tests.polling import eventually
from tests.protocols.small_adapters import publish
from tests.protocols.small_records import make_round, make_score, make_set
from tests.protocols.test_fenced_stores import everything
from tests.protocols.test_round_jobs import make_job
from tests.redis_server import ValkeyServer

BASE = Provenance.of(make_set())


def hurried(url: str) -> redis.Redis:
    """A client that gives up soon."""
    return connect(url, timeout_s=0.3, retries=1)


@pytest.fixture
def stores(own_valkey: ValkeyServer) -> Iterator[Stores]:
    client = hurried(own_valkey.url)
    yield redis_stores(client, MemoryArtifacts())
    client.close()


def fill(stores: Stores) -> None:
    """Something of everything."""
    stores.jobs.open(make_job())
    stores.jobs.append_event("r1", "state", {"state": "running"})
    stores.feedback.put_round(make_round())
    stores.feedback.put_set("r1", make_set())
    stores.feedback.put_scores("s1", [make_score("s1-0")])
    stores.feedback.put_pairs("r1", [PreferencePair(set_id="s1", chosen=0, rejected=1, margin=1)])
    for round_id in ("r0", "r1"):
        publish(stores.adapters, round_id)
    stores.adapters.activate(1)
    stores.adapters.activate(2)
    for set_id in ("t1", "t2", "t3", "t4"):
        stores.traffic.add(make_set(set_id))
    stores.traffic.claim_recorded("w", 3)
    stores.traffic.mark_scored("w", ["t1", "t2"])
    stores.traffic.claim_scored("r1", 1, BASE)


class TestKilledServer:
    def test_has_everything_that_was_acknowledged_after_a_restart(self, own_valkey, stores):
        fill(stores)
        stores.votes.put(make_set(), "a", [Vote(candidate_id="s1-0", value=1)])
        new = stores.idempotency.begin("k", "f", 600)
        stores.idempotency.finish(new, 202, "body")
        lease = stores.leases.acquire("r1", "a", 600)
        before = everything(stores), stores.traffic.pending("r1"), stores.votes.tally(make_set())
        own_valkey.restart()
        assert (everything(stores), stores.traffic.pending("r1"), stores.votes.tally(make_set())) == before
        assert stores.idempotency.begin("k", "f", 600).body == "body"
        stores.leases.renew(lease, 600)
        stores.leases.release(lease)
        assert stores.leases.acquire("r1", "b", 600).token > lease.token

    def test_loses_no_acknowledged_write_of_the_moment_in_which_it_was_killed(self, own_valkey, stores):
        acknowledged: list[str] = []
        is_enough, has_failed = Event(), Event()

        def put_on_and_on() -> None:
            try:
                for i in range(100_000):
                    stores.feedback.put_set("r1", make_set(f"s{i}"))
                    acknowledged.append(f"s{i}")
                    if i == 50:
                        is_enough.set()
            except Unavailable:
                has_failed.set()

        writer = Thread(target=put_on_and_on)
        writer.start()
        assert is_enough.wait(30)
        own_valkey.kill9()
        writer.join(30)
        assert has_failed.is_set()
        own_valkey.start()
        kept = stores.feedback.set_ids("r1")
        assert kept[: len(acknowledged)] == tuple(acknowledged)
        assert len(kept) - len(acknowledged) in (0, 1)  # the last one may be there although its answer was lost
        assert len(list(stores.feedback.scored_sets("r1"))) == len(kept)

    def test_is_unavailable_until_it_is_back(self, own_valkey, stores):
        stores.feedback.put_round(make_round())
        own_valkey.kill9()
        for use in (
            lambda: stores.feedback.round("r1"),
            lambda: stores.feedback.put_round(make_round(stage="judge")),
            lambda: stores.jobs.events("r1", block_s=5),
            lambda: stores.leases.acquire("r1", "a", 60),
        ):
            with pytest.raises(Unavailable, match="Redis does not answer"):
                use()
        own_valkey.start()
        assert stores.feedback.round("r1") == make_round()

    def test_knows_scripts_again_that_it_has_forgotten(self, own_valkey, stores):
        stores.feedback.put_round(make_round())
        own_valkey.restart()
        stores.feedback.put_round(make_round(stage="judge"))
        assert stores.feedback.round("r1").stage == "judge"

    def test_restarted_in_the_middle_of_everything_is_not_noticed_by_patient_clients(self, own_valkey):
        patient = redis_stores(connect(own_valkey.url, timeout_s=2, retries=8), MemoryArtifacts())
        patient.jobs.open(make_job())
        has_begun, is_done = Event(), Event()

        def count() -> None:
            for _ in range(300):
                patient.jobs.update("r1", lambda job: job.model_copy(update={"attempts": job.attempts + 1}))
                has_begun.set()
            is_done.set()

        counter = Thread(target=count)
        counter.start()
        assert has_begun.wait(20)
        own_valkey.restart()
        counter.join(60)
        assert is_done.is_set() and patient.jobs.get("r1").attempts == 300


class TestPausedServer:
    def test_is_unavailable_within_the_time_that_the_client_waits_and_works_again_afterwards(self, own_valkey, stores):
        fill(stores)
        before = everything(stores)
        own_valkey.pause()
        started = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            stores.feedback.put_round(make_round(stage="judge"))
        assert time.monotonic() - started < 10
        own_valkey.resume()
        stores.feedback.put_round(make_round())  # whichever of the two came first, the newest counts
        assert eventually(lambda: everything(stores) == before)

    def test_ends_leases_whose_holders_could_not_renew_them(self, own_valkey, stores):
        lease = stores.leases.acquire("r1", "a", 0.2)
        own_valkey.pause()
        with pytest.raises(Unavailable):
            stores.leases.renew(lease, 0.2)
        own_valkey.resume()
        eventually(lambda: stores.leases.current("r1") is None)
        with pytest.raises(LeaseLost):
            stores.fenced(lease).feedback.put_round(make_round())

    def test_keeps_no_idempotency_key_for_a_client_that_has_given_up(self, own_valkey):
        keys = RedisIdempotency(hurried(own_valkey.url), unconfirmed_s=1.0)
        keys.begin("other", "f", 60)  # so that the connection is there, and the server knows the script
        own_valkey.pause()
        with pytest.raises(Unavailable):
            keys.begin("k", "f", 60)
        own_valkey.resume()
        assert eventually(lambda: isinstance(keys.begin("k", "f", 60), New))

    def test_is_named_by_the_readiness_check(self, own_valkey):
        client = hurried(own_valkey.url)
        assert redis_problem(client) is None
        own_valkey.pause()
        assert "does not answer" in redis_problem(client)
        own_valkey.resume()
        assert redis_problem(client) is None


class TestFullServer:
    def test_refuses_writes_for_now_and_keeps_what_it_has(self, own_valkey, stores):
        fill(stores)
        before = everything(stores)
        client = hurried(own_valkey.url)
        client.config_set("maxmemory", 1)
        for write in (
            lambda: stores.feedback.put_round(make_round(stage="judge")),
            lambda: stores.traffic.add(make_set("t9")),
            lambda: stores.jobs.append_event("r1", "state", {}),
        ):
            with pytest.raises(Unavailable, match=r"cannot do this now: .* used memory"):
                write()
        client.config_set("maxmemory", 0)
        assert everything(stores) == before

    def test_that_would_lose_records_is_told_apart(self, own_valkey):
        client = hurried(own_valkey.url)
        assert durability_problems(client) == ()
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        assert [problem.split()[0] for problem in durability_problems(client)] == ["appendonly", "maxmemory-policy"]
        with capture_logs() as lines:
            warn_of_lost_records(client)
        assert [line["event"] for line in lines] == ["records_may_be_lost"] * 2

    def test_that_does_not_answer_is_not_warned_of(self, own_valkey):
        client = hurried(own_valkey.url)
        own_valkey.kill9()
        with capture_logs() as lines:
            warn_of_lost_records(client)
        assert lines == []


# What is done and answered, and what must be there afterwards, however often the client has sent it. How many sets an
# answer counts is no matter: what was done the first time is not counted again.
Deed = tuple[Callable[[Stores], object], Callable[[Stores], object], object]
DEEDS: dict[str, Deed] = {
    "acquire": (lambda s: s.leases.acquire("r9", "a", 60).holder, lambda s: s.leases.current("r9").holder, "a"),
    "put_round": (lambda s: s.feedback.put_round(make_round("r9")), lambda s: s.feedback.round_ids(), ("r1", "r9")),
    "put_set": (lambda s: s.feedback.put_set("r1", make_set("s2")), lambda s: s.feedback.set_ids("r1"), ("s1", "s2")),
    "put_scores": (
        lambda s: s.feedback.put_scores("s1", [make_score("s1-1", 2.0)]),
        lambda s: [score.value for score in s.feedback.scored("s1").scores],
        [1.0, 2.0],
    ),
    "publish": (lambda s: publish(s.adapters, "r9", 1).version, lambda s: s.adapters.versions(), (1, 2, 3)),
    "activate": (lambda s: s.adapters.activate(1), lambda s: len(s.adapters.alias_history()), 3),
    "rollback": (lambda s: s.adapters.rollback(), lambda s: len(s.adapters.alias_history()), 3),
    "open": (
        lambda s: s.jobs.open(make_job("r9")).number,
        lambda s: s.jobs.open(make_job("r10")).number,
        3,
    ),
    "update": (
        lambda s: s.jobs.update("r1", lambda job: job.model_copy(update={"attempts": job.attempts + 1})).attempts,
        lambda s: s.jobs.get("r1").attempts,
        1,
    ),
    "append_event": (lambda s: s.jobs.append_event("r1", "state", {}).kind, lambda s: len(s.jobs.events("r1")), 2),
    "add": (lambda s: s.traffic.add(make_set("t9")), lambda s: s.traffic.waiting(), 2),
    "claim": (
        lambda s: [entry.set_id for entry in s.traffic.claim_scored("r2", 1, BASE)],
        lambda s: [entry.set_id for entry in s.traffic.pending("r2")],
        ["t2"],
    ),
    "mark_scored": (
        lambda s: s.traffic.mark_scored("w", ["t3"]) and None,
        lambda s: s.traffic.backlogs()[0].waiting,
        2,
    ),
    "acknowledge": (
        lambda s: s.traffic.acknowledge("r1", ["t1"]) and None,
        lambda s: s.traffic.backlogs()[0].claimed,
        0,
    ),
    "give_back": (lambda s: s.traffic.give_back("r1") and None, lambda s: s.traffic.backlogs()[0].waiting, 2),
    "begin": (lambda s: isinstance(s.idempotency.begin("k", "f", 60), New), lambda _: True, True),
    "vote": (
        lambda s: s.votes.put(make_set(), "a", [Vote(candidate_id="s1-0", value=1)]).voters,
        lambda s: s.votes.tally(make_set()).voters,
        1,
    ),
}


class TestLostAnswers:
    @pytest.mark.parametrize("deed", DEEDS)
    def test_do_not_make_anything_happen_twice(self, deed, valkey_url):
        do, look, expected = DEEDS[deed]
        direct = connect(valkey_url)
        knows_the_scripts = redis_stores(direct, MemoryArtifacts(), f"test-{uuid4().hex}")
        fill(knows_the_scripts)
        answer = do(knows_the_scripts) or None
        with LossyProxy(direct.get_connection_kwargs()["port"]) as proxy:
            for lost in range(100):
                artifacts, prefix = MemoryArtifacts(), f"test-{uuid4().hex}"
                directly = redis_stores(direct, artifacts, prefix)
                fill(directly)
                client = connect(proxy.url, timeout_s=5, retries=2)
                client.ping()
                proxy.lose_an_answer(after=lost)
                assert (do(redis_stores(client, artifacts, prefix)) or None) == answer
                assert look(directly) == expected
                if not proxy.has_lost_one:
                    break
            assert lost, "the deed had no answers that could be lost"


class TestConnect:
    @pytest.mark.parametrize("url", ["", "localhost", "http://localhost:6379", "redis://localhost:port"])
    def test_refuses_what_is_no_url_of_a_server(self, url):
        with pytest.raises(InvalidInput, match="no URL of a Redis server"):
            connect(url)

    def test_tells_nobody_the_password(self):
        assert without_password("redis://user:secret@host:6379/1") == "redis://host:6379/1"
        with pytest.raises(InvalidInput) as caught:
            connect("https://user:secret@host")
        assert "secret" not in str(caught.value)

    def test_opens_nothing_before_it_is_used(self):
        client = connect("redis://127.0.0.1:1/0", timeout_s=0.1, retries=0)
        assert "does not answer" in redis_problem(client)
