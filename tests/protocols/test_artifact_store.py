"""What every artifact store does, and what only files can go wrong with."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashiondpo.contracts import content_digest, content_ref
from fashiondpo.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from fashiondpo.storage.artifacts import ArtifactStore, FolderArtifacts, MemoryArtifacts

SUFFIXES = ("png", "safetensors", "json", "html")
NO_REFS = [
    "",
    "../secret.png",
    f"../{'a' * 64}.png",
    f"{'a' * 64}.png/../../secret",
    f"{'a' * 64}.pickle",
    f"{'A' * 64}.png",
    f"{'a' * 63}.png",
    f"{'a' * 64}.png\n",
    f"{'a' * 64}",
]

Open = Callable[[], ArtifactStore]

# Each makes an empty store, in the empty folder where it needs one.
IMPLEMENTATIONS: dict[str, Callable[[Path], ArtifactStore]] = {
    "memory": lambda _: MemoryArtifacts(),
    "folder": FolderArtifacts,
    "file URL": lambda folder: FolderArtifacts(f"file://{folder}"),
    "memory URL": lambda _: FolderArtifacts(f"memory://{uuid4().hex}/artifacts"),
}


@pytest.fixture(params=[*IMPLEMENTATIONS, "S3 URL"])
def open_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Open:
    if request.param == "S3 URL":
        url = request.getfixturevalue("s3_url")
        return lambda: FolderArtifacts(f"{url}/{uuid4().hex}")
    return lambda: IMPLEMENTATIONS[request.param](tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(open_store: Open) -> ArtifactStore:
    return open_store()


@pytest.fixture
def missing() -> str:
    return content_ref(b"never put", "png")


class TestPut:
    def test_returns_the_digest_of_the_content_with_the_suffix(self, store):
        assert store.put(b"pixels", "png") == f"{content_digest(b'pixels')}.png"

    def test_keeps_content_that_get_returns(self, store):
        assert store.get(store.put(b"pixels", "png")) == b"pixels"

    def test_keeps_empty_content(self, store):
        assert store.get(store.put(b"", "json")) == b""

    def test_gives_the_same_reference_for_the_same_content(self, store):
        assert store.put(b"pixels", "png") == store.put(b"pixels", "png")
        assert len(list(store.refs())) == 1

    def test_tells_the_same_content_with_another_suffix_apart(self, store):
        assert sorted(store.refs()) == []
        refs = {store.put(b"{}", "json"), store.put(b"{}", "html")}
        assert set(store.refs()) == refs and len(refs) == 2

    @pytest.mark.parametrize("suffix", ["pt", "", ".png", "png/../x", "PNG"])
    def test_refuses_an_unknown_suffix(self, store, suffix):
        with pytest.raises(InvalidInput, match="no artifact reference"):
            store.put(b"pixels", suffix)
        assert list(store.refs()) == []

    def test_by_many_threads_at_once_loses_nothing(self, store, busy_threads):
        contents = [str(i % 5).encode() * 1000 for i in range(40)]
        start = Barrier(8)

        def put_all(_: int) -> list[str]:
            start.wait()
            return [store.put(content, "json") for content in contents]

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(put_all, range(8)))
        assert all(result == results[0] for result in results)
        assert [store.get(ref) for ref in results[0]] == contents
        assert set(store.refs()) == set(results[0])


class TestGet:
    def test_says_what_is_not_there(self, store, missing):
        with pytest.raises(NotFound, match=missing):
            store.get(missing)

    @pytest.mark.parametrize("ref", NO_REFS)
    def test_refuses_what_is_no_reference(self, store, ref):
        with pytest.raises(InvalidInput, match="no artifact reference"):
            store.get(ref)


class TestHas:
    def test_is_true_of_what_was_put_and_of_nothing_else(self, store, missing):
        assert store.has(store.put(b"pixels", "png"))
        assert not store.has(missing)

    @pytest.mark.parametrize("ref", NO_REFS)
    def test_refuses_what_is_no_reference(self, store, ref):
        with pytest.raises(InvalidInput):
            store.has(ref)


class TestRefs:
    def test_are_none_at_first(self, store):
        assert list(store.refs()) == []

    def test_are_sorted(self, store):
        refs = [store.put(bytes([i]), "png") for i in range(20)]
        assert list(store.refs()) == sorted(refs)

    def test_survive_deletion_while_they_are_walked(self, store):
        refs = [store.put(bytes([i]), "png") for i in range(5)]
        for ref in store.refs():
            store.delete(ref)
        assert not any(store.has(ref) for ref in refs)


class TestDelete:
    def test_forgets_the_content(self, store):
        ref = store.put(b"pixels", "png")
        store.delete(ref)
        assert not store.has(ref)
        with pytest.raises(NotFound):
            store.get(ref)

    def test_does_nothing_the_second_time(self, store):
        ref, other = store.put(b"pixels", "png"), store.put(b"others", "png")
        store.delete(ref)
        store.delete(ref)
        assert list(store.refs()) == [other]

    def test_does_nothing_in_an_empty_store(self, store, missing):
        store.delete(missing)

    def test_lets_the_content_be_put_again(self, store):
        store.delete(store.put(b"pixels", "png"))
        assert store.get(store.put(b"pixels", "png")) == b"pixels"

    @pytest.mark.parametrize("ref", NO_REFS)
    def test_refuses_what_is_no_reference(self, store, ref):
        with pytest.raises(InvalidInput):
            store.delete(ref)


class TestAnyContents:
    def test_come_back_as_they_were(self, open_store):
        @settings(max_examples=20)
        @given(st.lists(st.tuples(st.binary(max_size=200), st.sampled_from(SUFFIXES)), max_size=8))
        def come_back(artifacts: list[tuple[bytes, str]]) -> None:
            store = open_store()
            refs = [store.put(content, suffix) for content, suffix in artifacts]
            assert [store.get(ref) for ref in refs] == [content for content, _ in artifacts]
            assert list(store.refs()) == sorted(set(refs))

        come_back()


class TestFolderArtifacts:
    def test_opens_nothing_before_it_is_used(self, tmp_path):
        FolderArtifacts(tmp_path / "artifacts")
        assert list(tmp_path.iterdir()) == []

    def test_lays_files_out_by_the_first_two_digits(self, tmp_path):
        ref = FolderArtifacts(tmp_path).put(b"pixels", "png")
        assert (tmp_path / ref[:2] / ref).read_bytes() == b"pixels"
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / ref[:2] / ref]

    def test_finds_what_another_one_put(self, tmp_path):
        first, second = FolderArtifacts(tmp_path), FolderArtifacts(str(tmp_path))
        assert list(second.refs()) == []
        ref = first.put(b"pixels", "png")
        assert second.has(ref) and second.get(ref) == b"pixels" and list(second.refs()) == [ref]

    def test_writes_the_same_content_once(self, tmp_path):
        store = FolderArtifacts(tmp_path)
        path = tmp_path / (ref := store.put(b"pixels", "png"))[:2] / ref
        before = path.stat()
        store.put(b"pixels", "png")
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_notices_damaged_bytes(self, tmp_path):
        store = FolderArtifacts(tmp_path)
        ref = store.put(b"pixels", "png")
        (tmp_path / ref[:2] / ref).write_bytes(b"pixelz")
        with pytest.raises(CorruptArtifact, match=ref):
            store.get(ref)

    def test_writes_again_what_was_cut_short(self, tmp_path):
        store = FolderArtifacts(tmp_path)
        ref = store.put(b"pixels", "png")
        (tmp_path / ref[:2] / ref).write_bytes(b"pix")
        store.put(b"pixels", "png")
        assert store.get(ref) == b"pixels"

    def test_does_not_list_what_it_did_not_put(self, tmp_path):
        store = FolderArtifacts(tmp_path)
        ref = store.put(b"pixels", "png")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / ref[:2] / ".0123.tmp").write_bytes(b"pix")
        (tmp_path / "zz").mkdir()
        (tmp_path / "zz" / ref).write_bytes(b"in the wrong folder")
        assert list(store.refs()) == [ref]

    def test_says_when_its_folder_cannot_be_one(self, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(Unavailable, match="taken"):
            FolderArtifacts(tmp_path / "taken").put(b"pixels", "png")

    @pytest.mark.parametrize(
        "use",
        [
            lambda store, ref: store.get(ref),
            lambda store, ref: store.has(ref),
            lambda store, ref: store.put(b"other pixels", "png"),
            lambda store, ref: store.delete(ref),
            lambda store, ref: list(store.refs()),
        ],
        ids=["get", "has", "put", "delete", "refs"],
    )
    @pytest.mark.parametrize("known_by", ["put", "get", "has", "a vain look"])
    def test_is_unavailable_while_its_folder_is_away_and_has_all_of_it_when_it_is_back(
        self, tmp_path, missing, known_by, use
    ):
        folder, aside = tmp_path / "artifacts", tmp_path / "aside"
        ref = FolderArtifacts(folder).put(b"pixels", "png")
        store = FolderArtifacts(folder)
        looks = {
            "put": lambda: store.put(b"more pixels", "png"),
            "get": lambda: store.get(ref),
            "has": lambda: store.has(ref),
            "a vain look": lambda: store.has(missing),
        }
        looks[known_by]()
        folder.rename(aside)
        with pytest.raises(Unavailable, match="folder is not there"):
            use(store, ref)
        assert not folder.exists()
        aside.rename(folder)
        assert store.get(ref) == b"pixels"

    def test_is_empty_where_no_folder_ever_was_but_takes_a_reference_for_a_sign_that_there_should_be_one(
        self, tmp_path, missing
    ):
        store = FolderArtifacts(tmp_path / "artifacts")
        assert not store.has(missing) and list(store.refs()) == []
        store.delete(missing)
        with pytest.raises(Unavailable, match="folder is not there"):
            store.get(missing)
        store.put(b"pixels", "png")
        with pytest.raises(NotFound):
            store.get(missing)

    @pytest.mark.parametrize("url", ["nosuchprotocol://bucket/prefix", "oss-hdfs-x://y"])
    def test_refuses_an_unknown_protocol(self, url):
        with pytest.raises(InvalidInput, match=url):
            FolderArtifacts(url)

    def test_shows_nothing_of_what_a_killed_writer_wrote(self, tmp_path, start_python):
        dies_before_moving = (
            "import os, pathlib, sys\n"
            "from fashiondpo.storage.artifacts import FolderArtifacts\n"
            "pathlib.Path.replace = lambda *paths: os._exit(9)\n"
            "FolderArtifacts(sys.argv[1]).put(b'pixels', 'png')\n"
        )
        assert start_python(dies_before_moving, tmp_path).wait(60) == 9
        store = FolderArtifacts(tmp_path)
        assert list(store.refs()) == []
        assert not store.has(content_ref(b"pixels", "png"))
        assert store.get(store.put(b"pixels", "png")) == b"pixels"

    def test_is_unavailable_when_the_disk_is_full_and_shows_no_part_of_what_it_could_not_write(
        self, tmp_path, start_python
    ):
        finds_no_room = (
            "import resource, sys\n"
            "from fashiondpo.errors import Unavailable\n"
            "from fashiondpo.storage.artifacts import FolderArtifacts\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "try: FolderArtifacts(sys.argv[1]).put(b'pixels' * 1000, 'png')\n"
            "except Unavailable: sys.exit(7)\n"
        )
        assert start_python(finds_no_room, tmp_path).wait(60) == 7
        store = FolderArtifacts(tmp_path)
        assert list(store.refs()) == []
        assert store.get(store.put(b"pixels" * 1000, "png")) == b"pixels" * 1000

    def test_serves_several_processes_at_once(self, tmp_path, start_python):
        puts = (
            "import sys\n"
            "from fashiondpo.storage.artifacts import FolderArtifacts\n"
            "store = FolderArtifacts(sys.argv[1])\n"
            "for i in range(50): store.put(bytes([i]) * 10_000, 'png')\n"
        )
        writers = [start_python(puts, tmp_path) for _ in range(3)]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        store = FolderArtifacts(tmp_path)
        assert sorted(store.get(ref)[0] for ref in store.refs()) == list(range(50))


class TestMakeFolder:
    def test_lets_readers_meet_an_empty_store(self, tmp_path):
        store = FolderArtifacts(tmp_path / "a" / "artifacts")
        store.make_folder()
        with pytest.raises(NotFound):
            store.get(content_ref(b"never put", "png"))

    def test_of_a_store_that_is_there_changes_nothing(self, tmp_path):
        store = FolderArtifacts(tmp_path)
        ref = store.put(b"kept", "png")
        FolderArtifacts(tmp_path).make_folder()
        assert store.get(ref) == b"kept"

    def test_that_cannot_be_made_shows_when_something_is_put(self, tmp_path):
        (tmp_path / "taken").write_text("a file")
        store = FolderArtifacts(tmp_path / "taken" / "artifacts")
        store.make_folder()
        with pytest.raises(Unavailable):
            store.put(b"content", "png")
