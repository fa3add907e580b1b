"""Upkeep: what nobody works on is queued again, once; a round over traffic starts by itself when there is enough."""

from __future__ import annotations

import pytest

from fashiondpo.contracts import AdapterRef, content_digest
from fashiondpo.errors import Unavailable
from fashiondpo.run_settings import TrainRequest
from services.trainer.reconcile import reconcile, start_if_due
from services.trainer.traffic_scoring import discard_stale_traffic
from tests.api.trainer.trainer_api import TrainerApi
from tests.unit.trainer.errands import Shop, Walk, brief, squares_basis


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop.at(tmp_path)


def reconciled(shop: Shop, *, requeue_after_s: float = 60) -> list[str]:
    shop.queue.slices.clear()
    reconcile(shop.stores, shop.queue, holder="beat", requeue_after_s=requeue_after_s, lease_s=5)
    return [round_id for round_id, _ in shop.queue.slices]


class TestReconciling:
    def test_leaves_a_round_alone_that_was_queued_just_now(self, shop):
        shop.open()
        assert reconciled(shop) == []

    def test_queues_a_round_again_whose_task_seems_lost_and_not_again_at_once(self, shop):
        round_id = shop.open()
        shop.change(round_id, enqueued_at="2020-01-01T00:00:00+00:00")
        assert reconciled(shop) == [round_id]
        assert reconciled(shop) == []

    def test_queues_a_round_that_was_opened_and_never_queued(self, shop):
        round_id = shop.open()
        shop.change(round_id, enqueued_at=None)
        assert reconciled(shop) == [round_id]

    def test_queues_a_round_at_once_whose_worker_has_died_and_counts_that(self, shop):
        round_id = shop.open()
        with pytest.raises(KeyboardInterrupt):
            shop.advance(round_id, Walk(dying))
        assert reconciled(shop) == [round_id]
        job = shop.job(round_id)
        assert (job.attempts, job.is_in_slice) == (1, False)
        assert reconciled(shop) == []

    def test_leaves_a_round_to_whoever_works_on_it(self, shop):
        round_id = shop.open()
        shop.change(round_id, enqueued_at="2020-01-01T00:00:00+00:00", is_in_slice=True)
        shop.stores.leases.acquire(round_id, "worker", 60)
        assert reconciled(shop) == []
        assert shop.job(round_id).is_in_slice

    def test_waits_until_a_pause_is_over(self, shop):
        round_id = shop.open()
        shop.change(round_id, enqueued_at=None, not_before="2999-01-01T00:00:00+00:00")
        assert reconciled(shop) == []
        shop.change(round_id, not_before="2020-01-01T00:00:00+00:00")
        assert reconciled(shop) == [round_id]

    def test_does_nothing_for_rounds_that_are_over(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk())
        shop.change(round_id, enqueued_at=None)
        assert reconciled(shop) == []

    def test_names_the_slice_that_is_due(self, shop):
        round_id = shop.open()
        shop.advance(round_id, Walk(), limits=brief())
        shop.change(round_id, enqueued_at=None)
        reconciled(shop)
        assert shop.queue.slices == [(round_id, 1)]

    def test_tells_who_asks_when_the_queue_does_not_answer_and_finds_the_round_again_later(self, shop, monkeypatch):
        round_id = shop.open()
        shop.change(round_id, enqueued_at=None)

        def away(*_: object) -> None:
            raise Unavailable("the queue is away")

        with monkeypatch.context() as patched:
            patched.setattr(shop.queue, "put", away)
            with pytest.raises(Unavailable):
                reconciled(shop)
        assert shop.stores.leases.current(round_id) is None
        assert reconciled(shop, requeue_after_s=0) == [round_id]


def dying(step: int) -> None:
    if step == 2:
        raise KeyboardInterrupt


@pytest.fixture
def traffic(shop) -> TrainerApi:
    return TrainerApi(client=None, stores=shop.stores, queue=shop.queue)


def started(shop: Shop, enough: int) -> str | None:
    request = TrainRequest(source="traffic")
    job = start_if_due(request, enough=enough, stores=shop.stores, queue=shop.queue, basis=squares_basis())
    return None if job is None else job.round_id


class TestContinuousMode:
    def test_starts_a_round_when_enough_scored_sets_wait(self, shop, traffic):
        traffic.record_traffic(4)
        assert started(shop, 4) == "round-0001"
        assert shop.queue.slices == [("round-0001", 0)]

    def test_waits_for_enough(self, shop, traffic):
        traffic.record_traffic(3)
        assert started(shop, 4) is None

    def test_is_off_unless_a_number_is_set(self, shop, traffic):
        traffic.record_traffic(3)
        assert started(shop, 0) is None

    def test_lets_a_round_finish_before_the_next(self, shop, traffic):
        traffic.record_traffic(4)
        shop.open()
        assert started(shop, 4) is None

    def test_two_that_look_at_the_same_moment_start_one_round(self, shop, traffic, monkeypatch):
        traffic.record_traffic(4)
        first = started(shop, 4)
        with monkeypatch.context() as patched:
            # the other one has looked before the first round was there
            patched.setattr(shop.stores.jobs, "unfinished", lambda: ())
            patched.setattr(shop.stores.jobs, "page", only_once(shop.stores.jobs.page))
            assert started(shop, 4) == first

    def test_counts_only_what_the_champion_has_made(self, shop, traffic):
        traffic.record_traffic(4, adapter=AdapterRef(version=3, digest=content_digest(b"3")))
        assert started(shop, 4) is None


def only_once(page):
    """The first look finds no round yet."""
    looks = []

    def look(*arguments, **options):
        found = page(*arguments, **options)
        looks.append(found)
        return type(found)((), None) if len(looks) == 1 else found

    return look


class TestStaleTraffic:
    def test_of_a_former_champion_is_dropped_and_counted(self, shop, traffic):
        traffic.record_traffic(4, adapter=AdapterRef(version=3, digest=content_digest(b"3")))
        traffic.record_traffic(2)
        assert discard_stale_traffic(shop.stores) == 4
        assert [backlog.waiting for backlog in shop.stores.traffic.backlogs()] == [2]

    def test_is_kept_for_a_round_that_is_about_to_learn_from_it(self, shop, traffic, monkeypatch):
        traffic.record_traffic(4)
        started(shop, 4)
        champion = AdapterRef(version=7, digest=content_digest(b"7"))
        monkeypatch.setattr("services.trainer.traffic_scoring.champion_of", lambda _: champion)
        assert discard_stale_traffic(shop.stores) == 0
