"""Records of generations, in this process and in Redis: one suite for both."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from fashiondpo.errors import NotFound, Unavailable
from fashiondpo.messages import GenerateRequest, Generation, Problem
from fashiondpo.storage.redis_connection import connect
from services.generator.generation_records import GenerationRecord, MemoryGenerationRecords
from services.generator.redis_generation_records import RedisGenerationRecords
from tests.polling import eventually

REQUEST = GenerateRequest.model_validate(
    {"outfits": [{"user_id": 1, "slots": [{"item_id": 1}, {"category_id": 2}], "set_id": "s", "seeds": [[1]]}]}
)
PROBLEM = Problem(title="Service Unavailable", status=503, detail="no time", code="deadline_exceeded")


def record(name: str = "g1", status: str = "queued", **more) -> GenerationRecord:
    problem = PROBLEM if status in ("failed", "cancelled") else None
    generation = Generation(
        generation_id=name,
        status=status,
        created_at="2026-01-01T00:00:00+00:00",
        base_digest="a" * 64,
        rows_per_forward=7,
        problem=problem,
    )
    return GenerationRecord(owner="ann", generation=generation, **more)


@pytest.fixture(params=["memory", "redis"])
def records_with(request):
    """Records whose claims run out after so many seconds."""
    if request.param == "memory":
        return lambda claim_s: MemoryGenerationRecords(kept=5, claim_s=claim_s)
    client, prefix = connect(request.getfixturevalue("valkey_url")), request.getfixturevalue("redis_prefix")
    return lambda claim_s: RedisGenerationRecords(client, prefix, kept_s=60, claim_s=claim_s)


@pytest.fixture
def records(records_with):
    return records_with(30.0)


class TestGenerationRecords:
    def test_what_was_accepted_can_be_read(self, records):
        assert records.accept(record(request=REQUEST))
        assert records.get("g1") == record(request=REQUEST)

    def test_what_was_never_accepted_is_not_found(self, records):
        with pytest.raises(NotFound, match="'g1'"):
            records.get("g1")

    def test_a_name_is_accepted_once(self, records):
        assert records.accept(record(request=REQUEST))
        assert not records.accept(record(attempts=2))
        assert records.get("g1").attempts == 1

    def test_of_many_who_want_a_name_at_once_one_gets_it(self, records):
        with ThreadPoolExecutor(8) as pool:
            accepted = list(pool.map(lambda i: records.accept(record(attempts=i)), range(1, 21)))
        assert accepted.count(True) == 1

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_what_has_failed_may_be_tried_again(self, records, status):
        records.accept(record())
        records.finish(record(status=status))
        assert records.accept(record(attempts=2))
        assert records.get("g1").attempts == 2

    def test_what_has_succeeded_stays(self, records):
        records.accept(record())
        records.finish(record(status="succeeded"))
        assert not records.accept(record(attempts=2))
        assert records.get("g1").generation.status == "succeeded"

    def test_an_end_may_be_recorded_without_a_beginning(self, records):
        records.finish(record(status="succeeded"))
        assert records.get("g1").generation.status == "succeeded"

    def test_what_was_discarded_is_gone(self, records):
        records.accept(record(request=REQUEST))
        records.discard("g1")
        records.discard("g1")
        with pytest.raises(NotFound):
            records.get("g1")

    def test_renewing_says_how_far_it_is(self, records):
        records.accept(record(request=REQUEST))
        assert records.renew([record(status="running", request=REQUEST)]) == frozenset()
        assert records.get("g1").generation.status == "running"

    def test_renewing_tells_of_a_wish_to_stop(self, records):
        records.accept(record("g1"))
        records.accept(record("g2"))
        records.ask_to_stop("g1")
        assert records.renew([record("g1"), record("g2")]) == {"g1"}

    def test_renewing_does_not_bring_back_what_has_ended(self, records):
        records.accept(record())
        records.finish(record(status="succeeded"))
        records.renew([record(status="running")])
        assert records.get("g1").generation.status == "succeeded"

    def test_a_wish_to_stop_ends_with_the_generation(self, records):
        records.accept(record())
        records.ask_to_stop("g1")
        records.finish(record(status="cancelled"))
        records.accept(record(attempts=2))
        assert records.renew([record(attempts=2)]) == frozenset()


class TestClaims:
    def test_are_taken_over_when_they_run_out(self, records_with):
        records = records_with(0.05)
        records.accept(record(request=REQUEST))
        assert eventually(lambda: records.take_over(10)) == (record(request=REQUEST),)

    def test_are_not_taken_over_before(self, records):
        records.accept(record(request=REQUEST))
        assert records.take_over(10) == ()

    def test_that_were_taken_over_are_not_taken_over_again(self, records):
        records.accept(record(request=REQUEST))
        records.release(["g1"])
        taken = [records.take_over(10) for _ in range(3)]
        assert [len(some) for some in taken] == [1, 0, 0]

    def test_that_were_released_are_taken_over_at_once(self, records):
        records.accept(record(request=REQUEST))
        records.release(["g1", "unknown"])
        assert records.take_over(10) == (record(request=REQUEST),)

    def test_are_handed_to_one_of_many_takers(self, records):
        for i in range(4):
            records.accept(record(f"g{i}", request=REQUEST))
        records.release([f"g{i}" for i in range(4)])
        with ThreadPoolExecutor(8) as pool:
            taken = [r.generation_id for some in pool.map(lambda _: records.take_over(4), range(16)) for r in some]
        assert sorted(taken) == ["g0", "g1", "g2", "g3"]

    def test_of_what_has_ended_are_nobodys(self, records):
        records.accept(record(request=REQUEST))
        records.finish(record(status="succeeded"))
        records.release(["g1"])
        assert records.take_over(10) == ()


class TestMemory:
    def test_forgets_the_oldest_that_have_ended_and_never_what_has_not(self):
        records = MemoryGenerationRecords(kept=2, claim_s=30)
        records.accept(record("open"))
        for i in range(5):
            records.finish(record(f"g{i}", "succeeded"))
        with pytest.raises(NotFound):
            records.get("g2")
        assert [records.get(name).generation_id for name in ("open", "g3", "g4")] == ["open", "g3", "g4"]


class TestRedis:
    def test_that_does_not_answer_is_unavailable(self):
        records = RedisGenerationRecords(connect("redis://127.0.0.1:1/0", retries=0), kept_s=60, claim_s=5)
        for call in (lambda: records.get("g1"), lambda: records.accept(record()), lambda: records.take_over(1)):
            with pytest.raises(Unavailable):
                call()
