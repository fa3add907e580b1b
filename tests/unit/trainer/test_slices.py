"""Slices: whatever ends one, the next goes on from there; nothing loops, and a late holder writes nothing."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest

from fashiondpo.errors import Cancelled, InvalidInput, LeaseLost, NotFound, Overloaded, TrainingDiverged, Unavailable
from services.trainer.slices import cancel
from tests.unit.trainer.errands import LIMITS, STEPS, Shop, Walk, brief

ALL_STEPS = list(range(1, STEPS + 1))


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop.at(tmp_path)


def failing(at: int, error: BaseException, *, times: int = 10**6):
    """Raises at a step, so many times."""
    left = [times]

    def on_step(step: int) -> None:
        if step == at and left[0] > 0:
            left[0] -= 1
            raise error

    return on_step


def finished(shop: Shop, round_id: str, walk: Walk, **options) -> list[str]:
    """Ends of slices until the round is over; pauses are waited for."""
    ends = []
    deadline = time.monotonic() + 20
    while not shop.job(round_id).is_finished:
        assert time.monotonic() < deadline, ends
        end = shop.advance(round_id, walk, **options).kind
        if end != "wait" or not ends or ends[-1] != "wait":
            ends.append(end)
    return ends


class TestSlice:
    def test_brings_a_round_to_its_end_if_there_is_time(self, shop):
        round_id, walk = shop.open(), Walk()
        assert shop.advance(round_id, walk).kind == "succeeded"
        assert walk.taken == ALL_STEPS
        job = shop.job(round_id)
        assert (job.state, job.problem, job.is_in_slice) == ("succeeded", None, False)
        assert job.started_at <= job.finished_at

    def test_ends_at_the_next_step_when_its_time_is_over_and_names_the_slice_that_follows(self, shop):
        round_id, walk = shop.open(), Walk()
        end = shop.advance(round_id, walk, limits=brief())
        assert (end.kind, end.next_slice) == ("continue", 1)
        assert walk.taken == [1]
        assert shop.job(round_id).state == "running"

    def test_is_continued_where_it_stopped(self, shop):
        round_id, walk = shop.open(), Walk()
        assert finished(shop, round_id, walk, limits=brief()) == ["continue"] * (STEPS - 1) + ["succeeded"]
        assert walk.taken == ALL_STEPS

    def test_moves_the_round_however_short_it_is(self, shop):
        round_id, walk = shop.open(), Walk()
        for count in range(1, STEPS + 1):
            shop.advance(round_id, walk, limits=brief())
            assert len(walk.taken) == count

    def test_for_a_number_that_is_done_does_nothing(self, shop):
        round_id, walk = shop.open(), Walk()
        shop.advance(round_id, walk, limits=brief())
        assert shop.advance(round_id, walk, slice_number=0).kind == "stale"
        assert walk.taken == [1]

    def test_of_a_finished_round_does_nothing(self, shop):
        round_id, walk = shop.open(), Walk()
        shop.advance(round_id, walk)
        assert shop.advance(round_id, walk).kind == "stale"
        assert walk.taken == ALL_STEPS

    def test_of_an_unknown_round_is_an_error(self, shop):
        with pytest.raises(NotFound):
            shop.advance("round-9999", Walk())

    def test_while_another_worker_holds_the_round_does_nothing(self, shop):
        round_id, walk = shop.open(), Walk()
        shop.stores.leases.acquire(round_id, "other", 60)
        assert shop.advance(round_id, walk).kind == "busy"
        assert walk.taken == []

    def test_releases_its_lease_however_it_ends(self, shop):
        round_id = shop.open()
        for on_step in (failing(2, Unavailable("away")), failing(2, RuntimeError("broken")), failing(9, Cancelled(""))):
            shop.change(round_id, not_before=None)
            shop.advance(round_id, Walk(on_step))
            assert shop.stores.leases.current(round_id) is None

    def test_ends_when_the_worker_is_to_end_and_loses_nothing(self, shop):
        round_id, walk = shop.open(), Walk()
        is_draining = iter([False, False, True])
        assert shop.advance(round_id, walk, is_draining=lambda: next(is_draining)).kind == "continue"
        assert walk.taken == [1, 2]
        assert shop.job(round_id).attempts == 0
        shop.advance(round_id, walk)
        assert walk.taken == ALL_STEPS

    def test_tells_state_stages_and_progress_as_events(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk())
        assert [data["state"] for data in shop.events(round_id, "state")] == ["queued", "running", "succeeded"]
        assert [data["done"] for data in shop.events(round_id, "progress")] == ALL_STEPS
        assert [data["stage"] for data in shop.events(round_id, "stage")] == ["done"]


class TestCancelling:
    def test_a_round_that_nobody_works_on_ends_it_at_once(self, shop):
        round_id, walk = shop.open(), Walk()
        assert cancel(round_id, shop.stores, holder="api", lease_s=5).state == "cancelled"
        assert shop.advance(round_id, walk).kind == "stale"
        assert walk.taken == []

    def test_a_round_at_work_ends_it_before_the_next_step(self, shop):
        round_id = shop.open()

        def on_step(step: int) -> None:
            if step == 3:
                assert cancel(round_id, shop.stores, holder="api", lease_s=5).state == "running"

        walk = Walk(on_step)
        assert shop.advance(round_id, walk).kind == "cancelled"
        assert walk.taken == [1, 2, 3]
        assert shop.job(round_id).state == "cancelled"
        assert shop.events(round_id, "state")[-1] == {"state": "cancelled"}

    def test_a_finished_round_changes_nothing(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk())
        assert cancel(round_id, shop.stores, holder="api", lease_s=5).state == "succeeded"

    def test_is_seen_by_the_next_slice_too_although_the_round_waits(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk(failing(1, Unavailable("away"))), limits=LIMITS)
        shop.change(round_id, not_before="2999-01-01T00:00:00+00:00")
        shop.stores.jobs.request_cancel(round_id)
        assert shop.advance(round_id, Walk()).kind == "cancelled"


class TestSomethingThatDoesNotAnswer:
    @pytest.mark.parametrize("error", [Unavailable("judge away"), Overloaded("full", retry_after_s=0.01)])
    def test_is_asked_again_after_a_pause_and_the_round_says_why_it_waits(self, shop, error):
        round_id, walk = shop.open(), Walk(failing(3, error, times=1))
        assert shop.advance(round_id, walk).kind == "wait"
        job = shop.job(round_id)
        assert job.state == "running"
        assert job.problem.code == error.code
        assert job.not_before is not None
        assert "succeeded" in finished(shop, round_id, walk)
        assert shop.job(round_id).problem is None
        assert walk.taken == ALL_STEPS

    def test_is_not_asked_before_the_pause_is_over(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk(failing(1, Unavailable("away"))))
        shop.change(round_id, not_before="2999-01-01T00:00:00+00:00")
        walk = Walk()
        assert shop.advance(round_id, walk).kind == "wait"
        assert walk.taken == []

    def test_costs_no_attempt_however_often(self, shop):
        round_id, walk = shop.open(), Walk(failing(2, Unavailable("away"), times=20))
        finished(shop, round_id, walk)
        assert shop.job(round_id).state == "succeeded"

    def test_is_not_waited_for_for_ever(self, shop):
        round_id, walk = shop.open(), Walk(failing(2, Unavailable("the judge is away")))
        shop.advance(round_id, walk)
        shop.change(round_id, unavailable_since="2020-01-01T00:00:00+00:00", not_before=None)
        assert shop.advance(round_id, walk).kind == "failed"
        assert "the judge is away" in shop.job(round_id).problem.detail

    def test_is_forgotten_once_the_round_has_moved(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk(failing(2, Unavailable("away"))))
        shop.change(round_id, not_before=None)
        shop.advance(round_id, Walk(failing(4, Unavailable("away"))))
        assert shop.job(round_id).unavailable_since > "2020"
        shop.change(round_id, unavailable_since="2020-01-01T00:00:00+00:00", not_before=None)
        shop.advance(round_id, Walk(), limits=brief())
        assert shop.job(round_id).unavailable_since is None


class TestPoisonRound:
    def test_fails_after_so_many_slices_without_progress(self, shop):
        round_id, walk = shop.open(), Walk(failing(2, RuntimeError("a bug")))
        assert finished(shop, round_id, walk)[-1] == "failed"
        job = shop.job(round_id)
        assert job.attempts == LIMITS.max_attempts
        assert job.problem.detail.startswith("RuntimeError")
        assert walk.taken == [1]

    def test_keeps_the_secrets_of_errors_that_nobody_foresaw(self, shop):
        round_id = shop.open()
        finished(shop, round_id, Walk(failing(1, RuntimeError("password=hunter2"))))
        assert "hunter2" not in shop.job(round_id).model_dump_json()

    def test_that_kills_its_worker_fails_as_well(self, shop):
        round_id = shop.open()
        for _ in range(LIMITS.max_attempts):
            with pytest.raises(KeyboardInterrupt):
                shop.advance(round_id, Walk(failing(2, KeyboardInterrupt())))
        assert shop.advance(round_id, Walk()).kind == "failed"
        assert f"{LIMITS.max_attempts} times in a row" in shop.job(round_id).problem.detail

    def test_is_not_one_that_moves_between_failures(self, shop):
        round_id = shop.open()
        walk = Walk()

        def on_step(step: int) -> None:
            if walk.taken.count(step) == 0 and step not in seen:
                seen.add(step)
                raise RuntimeError("once per step")

        seen: set[int] = set()
        walk.on_step = on_step
        finished(shop, round_id, walk)
        assert shop.job(round_id).state == "succeeded"

    @pytest.mark.parametrize("error", [InvalidInput("no pairs"), TrainingDiverged("not finite")])
    def test_whose_fault_never_goes_away_is_not_tried_again(self, shop, error):
        round_id, walk = shop.open(), Walk(failing(3, error))
        assert shop.advance(round_id, walk).kind == "failed"
        assert shop.job(round_id).problem.code == error.code


class TestLateHolder:
    def test_writes_nothing_and_leaves_the_round_to_the_other(self, shop):
        round_id = shop.open()

        def overtaken(step: int) -> None:
            if step == 3:
                lease = shop.stores.leases.current(round_id)
                shop.stores.leases.release(lease)
                assert shop.advance(round_id, other, holder="other").kind == "succeeded"

        other, late = Walk(), Walk(overtaken)
        assert shop.advance(round_id, late, holder="late").kind == "lost"
        assert late.taken == [1, 2]
        assert other.taken == [3, 4, 5]
        assert shop.job(round_id).state == "succeeded"
        assert shop.stores.feedback.round(round_id).stage == "done"

    def test_stops_before_its_next_step_when_its_clock_says_that_the_lease_is_over(self, shop):
        round_id, now = shop.open(), [0.0]

        def frozen(step: int) -> None:
            if step == 2:
                now[0] += LIMITS.lease_s + 1

        walk = Walk(frozen)
        assert shop.advance(round_id, walk, clock=lambda: now[0]).kind == "lost"
        assert walk.taken == [1, 2]

    def test_is_refused_by_the_stores_themselves(self, shop):
        round_id = shop.open()
        lease = shop.stores.leases.acquire(round_id, "late", 60)
        fenced = shop.stores.fenced(lease)
        shop.stores.leases.release(lease)
        with pytest.raises(LeaseLost):
            fenced.jobs.update(round_id, lambda job: job)
        with pytest.raises(LeaseLost):
            fenced.feedback.put_round(shop.stores.feedback.round(round_id))
        with pytest.raises(LeaseLost):
            fenced.adapters.activate(0)


class TestMetricsOfATraining:
    """Updates that were made while nobody could be told are told of when the training goes on."""

    def told(self, shop: Shop, *, metrics: list[dict], updates: list[int]) -> list[float]:
        round_id = shop.open()

        @contextmanager
        def open_work(job, stores, lease, hooks):
            def work(record):
                hooks.training_goes_on(metrics)
                for update in updates:
                    hooks.progress("train")(update, 8, {"loss": 0.1})
                return record

            yield work

        walk = Walk()
        walk.open_work = open_work
        shop.advance(round_id, walk)
        return [row["step"] for row in shop.job(round_id).metrics]

    def test_include_what_was_measured_before_this_slice(self, shop):
        rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]
        assert self.told(shop, metrics=rows, updates=[3, 4]) == [1, 2, 3, 4]

    def test_hold_every_update_once_although_some_are_made_again(self, shop):
        rows = [{"step": step, "loss": 0.5} for step in (1, 2, 3, 4)]
        assert self.told(shop, metrics=rows, updates=[3, 4, 5]) == [1, 2, 3, 4, 5]
