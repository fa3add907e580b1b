"""What only a shared registry has: several processes at once, and hints that the champion has changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from fashiondpo.contracts import content_digest
from fashiondpo.errors import Conflict, CorruptArtifact, DataFileError, InvalidInput
from fashiondpo.storage.artifacts import FolderArtifacts, MemoryArtifacts
from fashiondpo.storage.redis_adapters import AliasHints, RedisAdapters
from fashiondpo.storage.redis_connection import connect
from tests.polling import eventually
from tests.protocols.small_adapters import make_weights, publish


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
