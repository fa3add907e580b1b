"""What the list of rounds as work promises, wherever it is kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fashiondpo.errors import Conflict, DataFileError, FashionDPOError, InvalidInput, NotFound
from fashiondpo.messages import Problem, RoundProgress, RoundState
from fashiondpo.storage.jobs import Edit, MemoryJobs, RoundJob, RoundJobs
from fashiondpo.storage.redis_jobs import RedisJobs
from tests.polling import eventually
from tests.protocols.places import Places

# Each makes an empty list whose rounds keep few events.
IMPLEMENTATIONS: dict[str, Callable[[Places], RoundJobs]] = {
    "memory": lambda _: MemoryJobs(kept_events=10),
    "redis": lambda places: RedisJobs(places.redis(), places.prefix(), kept_events=10),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def jobs(request: pytest.FixtureRequest, places: Places) -> RoundJobs:
    return IMPLEMENTATIONS[request.param](places)


ROUND_IDS = st.sampled_from("abcd")


def make_job(round_id: str = "r1", **fields: object) -> RoundJob:
    return RoundJob.model_validate(
        {"round_id": round_id, "source": "split", "created_at": "2026-01-01T00:00:00+00:00"} | fields
    )


def setting(**fields: object) -> Edit:
    return lambda job: job.model_copy(update=fields)


class TestOpen:
    def test_numbers_rounds_in_the_order_in_which_they_come(self, jobs):
        assert [jobs.open(make_job(round_id)).number for round_id in ("r9", "r1", "r5")] == [1, 2, 3]

    def test_keeps_everything_else_as_it_was_given(self, jobs):
        job = make_job(request={"outfits": 8, "lr": 1e-5, "deep": [{"a": None}], "name": "Größe"}, source="traffic")
        assert jobs.open(job) == job.model_copy(update={"number": 1})
        assert jobs.get("r1") == job.model_copy(update={"number": 1})

    def test_of_the_same_again_gives_the_round_as_it_is(self, jobs):
        jobs.open(make_job(request={"outfits": 8}))
        running = jobs.update("r1", setting(state="running"))
        assert jobs.open(make_job(request={"outfits": 8}, created_at="2026-02-02T00:00:00+00:00")) == running
        assert jobs.open(make_job("r2")).number == 2

    @pytest.mark.parametrize("other", [{"request": {"outfits": 9}}, {"source": "traffic"}])
    def test_of_another_round_under_the_same_id_is_a_conflict(self, jobs, other):
        first = jobs.open(make_job(request={"outfits": 8}))
        with pytest.raises(Conflict, match="use another round_id"):
            jobs.open(make_job(**({"request": {"outfits": 8}} | other)))
        assert jobs.get("r1") == first

    def test_at_once_by_many_gives_each_round_one_number(self, jobs, busy_threads):
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda i: jobs.open(make_job(f"r{i % 6}")), range(24)))
        assert {job.number for job in opened} == {1, 2, 3, 4, 5, 6}
        assert len({(job.round_id, job.number) for job in opened}) == 6

    def test_refuses_what_is_no_name_and_no_json(self, jobs):
        with pytest.raises(InvalidInput):
            jobs.open(make_job().model_copy(update={"round_id": "../r1"}))
        with pytest.raises(InvalidInput, match="JSON"):
            jobs.open(make_job().model_copy(update={"request": {"x": float("nan")}}))
        assert jobs.page().jobs == ()


class TestRemove:
    def test_forgets_a_round_with_its_events_and_leaves_the_others(self, jobs):
        for round_id in ("r1", "r2", "r3"):
            jobs.open(make_job(round_id))
            jobs.append_event(round_id, "state", {"state": "queued"})
        jobs.update("r2", setting(state="failed"))
        jobs.remove("r2")
        jobs.remove("r2")
        with pytest.raises(NotFound, match="r2"):
            jobs.get("r2")
        assert [job.round_id for job in jobs.page().jobs] == ["r3", "r1"]
        assert [job.round_id for job in jobs.unfinished()] == ["r1", "r3"]
        assert [len(jobs.events(round_id)) for round_id in ("r1", "r2", "r3")] == [1, 0, 1]

    def test_gives_no_number_again(self, jobs):
        jobs.open(make_job("r1"))
        jobs.update("r1", setting(state="cancelled"))
        jobs.remove("r1")
        assert jobs.open(make_job("r2")).number == 2

    @pytest.mark.parametrize("state", ["queued", "running"])
    def test_refuses_a_round_that_has_not_ended(self, jobs, state):
        jobs.open(make_job())
        job = jobs.update("r1", setting(state=state))
        with pytest.raises(InvalidInput, match=state):
            jobs.remove("r1")
        assert jobs.get("r1") == job


class TestUpdate:
    def test_changes_what_it_says_and_nothing_else(self, jobs):
        job = jobs.open(make_job())
        problem = Problem(title="t", status=503, detail="d", code="unavailable")
        progress = RoundProgress(stage="train", done=1, total=2, figures={"loss": 0.1 + 0.2})
        changes = {"state": "running", "attempts": 2, "problem": problem, "progress": progress}
        assert jobs.update("r1", setting(**changes)) == job.model_copy(update=changes)
        assert jobs.get("r1") == job.model_copy(update=changes)

    def test_loses_nothing_that_others_change_at_the_same_time(self, jobs, busy_threads):
        jobs.open(make_job())
        with ThreadPoolExecutor(6) as pool:
            added = pool.map(
                lambda _: jobs.update("r1", lambda job: job.model_copy(update={"attempts": job.attempts + 1})),
                range(30),
            )
            jobs.request_cancel("r1")
            assert sorted(job.attempts for job in added) == list(range(1, 31))
        job = jobs.get("r1")
        assert job.attempts == 30 and job.is_cancel_requested

    def test_that_fails_changes_nothing(self, jobs):
        job = jobs.open(make_job())

        def fails(_job: RoundJob) -> RoundJob:
            raise Conflict("somebody else")

        with pytest.raises(Conflict, match="somebody else"):
            jobs.update("r1", fails)
        assert jobs.get("r1") == job

    @pytest.mark.parametrize("changes", [{"round_id": "r2"}, {"number": 7}, {"state": "asleep"}, {"attempts": -1}])
    def test_refuses_what_the_round_cannot_become(self, jobs, changes):
        job = jobs.open(make_job())
        with pytest.raises(InvalidInput):
            jobs.update("r1", setting(**changes))
        assert jobs.get("r1") == job

    def test_of_an_unknown_round_is_not_found(self, jobs):
        for use in (jobs.get, jobs.request_cancel, lambda r: jobs.update(r, setting(attempts=1))):
            with pytest.raises(NotFound, match="r9"):
                use("r9")


class TestRequestCancel:
    def test_is_seen_by_who_works_on_it(self, jobs):
        jobs.open(make_job())
        assert jobs.request_cancel("r1").is_cancel_requested
        assert jobs.get("r1").is_cancel_requested and not jobs.get("r1").is_finished

    @pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
    def test_of_a_finished_round_changes_nothing(self, jobs, state):
        jobs.open(make_job())
        finished = jobs.update("r1", setting(state=state))
        assert jobs.request_cancel("r1") == finished == jobs.get("r1")


class TestUnfinished:
    def test_is_what_is_queued_or_running_oldest_first(self, jobs):
        for round_id in ("r9", "r5", "r7", "r1"):
            jobs.open(make_job(round_id))
        jobs.update("r5", setting(state="succeeded"))
        jobs.update("r1", setting(state="running"))
        assert [job.round_id for job in jobs.unfinished()] == ["r9", "r7", "r1"]
        jobs.update("r5", setting(state="queued"))
        assert [job.round_id for job in jobs.unfinished()] == ["r9", "r5", "r7", "r1"]


class TestPage:
    def test_has_the_newest_first_and_a_cursor_while_there_are_more(self, jobs):
        for i in range(5):
            jobs.open(make_job(f"r{i}"))
        first = jobs.page(limit=2)
        jobs.open(make_job("later"))
        second = jobs.page(first.next_cursor, 2)
        third = jobs.page(second.next_cursor, 2)
        pages = [[job.round_id for job in page.jobs] for page in (first, second, third)]
        assert pages == [["r4", "r3"], ["r2", "r1"], ["r0"]]
        assert third.next_cursor is None

    def test_is_the_last_one_if_nothing_comes_after_it(self, jobs):
        jobs.open(make_job())
        assert jobs.page(limit=1).next_cursor is None
        assert jobs.page("1").jobs == ()

    @pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "+inf", "(3", "9" * 40, "٣"])
    def test_refuses_a_cursor_that_no_page_gave(self, jobs, cursor):
        with pytest.raises(InvalidInput, match="cursor"):
            jobs.page(cursor)

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    def test_refuses_a_limit_that_cannot_be(self, jobs, limit):
        with pytest.raises(InvalidInput, match="1 to 1000"):
            jobs.page(limit=limit)


class TestEvents:
    @pytest.fixture(autouse=True)
    def _round(self, jobs):
        jobs.open(make_job())

    def test_come_in_order_with_what_they_hold(self, jobs):
        told = [
            jobs.append_event("r1", "state", {"state": "running"}),
            jobs.append_event("r1", "progress", {"done": 1, "figures": {"loss": 0.1 + 0.2}, "none": None}),
        ]
        assert jobs.events("r1") == tuple(told)
        assert jobs.events("r1", told[0].event_id) == (told[1],)
        assert jobs.events("r1", told[1].event_id) == ()

    def test_belong_to_their_round(self, jobs):
        jobs.open(make_job("r2"))
        jobs.append_event("r1", "state", {})
        assert jobs.events("r2") == ()

    def test_are_bounded_and_the_oldest_go_first(self, jobs):
        told = [jobs.append_event("r1", "progress", {"done": i}) for i in range(300)]
        kept = jobs.events("r1")
        assert kept == tuple(told[-len(kept) :])
        assert 10 <= len(kept) < 150  # Redis forgets whole blocks of a hundred

    def test_can_be_waited_for(self, jobs):
        seen = []
        waits = Thread(target=lambda: seen.extend(jobs.events("r1", block_s=30)))
        waits.start()
        told = jobs.append_event("r1", "state", {})
        waits.join(10)
        assert seen == [told]

    def test_that_do_not_come_are_not_waited_for_longer(self, jobs):
        assert jobs.events("r1", block_s=0.05) == ()

    def test_of_an_unknown_round_are_none_and_cannot_be_told(self, jobs):
        assert jobs.events("r9") == ()
        with pytest.raises(NotFound):
            jobs.append_event("r9", "state", {})

    @pytest.mark.parametrize("event_id", ["", "$", "x", "1-2-3", "-", "1-", "٣", "9" * 30])
    def test_after_what_is_no_event_are_refused(self, jobs, event_id):
        with pytest.raises(InvalidInput, match="no event's id"):
            jobs.events("r1", event_id)

    def test_that_json_cannot_hold_or_of_another_kind_are_refused(self, jobs):
        with pytest.raises(InvalidInput):
            jobs.append_event("r1", "progress", {"loss": float("inf")})
        with pytest.raises(InvalidInput, match="no kind of event"):
            jobs.append_event("r1", "gossip", {})
        assert jobs.events("r1") == ()


def test_redis_does_what_memory_does_in_any_history(places):
    class Histories(RuleBasedStateMachine):
        @initialize()
        def open_both(self) -> None:
            self.both = [open_one(places) for open_one in IMPLEMENTATIONS.values()]

        def alike(self, use: Callable[[RoundJobs], object]) -> None:
            in_memory, in_redis = (_outcome(use, jobs) for jobs in self.both)
            assert in_memory == in_redis

        @rule(round_id=ROUND_IDS, outfits=st.integers(1, 2))
        def open(self, round_id: str, outfits: int) -> None:
            self.alike(lambda jobs: jobs.open(make_job(round_id, request={"outfits": outfits})))

        @rule(round_id=ROUND_IDS, state=st.sampled_from(get_args(RoundState)))
        def move(self, round_id: str, state: str) -> None:
            self.alike(lambda jobs: jobs.update(round_id, setting(state=state)))

        @rule(round_id=ROUND_IDS)
        def cancel(self, round_id: str) -> None:
            self.alike(lambda jobs: jobs.request_cancel(round_id))

        @rule(round_id=ROUND_IDS, done=st.integers(0, 9))
        def tell(self, round_id: str, done: int) -> None:
            self.alike(lambda jobs: jobs.append_event(round_id, "progress", {"done": done}).details)

        @rule(limit=st.integers(1, 3), cursor=st.none() | st.integers(0, 5).map(str))
        def page(self, limit: int, cursor: str | None) -> None:
            self.alike(lambda jobs: jobs.page(cursor, limit))

        @invariant()
        def agree(self) -> None:
            self.alike(lambda jobs: (jobs.page(), jobs.unfinished()))
            for round_id in "abcd":
                self.alike(lambda jobs, round_id=round_id: [event.details for event in jobs.events(round_id)][-10:])

    run_state_machine_as_test(Histories, settings=settings(max_examples=30, stateful_step_count=20))


def _outcome(use: Callable[[RoundJobs], object], jobs: RoundJobs) -> object:
    try:
        return use(jobs)
    except FashionDPOError as error:
        return type(error), str(error)


class TestRedisJobs:
    def test_are_seen_by_other_processes(self, places, valkey_url, start_python):
        prefix = places.prefix()
        jobs = RedisJobs(places.redis(), prefix)
        jobs.open(make_job())
        counts = (
            "import sys\n"
            "from fashiondpo.storage.redis_connection import connect\n"
            "from fashiondpo.storage.redis_jobs import RedisJobs\n"
            "jobs = RedisJobs(connect(sys.argv[1]), sys.argv[2])\n"
            "for _ in range(50):\n"
            "    jobs.update('r1', lambda job: job.model_copy(update={'attempts': job.attempts + 1}))\n"
            "    jobs.append_event('r1', 'progress', {})\n"
        )
        running = [start_python(counts, valkey_url, prefix) for _ in range(2)]
        assert [process.wait(60) for process in running] == [0, 0]
        assert jobs.get("r1").attempts == 100
        assert len(jobs.events("r1")) == 100

    def test_forget_events_long_after_the_last_one_and_nothing_else(self, places):
        client, prefix = places.redis(), places.prefix()
        jobs = RedisJobs(client, prefix)
        jobs.open(make_job())
        jobs.append_event("r1", "state", {})
        lasting = {key for key in client.scan_iter(f"{prefix}:*") if client.ttl(key) == -1}
        assert set(client.scan_iter(f"{prefix}:*")) - lasting == {f"{prefix}:events:r1"}
        assert eventually(lambda: client.ttl(f"{prefix}:events:r1")) > 86_400

    def test_name_the_job_that_cannot_be_read(self, places):
        client, prefix = places.redis(), places.prefix()
        jobs = RedisJobs(client, prefix)
        jobs.open(make_job())
        client.hset(f"{prefix}:jobs:r1", "json", '{"schema_version": 2}')
        with pytest.raises(DataFileError, match=rf"{prefix}:jobs:r1: has schema_version 2"):
            jobs.get("r1")
