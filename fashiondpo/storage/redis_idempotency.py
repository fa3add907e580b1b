"""Idempotency keys in Redis, for any number of replicas of a service."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

import redis

from fashiondpo.contracts import content_digest
from fashiondpo.storage.idempotency import RUNNING_S, Done, New, Running, other_request
from fashiondpo.storage.leases import checked_ttl
from fashiondpo.storage.records import json_to_record, record_to_json
from fashiondpo.storage.redis_connection import PREFIX, LuaScript, RedisPart

_BEGIN = LuaScript("""
local kept = redis.call('HMGET', KEYS[2], 'fingerprint', 'claim', 'answer')
if not kept[1] then
  redis.call('HSET', KEYS[2], 'fingerprint', ARGV[2], 'claim', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  return {'new', ''}
end
if kept[1] ~= ARGV[2] then
  return {'other', ''}
end
if kept[3] then
  return {'done', kept[3]}
end
return {kept[2] == ARGV[3] and 'new' or 'running', ''}
""")
_CONFIRM = LuaScript("""
if redis.call('HGET', KEYS[2], 'claim') ~= ARGV[2] then
  return 0
end
if redis.call('HEXISTS', KEYS[2], 'answer') == 0 then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
""")
_FINISH = LuaScript("""
local kept = redis.call('HMGET', KEYS[2], 'fingerprint', 'answer')
if kept[2] or (kept[1] and kept[1] ~= ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[2], 'fingerprint', ARGV[2], 'claim', ARGV[3], 'answer', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1
""")
_FORGET = LuaScript("""
local kept = redis.call('HMGET', KEYS[2], 'claim', 'answer')
if kept[1] == ARGV[2] and not kept[2] then
  redis.call('DEL', KEYS[2])
end
return 1
""")


UNCONFIRMED_S = 20.0
"""A claim counts for so long until whoever made it has heard of it.

A server that hung does what it was told when it goes on, although the client has given up: such a claim is nobody's.
"""


class RedisIdempotency(RedisPart):
    """Keys of everybody who uses the same server and prefix: a hash each, which ends by itself.

    Clients' keys may hold anything, so that they are kept under their digest: `<prefix>:idempotency:<digest>`.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = PREFIX,
        *,
        running_s: float = RUNNING_S,
        unconfirmed_s: float = UNCONFIRMED_S,
    ) -> None:
        """Compose: `RedisPart`'s arguments; a claim that is not finished within `running_s` may be taken over."""
        super().__init__(client, prefix)
        self._running_ms = round(running_s * 1000)
        self._unconfirmed_ms = min(self._running_ms, round(unconfirmed_s * 1000))

    def begin(self, key: str, fingerprint: str, ttl_s: float) -> New | Running | Done:
        """Claim a key, or learn what became of it."""
        new = New(key, fingerprint, uuid4().hex, checked_ttl(ttl_s))
        became, answer = self._run(_BEGIN, [self._kept(key)], [fingerprint, new.claim, self._unconfirmed_ms])
        match became:
            case "new":
                is_mine = self._run(_CONFIRM, [self._kept(key)], [new.claim, self._running_ms])
                return new if is_mine else Running()
            case "other":
                raise other_request()
            case "done":
                return json_to_record(answer.encode(), Done, self._kept(key))
            case _:
                return Running()

    def finish(self, new: New, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep the answer."""
        answer = record_to_json(Done(status=status, body=body, headers=dict(headers or {}))).decode()
        values: list[str | int] = [new.fingerprint, new.claim, answer, max(1, round(new.ttl_s * 1000))]
        self._run(_FINISH, [self._kept(new.key)], values)

    def forget(self, new: New) -> None:
        """Let the request be tried again."""
        self._run(_FORGET, [self._kept(new.key)], [new.claim])

    def _kept(self, key: str) -> str:
        return self._key("idempotency", content_digest(key.encode(errors="surrogatepass")))
