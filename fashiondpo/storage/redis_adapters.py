"""The adapter registry in Redis: manifests and aliases there, weights in the artifact store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event
from uuid import uuid4

import redis
from redis.client import PubSub

from fashiondpo.contracts import AdapterManifest
from fashiondpo.errors import NotFound
from fashiondpo.storage.adapters import AdapterVersions
from fashiondpo.storage.aliases import Aliases
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.records import json_to_record, record_to_json
from fashiondpo.storage.redis_connection import KEEP_CHANGE, PREFIX, LuaScript, RedisPart

_ADD_VERSION = LuaScript("""
local published = redis.call('HGET', KEYS[2], ARGV[2])
if published then
  return redis.call('HGET', KEYS[3], published)
end
if tonumber(redis.call('GET', KEYS[4]) or '0') + 1 ~= tonumber(ARGV[3]) then
  return false
end
redis.call('SET', KEYS[4], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return ARGV[4]
""")
_CHANGE_ALIASES = LuaScript(
    KEEP_CHANGE
    + """
redis.call('PUBLISH', KEYS[3], ARGV[5])
return 1
"""
)
_CHECK_LEASE = LuaScript("return 1")


class RedisAdapters(RedisPart, AdapterVersions):
    """Adapters for many processes at once; whoever activates one tells the others on the channel `<prefix>:adapters`.

    Keys: the hashes `<prefix>:adapter-manifests` (by version) and `<prefix>:adapter-rounds` (version by round), the last
    version `<prefix>:adapter-last`, and the hash `<prefix>:adapter-aliases`. Weights are artifacts, found by digest.
    """

    def __init__(
        self, client: redis.Redis, artifacts: ArtifactStore, prefix: str = PREFIX, *, fence: Lease | None = None
    ) -> None:
        """Compose: `RedisPart`'s arguments, and where weights are kept."""
        super().__init__(client, prefix, fence=fence)
        self._artifacts = artifacts

    def __str__(self) -> str:
        return f"redis/{self._prefix}"

    def fenced(self, lease: Lease) -> RedisAdapters:
        """The same registry, for a holder: what it writes without the lease is refused with LeaseLost."""
        return RedisAdapters(self._client, self._artifacts, self._prefix, fence=lease)

    def versions(self) -> tuple[int, ...]:
        """Every published version, ascending."""
        return tuple(sorted(map(int, self._ask("HKEYS", self._key("adapter-manifests")))))

    def _add_version(
        self, round_id: str, weights: bytes, manifest_of: Callable[[int], AdapterManifest]
    ) -> AdapterManifest:
        record_to_json(manifest_of(1))  # refuses what cannot be right before anything is written
        self._artifacts.put(weights, "safetensors")
        last, kept = self._key("adapter-last"), ""
        keys = [self._key("adapter-rounds"), self._key("adapter-manifests"), last]

        def tried() -> Iterator[bool]:
            nonlocal kept
            while True:
                version = int(self._ask("GET", last) or 0) + 1
                manifest = record_to_json(manifest_of(version)).decode()
                kept = self._run(_ADD_VERSION, keys, [round_id, version, manifest]) or ""
                yield bool(kept)

        self._compare_and_set(last, tried())
        return json_to_record(kept.encode(), AdapterManifest, f"{self}/adapter-manifests")

    def _manifest(self, version: int) -> bytes | None:
        content: str | None = self._ask("HGET", self._key("adapter-manifests"), version)
        return None if content is None else content.encode()

    def _weights(self, manifest: AdapterManifest) -> bytes | None:
        try:
            return self._artifacts.get(f"{manifest.digest}.safetensors")
        except NotFound:
            return None

    def _aliases(self) -> Aliases:
        return self._parsed(self._alias_json())

    def _change_aliases(self, change: Callable[[Aliases], Aliases]) -> Aliases:
        key, name, new = self._key("adapter-aliases"), uuid4().hex, Aliases()

        def tried() -> Iterator[bool]:
            nonlocal new
            while True:
                old = self._alias_json()
                aliases = self._parsed(old)
                new = change(aliases)
                if new == aliases:
                    yield bool(self._run(_CHECK_LEASE, []))
                else:
                    values = [name, old, record_to_json(new).decode(), str(new.champion)]
                    yield bool(self._run(_CHANGE_ALIASES, [key, channel(self._prefix)], values))

        self._compare_and_set(key, tried())
        return new

    def _alias_json(self) -> str:
        return str(self._ask("HGET", self._key("adapter-aliases"), "json") or "")

    def _parsed(self, content: str) -> Aliases:
        return json_to_record(content.encode(), Aliases, f"{self}/adapter-aliases") if content else Aliases()


class AliasHints:
    """Somebody has moved an alias: look at once. Hints may get lost, so look now and then without one too.

    For one thread. Args: as of `RedisAdapters`.
    """

    def __init__(self, client: redis.Redis, prefix: str = PREFIX) -> None:
        self._client, self._channel = client, channel(prefix)
        self._pubsub: PubSub | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait for a hint; False if none came in time. Never raises: without a server there are no hints."""
        deadline = time.monotonic() + timeout_s
        try:
            pubsub = self._subscribed()
            while (left := deadline - time.monotonic()) > 0:
                message = pubsub.get_message(ignore_subscribe_messages=True, timeout=left)
                if message is not None and message["type"] == "message":
                    return True
        except redis.RedisError:
            self.close()
            Event().wait(max(0.0, deadline - time.monotonic()))
        return False

    def close(self) -> None:
        """Stop listening."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()

    def _subscribed(self) -> PubSub:
        if self._pubsub is None:
            self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]
            self._pubsub.subscribe(self._channel)
        return self._pubsub


def channel(prefix: str) -> str:
    """Where moves of aliases are told."""
    return f"{prefix}:adapters"
