"""What only files can go wrong with in a feedback store."""

from __future__ import annotations

import json

import pytest

from fashiondpo.contracts import (
    PreferencePair,
)
from fashiondpo.errors import DataFileError
from fashiondpo.storage.feedback import FolderFeedback
from tests.protocols.small_records import make_round, make_score, make_set


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
