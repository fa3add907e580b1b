"""What only a feedback store in Redis has: several processes at once, on one server."""

from __future__ import annotations

import json

import pytest

from fashiondpo.contracts import (
    PreferencePair,
)
from fashiondpo.errors import DataFileError
from fashiondpo.storage.redis_feedback import RedisFeedback
from tests.protocols.small_records import make_round, make_score, make_set


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
