"""Artifacts in S3: what only a store behind a network can go wrong with. A real server, over HTTP."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3fs import S3FileSystem

from fashiondpo.contracts import content_ref
from fashiondpo.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from fashiondpo.storage.artifacts import FolderArtifacts
from tests.faulty_store import FaultyStore
from tests.s3_server import S3Server

LARGE = os.urandom(1 << 20) * 20
"""Takes long enough to send for somebody to look meanwhile."""
PIXELS = os.urandom(1 << 19)
"""More than comes with the head of an answer."""


@pytest.fixture
def store(s3_url):
    return FolderArtifacts(s3_url)


@pytest.fixture
def objects(s3_server, s3_url):
    """Looks into the bucket, past the store."""
    return lambda: {
        key.removeprefix(f"{s3_url.removeprefix('s3://')}/") for key in s3_server.file_system().find(s3_url)
    }


class TestObjects:
    def test_lie_as_files_do_in_a_folder_and_nothing_lies_beside_them(self, store, objects):
        ref = store.put(b"pixels", "png")
        assert objects() == {f"{ref[:2]}/{ref}"}

    def test_are_written_once(self, store, s3_server, s3_url):
        path = f"{s3_url}/{(ref := store.put(b'pixels', 'png'))[:2]}/{ref}"
        before = s3_server.file_system().info(path)["LastModified"]
        assert store.put(b"pixels", "png") == ref
        assert s3_server.file_system().info(path)["LastModified"] == before

    def test_that_were_cut_short_are_written_again(self, store, s3_server, s3_url):
        ref = store.put(b"pixels", "png")
        s3_server.file_system().pipe_file(f"{s3_url}/{ref[:2]}/{ref}", b"pix")
        with pytest.raises(CorruptArtifact, match="its 3 bytes have another digest"):
            store.get(ref)
        store.put(b"pixels", "png")
        assert store.get(ref) == b"pixels"

    def test_that_are_damaged_are_found_out(self, store, s3_server, s3_url):
        ref = store.put(b"pixels", "png")
        s3_server.file_system().pipe_file(f"{s3_url}/{ref[:2]}/{ref}", b"pixelz")
        with pytest.raises(CorruptArtifact, match=ref):
            store.get(ref)

    def test_show_no_part_of_what_is_still_being_sent(self, store):
        ref = content_ref(LARGE, "safetensors")
        seen = []
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(store.put, LARGE, "safetensors")
            while not sent.done():
                try:
                    seen.append(len(store.get(ref)))
                except NotFound:
                    seen.append(0)
        assert sent.result() == ref and store.get(ref) == LARGE
        assert set(seen) <= {0, len(LARGE)} and 0 in seen


class TestOtherProcesses:
    PUTS = """
