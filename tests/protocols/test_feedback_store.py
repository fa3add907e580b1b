"""What every feedback store does, and what only files can go wrong with."""

from __future__ import annotations

import json
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
from fashiondpo.errors import Conflict, DataFileError, InvalidInput, NotFound
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


class TestFolderFeedback:
    @pytest.fixture
    def full(self, tmp_path) -> FolderFeedback:
        store = FolderFeedback(tmp_path)
        store.put_round(make_round())
        store.put_set("r1", make_set("s2"))
        store.put_set("r1", make_set("s1"))
        store.put_scores("s1", [make_score("s1-0")])
        store.put_pairs("r1", [PreferencePair(set_id="s1", chosen=0, rejected=1, margin=1)])
        return store

    READS = (
        ("rounds/r1.json", lambda store: store.round("r1")),
        ("sets/s1.json", lambda store: store.set("s1")),
        ("sets/s1.json", lambda store: store.set_ids("r1")),
        ("scores/s1.json", lambda store: store.scored("s1")),
        ("pairs/r1.json", lambda store: store.pairs("r1")),
    )

    def test_opens_nothing_before_it_is_written_to(self, tmp_path):
        store = FolderFeedback(tmp_path / "feedback")
        assert store.round_ids() == () and store.set_ids("r1") == ()
        assert list(tmp_path.iterdir()) == []

    def test_survives_being_reopened(self, full, tmp_path):
        reopened = FolderFeedback(str(tmp_path))
        assert reopened.round("r1") == full.round("r1")
        assert reopened.set_ids("r1") == ("s2", "s1")
        assert list(reopened.scored_sets("r1")) == list(full.scored_sets("r1"))
        assert reopened.pairs("r1") == full.pairs("r1")
        reopened.put_set("r1", make_set("s0"))
        assert reopened.set_ids("r1") == full.set_ids("r1") == ("s2", "s1", "s0")

    def test_keeps_one_file_per_record_and_nothing_else(self, full, tmp_path):
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        records = {"rounds/r1.json", "sets/s1.json", "sets/s2.json", "scores/s1.json", "pairs/r1.json"}
        assert files == records | {".lock"}

    @pytest.mark.parametrize(("name", "read"), READS)
    def test_names_the_file_that_is_cut_short(self, full, tmp_path, name, read):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataFileError, match="cut short") as caught:
            read(FolderFeedback(tmp_path))
        assert caught.value.path == path

    @pytest.mark.parametrize(("name", "read"), READS)
    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "cut short"),
            (b"\x80\x04\x95", "not JSON"),
            (b"[1, 2]", "no schema_version"),
            (b'{"name": "somebody\'s settings"}', "no schema_version"),
            (b'{"schema_version": 1, "mine": true}', "is no "),
            (b'{"schema_version": 2}', "schema_version 2"),
            (b'{"schema_version": "1"}', "schema_version '1'"),
        ],
    )
    def test_names_the_file_that_is_foreign(self, full, tmp_path, name, read, content, problem):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFileError, match=problem) as caught:
            read(FolderFeedback(tmp_path))
        assert caught.value.path == tmp_path / name

    @pytest.mark.parametrize("name", sorted({name for name, _ in READS}))
    def test_says_which_schema_version_it_knows(self, full, tmp_path, name):
        path = tmp_path / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 3}))
        with pytest.raises(DataFileError, match="has schema_version 3, but only 1 is known here"):
            dict(self.READS)[name](FolderFeedback(tmp_path))

    def test_notices_a_file_under_another_name(self, full, tmp_path):
        (tmp_path / "sets/s9.json").write_bytes((tmp_path / "sets/s1.json").read_bytes())
        with pytest.raises(DataFileError, match="'s1'") as caught:
            FolderFeedback(tmp_path).set("s9")
        assert caught.value.path == tmp_path / "sets/s9.json"

    def test_leaves_files_alone_that_are_not_called_like_records(self, full, tmp_path):
        (tmp_path / "sets/.0123.tmp").write_bytes(b"{")
        (tmp_path / "sets/notes.txt").write_text("mine")
        (tmp_path / "rounds/.hidden.json").write_text("mine")
        assert FolderFeedback(tmp_path).set_ids("r1") == ("s2", "s1")
        assert FolderFeedback(tmp_path).round_ids() == ("r1",)

    def test_has_the_old_record_after_a_writer_was_killed(self, full, tmp_path, start_python):
        dies_before_replacing = (
            "import os, pathlib, sys\n"
            "from fashiondpo.storage.feedback import FolderFeedback\n"
            "store = FolderFeedback(sys.argv[1])\n"
            "pathlib.Path.replace = lambda *paths: os._exit(9)\n"
            "store.put_scores('s1', [store.scored('s1').scores[0].model_copy(update={'value': 9.0})])\n"
        )
        assert start_python(dies_before_replacing, tmp_path).wait(60) == 9
        store = FolderFeedback(tmp_path)
        assert store.scored("s1") == full.scored("s1")
        store.put_scores("s1", [make_score("s1-0", 2.0)])
        assert store.scored("s1").value("s1-0", "quality") == 2.0

    def test_loses_no_score_of_judges_in_several_processes(self, tmp_path, start_python):
        FolderFeedback(tmp_path).put_set("r1", make_set(candidates=30))
        judges = (
            "import sys\n"
            "from fashiondpo.contracts import Score\n"
            "from fashiondpo.storage.feedback import FolderFeedback\n"
            "store = FolderFeedback(sys.argv[1])\n"
            "for k in range(30):\n"
            "    score = Score(candidate_id=f's1-{k}', criterion=sys.argv[2], judge_version='1', value=k)\n"
            "    store.put_scores('s1', [score])\n"
        )
        running = [start_python(judges, tmp_path, criterion) for criterion in ("quality", "compatibility", "votes")]
        assert [judge.wait(60) for judge in running] == [0, 0, 0]
        assert len(FolderFeedback(tmp_path).scored("s1").scores) == 90

    def test_gives_every_set_its_own_place_among_several_processes(self, tmp_path, start_python):
        template = FolderFeedback(tmp_path)
        template.put_set("r1", make_set("template"))
        puts = (
            "import sys\n"
            "from fashiondpo.storage.feedback import FolderFeedback\n"
            "store = FolderFeedback(sys.argv[1])\n"
            "for i in range(20):\n"
            "    set_id = f'{sys.argv[2]}-{i:02}'\n"
            "    store.put_set('r1', store.set('template').model_copy(update={'set_id': set_id}))\n"
        )
        running = [start_python(puts, tmp_path, name) for name in "abc"]
        assert [process.wait(60) for process in running] == [0, 0, 0]
        set_ids = FolderFeedback(tmp_path).set_ids("r1")
        assert set_ids == template.set_ids("r1") and len(set(set_ids)) == 61
        for name in "abc":
            own = [set_id for set_id in set_ids if set_id.startswith(f"{name}-")]
            assert own == sorted(own)


