"""What every adapter registry does, and what only files can go wrong with."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fashiondpo.contracts import AdapterManifest, AdapterRef, GateVerdict, Interval, content_digest
from fashiondpo.errors import Conflict, CorruptArtifact, DataFileError, InvalidAdapter, InvalidInput, NotFound
from fashiondpo.storage.adapters import AdapterRegistry, FolderAdapters, MemoryAdapters, check_safetensors
from fashiondpo.storage.artifacts import FolderArtifacts, MemoryArtifacts
from fashiondpo.storage.redis_adapters import AliasHints, RedisAdapters
from fashiondpo.storage.redis_connection import connect
from tests.polling import eventually
from tests.protocols.places import Places

BASE = content_digest(b"base")
PROMOTED = GateVerdict(
    is_promoted=True,
    reasons=("win rate clears the threshold",),
    win_rate=Interval(mean=0.6, low=0.52, high=0.68),
    combined_delta=Interval(mean=0.1, low=0.05, high=0.15),
    diversity_ratio=0.98,
    outfits=200,
)
REJECTED = PROMOTED.model_copy(update={"is_promoted": False, "reasons": ("diversity fell", "too few outfits")})

Open = Callable[[], AdapterRegistry]

# Each makes an empty registry, in an empty folder or in Redis where nobody else is.
IMPLEMENTATIONS: dict[str, Callable[[Places], AdapterRegistry]] = {
    "memory": lambda _: MemoryAdapters(),
    "folder": lambda places: FolderAdapters(places.folder()),
    "redis": lambda places: RedisAdapters(places.redis(), MemoryArtifacts(), places.prefix()),
}


def make_weights(value: float = 0.0) -> bytes:
    return save({"to_q.lora_A.weight": np.full((4, 8), value, np.float32)})


def publish(registry: AdapterRegistry, round_id: str = "r1", value: float = 0.0, **fields: object) -> AdapterManifest:
    arguments = {
        "base_digest": BASE,
        "parent": AdapterRef(),
        "rank": 4,
        "targets": ["to_q", "to_out.0"],
        "training": {"pairs": 120, "loss": 0.69, "optimizer": "adamw", "is_resumed": False, "limit": None},
        "verdict": PROMOTED,
    }
    return registry.publish(make_weights(value), round_id=round_id, **(arguments | fields))


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(params=IMPLEMENTATIONS)
def open_registry(request: pytest.FixtureRequest, places: Places) -> Open:
    return lambda: IMPLEMENTATIONS[request.param](places)


@pytest.fixture
def registry(open_registry: Open) -> AdapterRegistry:
    return open_registry()


class TestPublish:
    def test_gives_version_one_first_and_then_the_next(self, registry):
        assert registry.versions() == ()
        assert [publish(registry, f"r{i}", i).version for i in range(3)] == [1, 2, 3]
        assert registry.versions() == (1, 2, 3)

    def test_says_in_the_manifest_what_was_published(self, registry):
        before = datetime.now(UTC) - timedelta(seconds=1)
        parent = publish(registry).ref
        manifest = publish(registry, "r2", 0.5, parent=parent)
        assert manifest.digest == content_digest(make_weights(0.5))
        assert (manifest.round_id, manifest.base_digest, manifest.parent) == ("r2", BASE, parent)
        assert (manifest.rank, manifest.targets, manifest.verdict) == (4, ("to_q", "to_out.0"), PROMOTED)
        assert manifest.training["pairs"] == 120 and manifest.training["is_resumed"] is False
        assert before <= datetime.fromisoformat(manifest.created_at) <= datetime.now(UTC)
        assert registry.manifest(2) == manifest

    def test_keeps_the_bytes_as_they_were_given(self, registry):
        publish(registry, value=0.25)
        assert registry.weights(1) == make_weights(0.25)

    def test_of_the_same_round_again_gives_the_version_it_has(self, registry):
        first = publish(registry)
        publish(registry, "r2", 1)
        assert publish(registry, training={"attempt": 2}) == first
        assert registry.versions() == (1, 2)

    def test_of_the_same_round_with_other_weights_is_a_conflict(self, registry):
        publish(registry)
        with pytest.raises(Conflict, match="'r1' was published as version 1"):
            publish(registry, value=1)
        assert registry.versions() == (1,) and registry.weights(1) == make_weights()

    def test_of_the_same_weights_in_another_round_is_another_version(self, registry):
        assert publish(registry, "r1").version == 1
        assert publish(registry, "r2").version == 2

    def test_keeps_rejected_adapters_too(self, registry):
        assert publish(registry, verdict=REJECTED).verdict == REJECTED

    def test_does_not_activate(self, registry):
        publish(registry)
        assert registry.alias("champion") is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"rank": 0},
            {"base_digest": "latest"},
            {"round_id": "../r1"},
            {"training": {"curve": [1, 2]}},
            {"training": {"loss": math.nan}},
            {"verdict": PROMOTED.model_copy(update={"diversity_ratio": math.inf})},
        ],
    )
    def test_refuses_what_cannot_be_right(self, registry, fields):
        with pytest.raises(InvalidInput):
            publish(registry, **fields)
        assert registry.versions() == ()

    def test_at_once_by_several_threads_gives_each_round_one_version(self, registry, busy_threads):
        with ThreadPoolExecutor(8) as pool:
            manifests = list(pool.map(lambda i: publish(registry, f"r{i % 6}", i % 6), range(24)))
        assert registry.versions() == (1, 2, 3, 4, 5, 6)
        assert {manifest.round_id: manifest.version for manifest in manifests} == {
            registry.manifest(version).round_id: version for version in registry.versions()
        }


class TestWeightsCheck:
    WHOLE = make_weights()

    def test_accepts_a_safetensors_file(self):
        check_safetensors(self.WHOLE)

    @pytest.mark.parametrize(
        "weights",
        [
            b"",
            b"\x00" * 7,
            pickle.dumps({"to_q": [1.0, 2.0]}, protocol=4),
            b"PK\x03\x04" + b"\x00" * 60,
            (10**6).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[]",
            (4).to_bytes(8, "little") + b"nope",
            (2).to_bytes(8, "little") + b"\xff\xfe",
            WHOLE[:-1],
            WHOLE + pickle.dumps("more"),
        ],
        ids=["empty", "short", "pickle", "zip", "long header", "list", "no JSON", "no UTF-8", "cut", "longer"],
    )
    def test_refuses_anything_else(self, registry, weights):
        with pytest.raises(InvalidAdapter, match="no safetensors file"):
            registry.publish(
                weights,
                round_id="r1",
                base_digest=BASE,
                parent=AdapterRef(),
                rank=4,
                targets=["to_q"],
                training={},
                verdict=None,
            )
        assert registry.versions() == ()

    @given(st.integers(0, len(WHOLE) - 1))
    def test_refuses_every_part_of_a_file(self, length):
        with pytest.raises(InvalidAdapter):
            check_safetensors(self.WHOLE[:length])

    @given(st.binary(max_size=200))
    def test_never_fails_in_another_way(self, content):
        with suppress(InvalidAdapter):
            check_safetensors(content)


class TestVersions:
    def test_that_are_unknown_are_not_found(self, registry):
        publish(registry)
        for read in (registry.manifest, registry.weights, registry.activate):
            for version in (2, -1):
                with pytest.raises(NotFound, match="published: 1"):
                    read(version)

    def test_zero_is_the_base_model_without_weights(self, registry):
        with pytest.raises(NotFound, match="base model"):
            registry.weights(0)

    def test_do_not_change_with_the_manifest_that_was_returned(self, registry):
        publish(registry).training["pairs"] = 0
        registry.manifest(1).training["pairs"] = 0
        assert registry.manifest(1).training["pairs"] == 120


class TestActivate:
    def test_makes_the_version_the_champion(self, registry):
        publish(registry)
        registry.activate(1)
        assert registry.alias("champion") == 1

    def test_keeps_the_champion_so_far_as_the_previous_one(self, registry):
        for i in (1, 2, 3):
            publish(registry, f"r{i}")
            registry.activate(i)
        assert (registry.alias("champion"), registry.alias("previous")) == (3, 2)

    def test_the_first_time_keeps_the_base_model_as_the_previous_one(self, registry):
        publish(registry)
        registry.activate(1)
        assert registry.alias("previous") == 0

    def test_of_the_champion_changes_nothing(self, registry):
        for i in (1, 2):
            publish(registry, f"r{i}")
            registry.activate(i)
        registry.activate(2)
        assert (registry.alias("champion"), registry.alias("previous")) == (2, 1)
        assert len(registry.alias_history()) == 2

    def test_refuses_what_the_gate_rejected_and_says_why(self, registry):
        publish(registry, verdict=REJECTED)
        with pytest.raises(Conflict, match="diversity fell; too few outfits"):
            registry.activate(1)
        assert registry.alias("champion") is None

    def test_refuses_what_the_gate_was_not_asked_about(self, registry):
        publish(registry, verdict=None)
        with pytest.raises(Conflict, match="not asked"):
            registry.activate(1)

    @pytest.mark.parametrize("verdict", [None, REJECTED])
    def test_can_be_forced(self, registry, verdict):
        publish(registry, verdict=verdict)
        registry.activate(1, is_forced=True)
        assert registry.alias("champion") == 1
        assert registry.alias_history()[-1].is_forced

    def test_of_the_base_model_is_always_allowed(self, registry):
        registry.activate(0)
        assert (registry.alias("champion"), registry.alias("previous")) == (0, None)
        publish(registry)
        registry.activate(1)
        registry.activate(0)
        assert (registry.alias("champion"), registry.alias("previous")) == (0, 1)

    def test_cannot_be_forced_for_an_unknown_version(self, registry):
        with pytest.raises(NotFound, match="published: none"):
            registry.activate(1, is_forced=True)


class TestRollback:
    def test_makes_the_previous_version_the_champion_again(self, registry):
        for i in (1, 2):
            publish(registry, f"r{i}")
            registry.activate(i)
        assert registry.rollback() == 1
        assert (registry.alias("champion"), registry.alias("previous")) == (1, None)

    def test_of_the_first_adapter_goes_back_to_the_base_model(self, registry):
        publish(registry)
        registry.activate(1)
        assert registry.rollback() == 0
        assert registry.alias("champion") == 0

    def test_twice_is_a_conflict_and_changes_nothing(self, registry):
        for i in (1, 2):
            publish(registry, f"r{i}")
            registry.activate(i)
        registry.rollback()
        with pytest.raises(Conflict, match="no previous adapter to roll back to"):
            registry.rollback()
        assert registry.alias("champion") == 1

    def test_before_any_activation_is_a_conflict(self, registry):
        with pytest.raises(Conflict, match="activate"):
            registry.rollback()

    def test_can_follow_another_activation(self, registry):
        for i in (1, 2, 3):
            publish(registry, f"r{i}")
        registry.activate(1)
        registry.activate(2)
        registry.rollback()
        registry.activate(3)
        assert registry.rollback() == 1


class TestAliases:
    def test_are_none_before_any_activation(self, registry):
        assert registry.alias("champion") is None and registry.alias("previous") is None
        assert registry.alias_history() == ()

    def test_of_other_names_are_refused(self, registry):
        with pytest.raises(InvalidInput, match="'latest'"):
            registry.alias("latest")

    def test_remember_every_move(self, registry):
        for i, verdict in ((1, PROMOTED), (2, REJECTED)):
            publish(registry, f"r{i}", verdict=verdict)
        registry.activate(1)
        registry.activate(2, is_forced=True)
        registry.rollback()
        moves = [(move.kind, move.version, move.is_forced) for move in registry.alias_history()]
        assert moves == [("activate", 1, False), ("activate", 2, True), ("rollback", 1, False)]

    def test_follow_any_sequence_of_moves(self, open_registry):
        @settings(max_examples=20)
        @given(st.lists(st.integers(0, 3) | st.just("rollback"), max_size=8))
        def follow(moves: list[int | str]) -> None:
            registry = open_registry()
            for i in (1, 2, 3):
                publish(registry, f"r{i}")
            champion, previous = None, None
            for move in moves:
                if move == "rollback" and previous is None:
                    with pytest.raises(Conflict):
                        registry.rollback()
                elif move == "rollback":
                    champion, previous = previous, None
                    assert registry.rollback() == champion
                else:
                    registry.activate(move)
                    if move != champion:
                        champion, previous = move, None if (champion or 0) == move else champion or 0
                assert (registry.alias("champion"), registry.alias("previous")) == (champion, previous)

        follow()


class TestFolderAdapters:
    PUBLISH = (
        "import sys\n"
        "import numpy as np\n"
        "from safetensors.numpy import save\n"
        "from fashiondpo.contracts import AdapterRef, content_digest\n"
        "from fashiondpo.storage.adapters import FolderAdapters\n"
        "registry = FolderAdapters(sys.argv[1])\n"
        "def publish(round_id, value=0.0):\n"
        "    weights = save({'a': np.full(300_000, value, np.float32)})\n"
        "    return registry.publish(weights, round_id=round_id, base_digest=content_digest(b'base'),\n"
        "        parent=AdapterRef(), rank=4, targets=['to_q'], training={}, verdict=None)\n"
    )

    def test_opens_nothing_before_it_is_written_to(self, tmp_path):
        registry = FolderAdapters(tmp_path / "adapters")
        assert registry.versions() == () and registry.alias("champion") is None
        assert list(tmp_path.iterdir()) == []

    def test_survives_being_reopened(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        manifests = [publish(registry, f"r{i}", i) for i in (1, 2)]
        registry.activate(2)
        reopened = FolderAdapters(str(tmp_path))
        assert [reopened.manifest(version) for version in reopened.versions()] == manifests
        assert reopened.weights(2) == make_weights(2)
        assert (reopened.alias("champion"), reopened.alias_history()) == (2, registry.alias_history())
        assert publish(reopened, "r3", 3).version == 3

    def test_keeps_a_folder_per_version(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        registry.activate(1)
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        version = {"versions/000001/adapter.safetensors", "versions/000001/manifest.json"}
        assert files == version | {"aliases.json", ".lock"}

    def test_counts_on_after_a_million_versions(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        folder = tmp_path / "versions/000001"
        edit(folder / "manifest.json", version=999_999, round_id="r999999")
        folder.rename(tmp_path / "versions/999999")
        assert publish(registry).version == 1_000_000
        assert registry.versions() == (999_999, 1_000_000)

    def test_notices_damaged_weights(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        (tmp_path / "versions/000001/adapter.safetensors").write_bytes(make_weights(1))
        with pytest.raises(CorruptArtifact, match="version 1 are damaged"):
            registry.weights(1)

    def test_notices_weights_that_are_gone(self, tmp_path):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        (tmp_path / "versions/000001/adapter.safetensors").unlink()
        with pytest.raises(CorruptArtifact, match="version 1 are gone"):
            registry.weights(1)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:50]), "cut short"),
            (lambda path: edit(path, schema_version=2), "only 1 is known"),
            (lambda path: edit(path, version=7), "manifest of version 7"),
            (Path.unlink, "is missing"),
        ],
        ids=["cut short", "unknown schema", "another version", "missing"],
    )
    def test_names_the_manifest_that_cannot_be_read(self, tmp_path, change, problem):
        registry = FolderAdapters(tmp_path)
        publish(registry)
        change(path := tmp_path / "versions/000001/manifest.json")
        with pytest.raises(DataFileError, match=problem) as caught:
            registry.manifest(1)
        assert caught.value.path == path

    def test_names_the_aliases_that_cannot_be_read(self, tmp_path):
        (tmp_path / "aliases.json").write_text('{"champion": 3}')
        with pytest.raises(DataFileError, match="no schema_version") as caught:
            FolderAdapters(tmp_path).alias("champion")
        assert caught.value.path == tmp_path / "aliases.json"

    def test_leaves_folders_alone_that_are_not_called_like_versions(self, tmp_path):
        for name in ("000001.bak", "1", "notes"):
            (tmp_path / "versions" / name).mkdir(parents=True)
        assert FolderAdapters(tmp_path).versions() == ()
        assert publish(FolderAdapters(tmp_path)).version == 1

    @pytest.mark.parametrize("step", ["Path.replace", "Path.rename"])
    def test_shows_nothing_of_what_a_killed_publisher_wrote(self, tmp_path, start_python, step):
        publish(FolderAdapters(tmp_path))
        dies = f"import os\nfrom pathlib import Path\n{step} = lambda *paths: os._exit(9)\npublish('r2')\n"
        assert start_python(self.PUBLISH + dies, tmp_path).wait(60) == 9
        registry = FolderAdapters(tmp_path)
        assert registry.versions() == (1,)
        assert publish(registry, "r2", 2).version == 2
        assert registry.weights(2) == make_weights(2)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "versions"]
        assert {path.name for path in (tmp_path / "versions/000002").iterdir()} == {
            "adapter.safetensors",
            "manifest.json",
        }

    def test_has_only_whole_versions_whenever_a_publisher_is_killed(self, tmp_path, start_python):
        endless = self.PUBLISH + "for i in range(10_000): print(publish(f'r{i}', i).version, flush=True)\n"
        seen = 0
        for announced in (1, 4):
            publisher = start_python(endless, tmp_path)
            for _ in range(announced):
                seen = max(seen, int(publisher.stdout.readline()))
            publisher.kill()
            publisher.wait(60)
            registry = FolderAdapters(tmp_path)
            versions = registry.versions()
            assert versions == tuple(range(1, len(versions) + 1)) and len(versions) >= seen
            assert all(content_digest(registry.weights(v)) == registry.manifest(v).digest for v in versions)

    def test_gives_each_round_one_version_among_several_processes(self, tmp_path, start_python):
        rounds = "for i in range(8): publish(f'r{i}', i)\n"
        publishers = [start_python(self.PUBLISH + rounds, tmp_path) for _ in range(3)]
        assert [publisher.wait(60) for publisher in publishers] == [0, 0, 0]
        registry = FolderAdapters(tmp_path)
        assert registry.versions() == tuple(range(1, 9))
        assert sorted(registry.manifest(version).round_id for version in range(1, 9)) == [f"r{i}" for i in range(8)]


class TestRedisAdapters:
    PUBLISH = (
        "import sys\n"
        "import numpy as np\n"
        "from safetensors.numpy import save\n"
        "from fashiondpo.contracts import AdapterRef, content_digest\n"
        "from fashiondpo.storage.artifacts import FolderArtifacts\n"
        "from fashiondpo.storage.redis_adapters import RedisAdapters\n"
        "from fashiondpo.storage.redis_connection import connect\n"
        "registry = RedisAdapters(connect(sys.argv[1]), FolderArtifacts(sys.argv[3]), sys.argv[2])\n"
        "def publish(round_id, value=0.0):\n"
        "    weights = save({'a': np.full(300_000, value, np.float32)})\n"
        "    return registry.publish(weights, round_id=round_id, base_digest=content_digest(b'base'),\n"
        "        parent=AdapterRef(), rank=4, targets=['to_q'], training={}, verdict=None)\n"
    )

    @pytest.fixture
    def prefix(self, places) -> str:
        return places.prefix()

    @pytest.fixture
    def artifacts(self) -> MemoryArtifacts:
        return MemoryArtifacts()

    @pytest.fixture
    def registry(self, places, prefix, artifacts) -> RedisAdapters:
        return RedisAdapters(places.redis(), artifacts, prefix)

    def test_keeps_weights_as_artifacts_and_the_rest_in_redis(self, registry, places, prefix, artifacts):
        manifest = publish(registry)
        registry.activate(1)
        assert list(artifacts.refs()) == [f"{manifest.digest}.safetensors"]
        names = {"adapter-manifests", "adapter-rounds", "adapter-last", "adapter-aliases"}
        assert set(places.redis().scan_iter(f"{prefix}:*")) == {f"{prefix}:{name}" for name in names}

    def test_is_the_same_for_every_replica(self, registry, places, prefix, artifacts):
        other = RedisAdapters(places.redis(), artifacts, prefix)
        manifests = [publish(registry, "r1"), publish(other, "r2", 1)]
        registry.activate(1)
        other.activate(2)
        for replica in (registry, other):
            assert [replica.manifest(version) for version in replica.versions()] == manifests
            assert (replica.alias("champion"), replica.alias("previous")) == (2, 1)
            assert replica.weights(2) == make_weights(1)

    def test_writes_no_artifact_for_what_it_refuses(self, registry, artifacts):
        with pytest.raises(InvalidInput):
            publish(registry, rank=0)
        assert list(artifacts.refs()) == []

    def test_notices_weights_that_are_gone(self, registry, artifacts):
        artifacts.delete(f"{publish(registry).digest}.safetensors")
        with pytest.raises(CorruptArtifact, match="version 1 are gone"):
            registry.weights(1)

    def test_names_the_manifest_and_the_aliases_that_cannot_be_read(self, registry, places, prefix):
        publish(registry)
        places.redis().hset(f"{prefix}:adapter-manifests", "1", '{"schema_version": 2}')
        places.redis().hset(f"{prefix}:adapter-aliases", "json", '{"champion": 3}')
        with pytest.raises(DataFileError, match="only 1 is known"):
            registry.manifest(1)
        with pytest.raises(DataFileError, match="no schema_version"):
            registry.alias("champion")

    def test_moves_at_once_by_several_replicas_are_all_kept(self, registry, busy_threads):
        for i in range(4):
            publish(registry, f"r{i}", i)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: registry.activate(i % 4 + 1), range(40)))
        history = [move.version for move in registry.alias_history()]
        assert all(a != b for a, b in pairwise(history)) and history[-1] == registry.alias("champion")
        assert registry.alias("previous") == history[-2]

    def test_of_two_rollbacks_at_once_one_is_refused(self, registry, busy_threads):
        for i in (1, 2):
            publish(registry, f"r{i}", i)
            registry.activate(i)

        def roll_back(_: int) -> str:
            try:
                return str(registry.rollback())
            except Conflict:
                return "refused"

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(roll_back, range(4))) == ["1", "refused", "refused", "refused"]
        assert len(registry.alias_history()) == 3

    def test_gives_each_round_one_version_among_several_processes(
        self, places, prefix, valkey_url, tmp_path, start_python
    ):
        publishes = self.PUBLISH + "for i in range(10): print(publish(f'r{i}', i).version, flush=True)\n"
        running = [start_python(publishes, valkey_url, prefix, tmp_path) for _ in range(3)]
        outputs = [process.communicate(timeout=60)[0] for process in running]
        assert outputs[0] == outputs[1] == outputs[2]
        registry = RedisAdapters(places.redis(), FolderArtifacts(tmp_path), prefix)
        assert registry.versions() == tuple(range(1, 11))
        assert {registry.manifest(v).round_id for v in registry.versions()} == {f"r{i}" for i in range(10)}
        assert all(content_digest(registry.weights(v)) == registry.manifest(v).digest for v in registry.versions())


class TestAliasHints:
    def test_come_when_somebody_moves_an_alias(self, places):
        client, prefix = places.redis(), places.prefix()
        registry, hints = RedisAdapters(client, MemoryArtifacts(), prefix), AliasHints(client, prefix)
        publish(registry)
        assert not hints.wait(0.01)  # listens from now on
        registry.activate(1)
        assert hints.wait(20)
        assert not hints.wait(0.01)
        registry.activate(1)
        assert not hints.wait(0.01)
        hints.close()

    def test_do_not_come_from_another_prefix(self, places):
        client = places.redis()
        hints = AliasHints(client, places.prefix())
        assert not hints.wait(0.01)
        RedisAdapters(client, MemoryArtifacts(), places.prefix()).activate(0)
        assert not hints.wait(0.05)
        hints.close()

    def test_come_again_after_the_server_was_away(self, own_valkey):
        client = connect(own_valkey.url, timeout_s=0.5, retries=1)
        registry, hints = RedisAdapters(client, MemoryArtifacts()), AliasHints(client)
        hints.wait(0.01)
        own_valkey.kill9()
        assert not hints.wait(0.05)
        own_valkey.start()
        eventually(lambda: not hints.wait(0.01) and client.pubsub_numsub("fashiondpo:adapters")[0][1] == 1)
        registry.activate(0)
        assert hints.wait(20)
        hints.close()
