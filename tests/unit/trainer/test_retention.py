"""Old rounds are removed with all that was kept for them; what serves, or is needed to go on, stays."""

from __future__ import annotations

import pytest

from fashiondpo.errors import NotFound, Unavailable
from fashiondpo.messages import Vote
from fashiondpo.storage.artifacts import MemoryArtifacts
from fashiondpo.storage.fenced import FencedFeedback
from fashiondpo.storage.jobs import MemoryJobs
from fashiondpo.storage.stores import memory_stores
from services.trainer.orders import gate_name
from services.trainer.retention import MOST_AT_ONCE, Retention, remove_old_rounds
from services.trainer.round_ends import iso_now
from services.trainer.training_folders import CHECKPOINT, take_over_training
from tests.api.trainer.trainer_api import TrainerApi, recorded_set, scores_of
from tests.protocols.small_adapters import publish
from tests.unit.trainer.errands import Shop

DAY_S = 86_400


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop.at(tmp_path)


@pytest.fixture
def training(tmp_path):
    return tmp_path / "training"


def put_set(shop: Shop, owner: str, set_id: str, content: bytes | None = None) -> str:
    """A set of the round with scores, votes and a trajectory in the store."""
    trajectory = shop.stores.artifacts.put(content or set_id.encode(), "safetensors")
    candidate_set = recorded_set(set_id).model_copy(update={"trajectory": trajectory})
    shop.stores.feedback.put_set(owner, candidate_set)
    shop.stores.feedback.put_scores(set_id, scores_of(candidate_set))
    shop.stores.votes.put(candidate_set, "ann", [Vote(candidate_id=f"{set_id}-0", value=1)])
    return trajectory


def ended(shop: Shop, training, *, days_ago: float = 0.0, state: str = "succeeded") -> str:
    """A round that has ended, with everything that rounds leave behind."""
    round_id = shop.open()
    put_set(shop, round_id, f"{round_id}-set")
    for side in ("before", "after"):
        put_set(shop, gate_name(round_id, side), f"{gate_name(round_id, side)}-set")
    shop.stores.feedback.put_pairs(round_id, [])
    (take_over_training(training, round_id, 1) / CHECKPOINT).write_text("weights and optimiser")
    shop.change(round_id, state=state, finished_at=iso_now(-days_ago * DAY_S))
    return round_id


def removed(shop: Shop, training, newest: int = 0, days: float = 0.0) -> list[str]:
    return remove_old_rounds(shop.stores, training, Retention(newest, days), holder="beat", lease_s=30)


def round_ids(shop: Shop) -> list[str]:
    return [job.round_id for job in reversed(shop.stores.jobs.page().jobs)]


def serve(shop: Shop, round_id: str) -> None:
    shop.stores.adapters.activate(publish(shop.stores.adapters, round_id, 1.0).version)


class TestLimits:
    def test_without_any_remove_nothing(self, shop, training):
        rounds = [ended(shop, training, days_ago=1000) for _ in range(3)]
        assert removed(shop, training) == [] and round_ids(shop) == rounds

    def test_by_number_keep_the_newest_ended_rounds(self, shop, training):
        rounds = [ended(shop, training) for _ in range(4)]
        assert removed(shop, training, newest=2) == rounds[:2]
        assert round_ids(shop) == rounds[2:]

    def test_by_days_keep_what_ended_lately(self, shop, training):
        rounds = [ended(shop, training, days_ago=days) for days in (30, 8, 6, 0)]
        assert removed(shop, training, days=7) == rounds[:2]

    def test_together_keep_what_either_keeps(self, shop, training):
        rounds = [ended(shop, training, days_ago=days) for days in (30, 20, 10, 9)]
        assert removed(shop, training, newest=3, days=15) == rounds[:1]
        assert removed(shop, training, newest=1, days=15) == rounds[1:2]

    def test_do_not_count_rounds_that_are_under_way(self, shop, training):
        rounds = [ended(shop, training), ended(shop, training), shop.open()]
        assert removed(shop, training, newest=1) == rounds[:1]
        assert round_ids(shop) == rounds[1:]

    def test_leave_the_newest_round_since_numbers_go_on_from_it(self, shop, training):
        rounds = [ended(shop, training, days_ago=100) for _ in range(2)]
        assert removed(shop, training, days=1) == rounds[:1]
        assert shop.open() == "round-0003"

    def test_take_so_many_at_once_and_the_others_later(self, shop, training):
        rounds = [ended(shop, training) for _ in range(MOST_AT_ONCE + 3)]
        assert removed(shop, training, newest=1) == rounds[:MOST_AT_ONCE]
        assert removed(shop, training, newest=1) == rounds[MOST_AT_ONCE:-1]