import sys
from fashiondpo.storage.artifacts import FolderArtifacts
print(FolderArtifacts(sys.argv[1]).put(b"pixels", "png"), flush=True)
"""

    def test_find_endpoint_and_keys_in_their_environment(self, store, s3_url, start_python):
        process = start_python(self.PUTS, s3_url)
        ref = process.communicate(timeout=60)[0].strip()
        assert process.returncode == 0
        assert store.get(ref) == b"pixels"

    def test_that_are_killed_while_they_send_leave_nothing_that_could_be_taken_for_an_artifact(
        self, store, s3_url, start_python
    ):
        dies_while_it_sends = (
            "import os, sys\n"
            "import s3fs\n"
            "from fashiondpo.storage.artifacts import FolderArtifacts\n"
            "sends = s3fs.S3FileSystem._call_s3\n"
            "async def dying(self, method, *args, **kwargs):\n"
            "    if method == 'complete_multipart_upload': os._exit(9)\n"
            "    return await sends(self, method, *args, **kwargs)\n"
            "s3fs.S3FileSystem._call_s3 = dying\n"
            "FolderArtifacts(sys.argv[1]).put(b'pixels' * 18_000_000, 'png')\n"  # so much is sent in parts
        )
        assert start_python(dies_while_it_sends, s3_url).wait(60) == 9
        assert list(store.refs()) == [] and not store.has(content_ref(b"pixels" * 18_000_000, "png"))


class TestTrouble:
    def test_a_bucket_that_is_not_there_is_unavailable_and_is_not_made(self, s3_url, s3_server):
        store = FolderArtifacts("s3://no-such-bucket/artifacts")
        for use in (lambda: store.put(b"pixels", "png"), lambda: list(store.refs())):
            with pytest.raises(Unavailable, match=r"no-such-bucket.*bucket does not exist"):
                use()
        assert not s3_server.file_system().exists("no-such-bucket")

    def test_a_server_that_is_gone_is_unavailable(self, tmp_path, monkeypatch, start_python):
        with S3Server(tmp_path / "s3.log") as server:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            url = f"s3://{server.bucket()}/artifacts"
        uses = (
            "import sys\n"
            "from fashiondpo.errors import Unavailable\n"
            "from fashiondpo.storage.artifacts import FolderArtifacts\n"
            "try: FolderArtifacts(sys.argv[1]).put(b'pixels', 'png')\n"
            "except Unavailable as error: print(error); sys.exit(7)\n"
        )
        process = start_python(uses, url)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 7 and url in said and "Could not connect" in said

    def test_missing_keys_are_told(self, s3_url, monkeypatch, start_python, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        uses = (
            "import sys\n"
            "from fashiondpo.errors import Unavailable\n"
            "from fashiondpo.storage.artifacts import FolderArtifacts\n"
            "try: FolderArtifacts(sys.argv[1]).put(b'pixels', 'png')\n"
            "except Unavailable as error: print(error); sys.exit(7)\n"
        )
        process = start_python(uses, s3_url)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 7 and "credentials" in said.lower()

    def test_what_is_no_reference_reaches_no_object(self, store, s3_server, s3_url):
        s3_server.file_system().pipe_file(f"{s3_url.removesuffix('/artifacts')}/secret.png", b"secret")
        with pytest.raises(InvalidInput):
            store.get("../secret.png")


class TestServerInTrouble:
    """It is there, and does not do what it is asked; afterwards it is as if nothing had been."""

    @pytest.fixture
    def wire(self, s3_server, s3_url, monkeypatch):
        with FaultyStore(s3_server.port) as wire:
            monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
            S3FileSystem.clear_instance_cache()  # one that is open has found its server
            yield wire
            S3FileSystem.clear_instance_cache()

    @pytest.fixture
    def uses(self, wire, s3_url):
        """A store at the wire, what it keeps, and everything that can be asked of it."""
        store = FolderArtifacts(s3_url)
        kept = store.put(PIXELS, "png")
        asked = {
            "put": lambda: store.put(b"others", "png"),
            "get": lambda: store.get(kept),
            "has": lambda: store.has(kept),
            "refs": lambda: list(store.refs()),
            "delete": lambda: store.delete(kept),
        }
        return store, kept, asked

    def test_that_answers_503_is_asked_three_times_and_is_then_unavailable(self, wire, uses):
        store, kept, asked = uses
        wire.be_busy()
        for name, use in asked.items():
            before = wire.refused()
            with pytest.raises(Unavailable, match="does not answer"):
                use()
            assert wire.refused() - before == 3, name
        wire.heal()
        assert list(store.refs()) == [kept] and store.get(kept) == PIXELS

    def test_that_is_busy_only_for_a_moment_is_not_noticed(self, wire, uses):
        _, _, asked = uses
        for use in asked.values():
            wire.be_busy(times=2)
            use()
            assert wire.refused() == 2

    def test_that_breaks_off_in_its_answer_is_unavailable(self, wire, uses):
        store, kept, asked = uses
        wire.cut()
        with pytest.raises(Unavailable, match="does not answer"):
            asked["get"]()
        wire.heal()
        assert store.get(kept) == PIXELS

    @pytest.mark.slow
    def test_that_hangs_is_given_up_within_a_minute(self, wire, uses):
        store, kept, asked = uses
        wire.hang()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            asked["get"]()
        assert time.monotonic() - began < 60
        wire.heal()
        assert store.get(kept) == PIXELS
