"""What every feedback store does."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiondpo.contracts import (
    GateVerdict,
    Interval,
    PreferencePair,
    Score,
)
from fashiondpo.errors import Conflict, InvalidInput, NotFound
from fashiondpo.storage.feedback import FeedbackStore, FolderFeedback, MemoryFeedback, merged_scores
from fashiondpo.storage.redis_feedback import RedisFeedback
from tests.protocols.places import Places
from tests.protocols.small_records import make_round, make_score, make_set

NO_NAMES = ["", "../r1", "a/b", ".hidden", "r1\n", "a" * 129, "-r"]

Open = Callable[[], FeedbackStore]

# Each makes an empty store, in an empty folder or in Redis where nobody else is.
IMPLEMENTATIONS: dict[str, Callable[[Places], FeedbackStore]] = {
    "memory": lambda _: MemoryFeedback(),
    "folder": lambda places: FolderFeedback(places.folder()),
    "redis": lambda places: RedisFeedback(places.redis(), places.prefix()),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def open_store(request: pytest.FixtureRequest, places: Places) -> Open:
    return lambda: IMPLEMENTATIONS[request.param](places)


@pytest.fixture
def store(open_store: Open) -> FeedbackStore:
    return open_store()


class TestRounds:
    def test_come_back_as_they_were_put(self, store):
        interval = Interval(mean=0.6, low=0.1 + 0.2, high=0.9)
        verdict = GateVerdict(
            is_promoted=True,
            reasons=("clears the threshold",),
            win_rate=interval,
            combined_delta=interval,
            diversity_ratio=1 / 3,
            outfits=40,
        )
        record = make_round(
            stage="gate", set_ids=("s1", "s2"), seconds={"collect": 1.5}, settings={"lr": 1e-5}, verdict=verdict
        )
        store.put_round(record)
        assert store.round("r1") == record

    def test_are_replaced_by_newer_records(self, store):
        store.put_round(make_round(stage="collect"))
        store.put_round(make_round(stage="judge"))
        assert store.round("r1").stage == "judge"
        assert store.round_ids() == ("r1",)

    def test_are_listed_sorted(self, store):
        assert store.round_ids() == ()
        for round_id in ("r2", "r10", "r1"):
            store.put_round(make_round(round_id))
        assert store.round_ids() == ("r1", "r10", "r2")

    def test_that_are_unknown_are_not_found(self, store):
        with pytest.raises(NotFound, match="r9"):
            store.round("r9")

    def test_do_not_change_with_the_object_that_was_put(self, store):
        steps = {"steps": 50}
        record = make_round(settings=steps)
        store.put_round(record)
        record.settings["steps"] = 1
        assert store.round("r1").settings == {"steps": 50}

    def test_have_their_settings_back_as_json_has_them(self, store):
        store.put_round(make_round(settings={"scales": (12, 5, 4), "name": "Größe"}))
        assert store.round("r1").settings == {"scales": [12, 5, 4], "name": "Größe"}

    @pytest.mark.parametrize(
        "fields",
        [
            {"seconds": {"collect": math.nan}},
            {"settings": {"threshold": math.inf}},
            {"settings": {"deep": [{"x": -math.inf}]}},
            {"settings": {"store": object()}},
            {"settings": {"name": "\ud800"}},
        ],
    )
    def test_that_json_cannot_hold_are_refused(self, store, fields):
        with pytest.raises(InvalidInput, match="RoundRecord cannot be stored as JSON"):
            store.put_round(make_round(**fields))
        assert store.round_ids() == ()


class TestNames:
    @pytest.mark.parametrize("name", NO_NAMES)
    def test_that_could_lead_elsewhere_are_refused(self, store, name):
        for use in (store.round, store.set, store.set_ids, store.scored, store.scored_sets, store.pairs):
            with pytest.raises(InvalidInput, match="cannot be a name"):
                use(name)
        with pytest.raises(InvalidInput):
            store.put_set(name, make_set())
        with pytest.raises(InvalidInput):
            store.put_scores(name, [])
        with pytest.raises(InvalidInput):
            store.put_pairs(name, [])

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_of_unchecked_records_are_refused_too(self, store, name):
        with pytest.raises(InvalidInput):
            store.put_set("r1", make_set().model_copy(update={"set_id": name}))
        with pytest.raises(InvalidInput):
            store.put_round(make_round().model_copy(update={"round_id": name}))


class TestSets:
    def test_come_back_as_they_were_put(self, store):
        store.put_set("r1", make_set(category_scale=0.1 + 0.2))
        assert store.set("s1") == make_set(category_scale=0.1 + 0.2)

    def test_keep_the_order_in_which_they_were_put(self, store):
        for set_id in ("s3", "s1", "s2", "s10"):
            store.put_set("r1", make_set(set_id))
        assert store.set_ids("r1") == ("s3", "s1", "s2", "s10")

    def test_keep_their_place_when_put_again(self, store):
        for set_id in ("s3", "s1", "s3"):
            store.put_set("r1", make_set(set_id))
        assert store.set_ids("r1") == ("s3", "s1")

    def test_belong_to_their_round(self, store):
        store.put_set("r1", make_set("s1"))
        store.put_set("r2", make_set("s2"))
        store.put_set("r1", make_set("s3"))
        assert store.set_ids("r1") == ("s1", "s3")
        assert store.set_ids("r2") == ("s2",)

    def test_may_come_before_the_record_of_their_round(self, store):
        store.put_set("r1", make_set())
        assert store.set_ids("r1") == ("s1",)
        assert store.round_ids() == ()

    def test_are_none_in_an_unknown_round(self, store):
        assert store.set_ids("r9") == ()
        assert list(store.scored_sets("r9")) == []

    def test_cannot_change(self, store):
        store.put_set("r1", make_set())
        with pytest.raises(Conflict, match="other content"):
            store.put_set("r1", make_set(category_scale=7.5))
        assert store.set("s1") == make_set()

    def test_cannot_move_to_another_round(self, store):
        store.put_set("r1", make_set())
        with pytest.raises(Conflict, match="'r1'"):
            store.put_set("r2", make_set())
        assert store.set_ids("r2") == ()

    def test_that_are_unknown_are_not_found(self, store):
        for use in (store.set, store.scored):
            with pytest.raises(NotFound, match="s9"):
                use("s9")

    def test_of_many_threads_are_all_kept(self, store, busy_threads):
        set_ids = [f"s{i}" for i in range(24)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda set_id: store.put_set("r1", make_set(set_id)), set_ids))
        assert sorted(store.set_ids("r1")) == sorted(set_ids)


class TestScores:
    @pytest.fixture(autouse=True)
    def _set(self, store):
        store.put_set("r1", make_set())

    def test_are_none_at_first(self, store):
        assert store.scored("s1").scores == ()
        assert store.scored("s1").candidate_set == make_set()

    def test_come_back_as_they_were_put(self, store):
        score = make_score("s1-0", 0.1 + 0.2, diagnostics={"level": 3.0, "label": "C"})
        store.put_scores("s1", [score])
        assert store.scored("s1").scores == (score,)

    def test_of_several_judges_add_up(self, store):
        store.put_scores("s1", [make_score(f"s1-{k}", k) for k in range(3)])
        store.put_scores("s1", [make_score(f"s1-{k}", -k, "compatibility") for k in range(3)])
        scored = store.scored("s1")
        assert [scored.value(f"s1-{k}", "quality") for k in range(3)] == [0, 1, 2]
        assert [scored.value(f"s1-{k}", "compatibility") for k in range(3)] == [0, -1, -2]

    def test_that_are_newer_win(self, store):
        store.put_scores("s1", [make_score("s1-0", 1.0)])
        store.put_scores("s1", [make_score("s1-0", 2.0, judge_version="2")])
        assert store.scored("s1").scores == (make_score("s1-0", 2.0, judge_version="2"),)

    def test_are_never_replaced_by_failures(self, store):
        store.put_scores("s1", [make_score("s1-0", 1.0)])
        store.put_scores("s1", [make_score("s1-0", None)])
        assert store.scored("s1").value("s1-0", "quality") == 1.0

    def test_of_another_version_give_way_to_failures_too(self, store):
        store.put_scores("s1", [make_score("s1-0", 1.0)])
        failure = make_score("s1-0", None, judge_version="2", reason="no_history")
        store.put_scores("s1", [failure])
        assert store.scored("s1").scores == (failure,)

    def test_replace_failures(self, store):
        store.put_scores("s1", [make_score("s1-0", None, is_final=False)])
        assert store.scored("s1").value("s1-0", "quality") is None
        store.put_scores("s1", [make_score("s1-0", 1.0)])
        assert store.scored("s1").scores == (make_score("s1-0", 1.0),)

    def test_that_fail_again_give_the_newest_reason(self, store):
        store.put_scores("s1", [make_score("s1-0", None, reason="timeout", is_final=False)])
        store.put_scores("s1", [make_score("s1-0", None, reason="no_history")])
        assert [score.reason for score in store.scored("s1").scores] == ["no_history"]

    def test_of_unknown_candidates_are_refused_with_all_that_came_along(self, store):
        with pytest.raises(InvalidInput, match=r"no candidate 's2-0'; it has s1-0, s1-1, s1-2"):
            store.put_scores("s1", [make_score("s1-0"), make_score("s2-0")])
        assert store.scored("s1").scores == ()

    def test_of_unknown_sets_are_refused(self, store):
        with pytest.raises(NotFound, match="s9"):
            store.put_scores("s9", [make_score("s9-0")])

    def test_that_json_cannot_hold_are_refused(self, store):
        store.put_scores("s1", [make_score("s1-0", 1.0)])
        with pytest.raises(InvalidInput, match="JSON"):
            store.put_scores("s1", [make_score("s1-0", 2.0, diagnostics={"spread": math.nan})])
        assert store.scored("s1").value("s1-0", "quality") == 1.0

    def test_may_be_votes(self, store):
        store.put_scores("s1", [make_score("s1-0", 1.0, "votes")])
        assert store.scored("s1").value("s1-0", "votes") == 1.0

    def test_come_with_the_sets_of_a_round_in_order(self, store):
        store.put_set("r1", make_set("s0"))
        store.put_scores("s0", [make_score("s0-1")])
        assert [s.candidate_set.set_id for s in store.scored_sets("r1")] == ["s1", "s0"]
        assert [len(s.scores) for s in store.scored_sets("r1")] == [0, 1]

    def test_of_judges_that_answer_at_once_are_all_kept(self, store, busy_threads):
        scores = [make_score(f"s1-{k}", k, c) for c in ("quality", "compatibility", "votes") for k in range(3)]
        with ThreadPoolExecutor(9) as pool:
            list(pool.map(lambda score: store.put_scores("s1", [score]), scores))
        assert len(store.scored("s1").scores) == 9


class TestMergedScores:
    def test_do_not_depend_on_which_judge_answered_first(self):
        answers = [[make_score(f"s1-{k}", k, c) for k in (1, 0)] for c in ("quality", "compatibility", "votes")]
        results = set()
        for order in permutations(answers):
            kept: tuple[Score, ...] = ()
            for answer in order:
                kept = merged_scores(make_set(), kept, answer)
            results.add(tuple((score.candidate_id, score.criterion) for score in kept))
        assert len(results) == 1

    @given(
        st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from(["quality", "votes"]), st.none() | st.floats(-10, 10)),
            max_size=12,
        ),
        st.integers(0, 12),
    )
    def test_are_the_newest_values_else_the_newest_failures(self, answers, cut):
        scores = [make_score(f"s1-{k}", value, criterion) for k, criterion, value in answers]
        merged = merged_scores(make_set(), merged_scores(make_set(), [], scores[:cut]), scores[cut:])
        expected = {}
        for score in sorted(scores, key=lambda score: score.value is not None):
            expected[score.candidate_id, score.criterion] = score
        assert merged == tuple(expected[key] for key in sorted(expected))


class TestPairs:
    PAIR = PreferencePair(set_id="s1", chosen=0, rejected=1, margin=0.1 + 0.2)

    def test_come_back_in_order(self, store):
        other = PreferencePair(set_id="s0", chosen=2, rejected=1, margin=1.0)
        store.put_pairs("r1", [self.PAIR, other])
        assert store.pairs("r1") == (self.PAIR, other)

    def test_are_replaced_as_a_whole(self, store):
        store.put_pairs("r1", [self.PAIR, self.PAIR])
        store.put_pairs("r1", [self.PAIR])
        assert store.pairs("r1") == (self.PAIR,)

    def test_may_be_none(self, store):
        store.put_pairs("r1", [])
        assert store.pairs("r1") == ()

    def test_that_were_never_put_are_not_found(self, store):
        store.put_round(make_round())
        with pytest.raises(NotFound, match="r1"):
            store.pairs("r1")


class TestRemoving:
    @pytest.fixture(autouse=True)
    def _rounds(self, store):
        for round_id, sets in (("r1", ("s1", "s2")), ("r2", ("s3",))):
            store.put_round(make_round(round_id))
            for set_id in sets:
                store.put_set(round_id, make_set(set_id))
                store.put_scores(set_id, [make_score(f"{set_id}-0")])
            store.put_pairs(round_id, [PreferencePair(set_id=sets[0], chosen=0, rejected=1, margin=1.0)])

    def test_a_round_forgets_all_of_it_and_nothing_of_others(self, store):
        store.remove_round("r1")
        store.remove_round("r1")
        assert store.round_ids() == ("r2",) and store.set_ids("r1") == ()
        for look in (store.round, store.pairs):
            with pytest.raises(NotFound):
                look("r1")
        for set_id in ("s1", "s2"):
            with pytest.raises(NotFound):
                store.scored(set_id)
        assert len(store.scored("s3").scores) == len(store.pairs("r2")) == 1

    def test_sets_leaves_the_others_of_their_round_in_their_order(self, store):
        store.put_set("r1", make_set("s0"))
        store.remove_sets("r1", ["s2", "s2", "never-put"])
        assert store.set_ids("r1") == ("s1", "s0")
        assert [len(scored.scores) for scored in store.scored_sets("r1")] == [1, 0]
        assert store.round("r1") == make_round("r1")

    def test_sets_of_another_round_does_nothing(self, store):
        store.remove_sets("r1", ["s3"])
        assert store.set_ids("r2") == ("s3",)

    def test_leaves_no_score_to_a_set_that_is_put_under_the_name_later(self, store):
        store.remove_sets("r1", ["s1"])
        store.put_set("r1", make_set("s1"))
        assert store.scored("s1").scores == () and store.set_ids("r1") == ("s2", "s1")

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_refuses_what_is_no_name(self, store, name):
        with pytest.raises(InvalidInput):
            store.remove_round(name)
        with pytest.raises(InvalidInput):
            store.remove_sets(name, [])


class TestAnyHistory:
    def test_leaves_every_implementation_as_a_dictionary_would_be(self, open_store):
        @settings(max_examples=15)
        @given(st.lists(st.tuples(st.sampled_from(["r1", "r2"]), st.integers(0, 5)), max_size=10))
        def sets_stay_where_they_were_put_first(puts: list[tuple[str, int]]) -> None:
            store, owner = open_store(), {}
            for round_id, number in puts:
                if owner.setdefault(f"s{number}", round_id) == round_id:
                    store.put_set(round_id, make_set(f"s{number}"))
                else:
                    with pytest.raises(Conflict):
                        store.put_set(round_id, make_set(f"s{number}"))
            for round_id in ("r1", "r2"):
                assert store.set_ids(round_id) == tuple(
                    name for name, its_round in owner.items() if its_round == round_id
                )

        sets_stay_where_they_were_put_first()