class TestRedisFeedback:
    @pytest.fixture
    def prefix(self, places) -> str:
        return places.prefix()

    @pytest.fixture
    def full(self, places, prefix) -> RedisFeedback:
        store = RedisFeedback(places.redis(), prefix)
        store.put_round(make_round())
        store.put_set("r1", make_set("s2"))
        store.put_set("r1", make_set("s1"))
        store.put_scores("s1", [make_score("s1-0")])
        store.put_pairs("r1", [PreferencePair(set_id="s1", chosen=0, rejected=1, margin=1)])
        return store

    READS = (
        ("rounds:r1", lambda store: store.round("r1")),
        ("sets:s1", lambda store: store.set("s1")),
        ("sets:s1", lambda store: list(store.scored_sets("r1"))),
        ("sets:s1", lambda store: store.put_set("r1", make_set("s1"))),
        ("scores:s1", lambda store: store.scored("s1")),
        ("scores:s1", lambda store: store.put_scores("s1", [make_score("s1-1")])),
        ("pairs:r1", lambda store: store.pairs("r1")),
    )

    def test_keeps_records_as_json_and_lists_of_what_there_is(self, full, places, prefix):
        keys = set(places.redis().scan_iter(f"{prefix}:*"))
        records = {"rounds:r1", "sets:s1", "sets:s2", "scores:s1", "pairs:r1", "round-ids", "round-sets:r1"}
        assert keys == {f"{prefix}:{name}" for name in records}
        assert json.loads(places.redis().get(f"{prefix}:rounds:r1"))["schema_version"] == 1

    def test_keeps_everything_until_somebody_deletes_it(self, full, places, prefix):
        client = places.redis()
        assert {client.ttl(key) for key in client.scan_iter(f"{prefix}:*")} == {-1}

    def test_knows_nothing_of_what_is_under_another_prefix(self, full, places):
        other = RedisFeedback(places.redis(), places.prefix())
        assert other.round_ids() == () and other.set_ids("r1") == ()
        other.put_set("r9", make_set("s1"))
        assert full.set_ids("r1") == ("s2", "s1")

    @pytest.mark.parametrize(("key", "read"), READS)
    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("", "cut short"),
            ("{", "cut short"),
            (b"\x80\x04\x95", "not JSON"),
            ("[1, 2]", "no schema_version"),
            ('{"schema_version": 1, "mine": true}', "is no "),
            ('{"schema_version": 2}', "schema_version 2, but only 1 is known here"),
        ],
    )
    def test_names_the_record_that_cannot_be_read(self, full, places, prefix, key, read, content, problem):
        places.redis().set(f"{prefix}:{key}", content)
        with pytest.raises(DataFileError, match=problem) as caught:
            read(full)
        assert str(caught.value.path) == f"{prefix}:{key}"

    def test_reads_a_long_round_in_portions_and_in_order(self, full):
        names = [f"t{i}" for i in range(150)]
        for name in names:
            full.put_set("r2", make_set(name))
        full.put_scores("t149", [make_score("t149-0")])
        scored = list(full.scored_sets("r2"))
        assert [s.candidate_set.set_id for s in scored] == names
        assert [len(s.scores) for s in scored] == [0] * 149 + [1]

    def test_loses_no_score_of_judges_in_several_processes(self, places, prefix, valkey_url, start_python):
        store = RedisFeedback(places.redis(), prefix)
        store.put_set("r1", make_set(candidates=30))
        judges = (
            "import sys\n"
            "from fashiondpo.contracts import Score\n"
            "from fashiondpo.storage.redis_connection import connect\n"
            "from fashiondpo.storage.redis_feedback import RedisFeedback\n"
            "store = RedisFeedback(connect(sys.argv[1]), sys.argv[2])\n"
            "for k in range(30):\n"
            "    score = Score(candidate_id=f's1-{k}', criterion=sys.argv[3], judge_version='1', value=k)\n"
            "    store.put_scores('s1', [score])\n"
        )
        running = [start_python(judges, valkey_url, prefix, name) for name in ("quality", "compatibility", "votes")]
        assert [judge.wait(60) for judge in running] == [0, 0, 0]
        assert len(store.scored("s1").scores) == 90

    def test_is_as_before_after_a_writer_was_killed_at_any_moment(self, places, prefix, valkey_url, start_python):
        store = RedisFeedback(places.redis(), prefix)
        puts = (
            "import sys\n"
            "from fashiondpo.storage.redis_connection import connect\n"
            "from fashiondpo.storage.redis_feedback import RedisFeedback\n"
            "store = RedisFeedback(connect(sys.argv[1]), sys.argv[2])\n"
            "for i in range(100_000):\n"
            "    store.put_set('r1', store.set('template').model_copy(update={'set_id': f's{i}'}))\n"
            "    print(i, flush=True)\n"
        )
        store.put_set("r1", make_set("template"))
        writer = start_python(puts, valkey_url, prefix)
        announced = [int(writer.stdout.readline()) for _ in range(20)]
        writer.kill()
        writer.wait(60)
        kept = store.set_ids("r1")
        assert kept[1:] == tuple(f"s{i}" for i in range(len(kept) - 1)) and len(kept) - 1 >= len(announced)
        assert [s.candidate_set.set_id for s in store.scored_sets("r1")] == list(kept)
        store.put_set("r1", make_set("after"))