class TestRemovedRound:
    def test_leaves_nothing_behind_but_its_pictures_and_its_adapter(self, shop, training):
        round_id = ended(shop, training)
        version = publish(shop.stores.adapters, round_id, 1.0).version
        ended(shop, training)
        weights = shop.stores.adapters.weights(version)
        assert removed(shop, training, newest=1) == [round_id]
        stores = shop.stores
        with pytest.raises(NotFound):
            stores.jobs.get(round_id)
        with pytest.raises(NotFound):
            stores.feedback.round(round_id)
        assert stores.jobs.events(round_id) == ()
        for owner in (round_id, gate_name(round_id, "before"), gate_name(round_id, "after")):
            assert stores.feedback.set_ids(owner) == ()
            gone = recorded_set(f"{owner}-set")
            assert stores.votes.tally(gone).voters == 0
        assert [path.name for path in training.iterdir()] == ["round-0002"]
        assert stores.adapters.manifest(version).round_id == round_id
        assert stores.adapters.weights(version) == weights

    def test_takes_its_trajectories_along_unless_another_set_has_the_same(self, shop, training):
        first, second = ended(shop, training), ended(shop, training)
        own = shop.stores.feedback.set(f"{first}-set").trajectory
        others = shop.stores.feedback.set(f"{second}-set").trajectory
        shared = put_set(shop, first, "shared-1", b"the same run")
        put_set(shop, "traffic", "shared-2", b"the same run")
        twice = put_set(shop, first, "twice-1", b"twice in one round")
        put_set(shop, first, "twice-2", b"twice in one round")
        removed(shop, training, newest=1)
        kept = [ref for ref in (own, others, shared, twice) if shop.stores.artifacts.has(ref)]
        assert kept == [others, shared]

    def test_is_not_one_whose_adapter_serves_or_served_before(self, shop, training):
        rounds = [ended(shop, training) for _ in range(4)]
        serve(shop, rounds[0])
        serve(shop, rounds[1])
        assert removed(shop, training, newest=1) == rounds[2:3]
        serve(shop, rounds[3])
        assert removed(shop, training, newest=1) == rounds[:1]

    def test_is_not_one_that_somebody_has_in_work(self, shop, training):
        rounds = [ended(shop, training) for _ in range(2)]
        lease = shop.stores.leases.acquire(rounds[0], "worker", 60)
        assert removed(shop, training, newest=1) == []
        shop.stores.leases.release(lease)
        assert removed(shop, training, newest=1) == rounds[:1]


class TestTraffic:
    @pytest.fixture
    def learnt(self, shop, training) -> tuple[str, list[str]]:
        """A round over three recorded sets, and their names."""
        api = TrainerApi(client=None, stores=shop.stores, queue=shop.queue)
        names, round_id = api.record_traffic(3), ended(shop, training)
        record = shop.stores.feedback.round(round_id)
        shop.stores.feedback.put_round(record.model_copy(update={"set_ids": tuple(names[:2])}))
        ended(shop, training)
        return round_id, names

    def test_goes_with_the_round_that_has_learnt_from_it(self, shop, training, learnt):
        round_id, names = learnt
        shop.change(round_id, source="traffic")
        removed(shop, training, newest=1)
        assert list(shop.stores.feedback.set_ids("traffic")) == names[2:]

    @pytest.mark.parametrize("state", ["failed", "cancelled"])
    def test_stays_for_others_if_the_round_has_not_learnt_from_it(self, shop, training, learnt, state):
        round_id, names = learnt
        shop.change(round_id, source="traffic", state=state)
        assert removed(shop, training, newest=1) == [round_id]
        assert list(shop.stores.feedback.set_ids("traffic")) == names


class TestInterruptedRemoval:
    @pytest.mark.parametrize(
        ("kind", "method"),
        [
            (MemoryArtifacts, "delete"),
            (FencedFeedback, "remove_sets"),
            (FencedFeedback, "remove_round"),
            (MemoryJobs, "remove"),
        ],
    )
    def test_is_finished_the_next_time(self, training, monkeypatch, kind, method):
        shop = Shop(memory_stores(MemoryArtifacts()))
        rounds = [ended(shop, training) for _ in range(2)]
        trajectory = shop.stores.feedback.set(f"{rounds[0]}-set").trajectory

        def away(*_: object) -> None:
            raise Unavailable("it is away")

        with monkeypatch.context() as patched:
            patched.setattr(kind, method, away)
            with pytest.raises(Unavailable):
                removed(shop, training, newest=1)
        assert round_ids(shop) == rounds
        assert shop.stores.leases.current(rounds[0]) is None
        assert removed(shop, training, newest=1) == rounds[:1]
        assert not shop.stores.artifacts.has(trajectory)
        assert shop.stores.feedback.set_ids(rounds[0]) == ()
