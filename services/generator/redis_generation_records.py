"""Records of generations in Redis, shared by all replicas."""

from __future__ import annotations

import time
from collections.abc import Collection

import redis

from fashiondpo.storage.records import json_to_record, record_to_json
from fashiondpo.storage.redis_connection import PREFIX, LuaScript, RedisPart, answering
from services.generator.generation_records import GenerationRecord, unknown

# A claim is an entry of a sorted set: the generation's id, scored with the millisecond at which the claim runs out by
# the server's clock. Keys: claims, record, wish to stop. Values: id, record, life of the claim and of the record.
_ACCEPT = LuaScript(
    """
local there = redis.call('GET', KEYS[3])
if there and there ~= ARGV[3] then
  local status = cjson.decode(there).generation.status
  if status ~= 'failed' and status ~= 'cancelled' then return 0 end
end
redis.call('DEL', KEYS[4])
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[5])
redis.call('ZADD', KEYS[2], now_ms() + ARGV[4], ARGV[2])
return 1
"""
)
_RENEW = LuaScript(
    """
if not redis.call('ZSCORE', KEYS[2], ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[2], now_ms() + ARGV[4], ARGV[2])
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[5])
return redis.call('EXISTS', KEYS[4])
"""
)
_FINISH = LuaScript(
    """
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[5])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[4])
"""
)
_TAKE = LuaScript(
    """
local runs_out = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not runs_out or tonumber(runs_out) > now_ms() then return false end
local record = redis.call('GET', KEYS[3])
if record then redis.call('ZADD', KEYS[2], now_ms() + ARGV[3], ARGV[2]) else redis.call('ZREM', KEYS[2], ARGV[2]) end
return record
"""
)


class RedisGenerationRecords(RedisPart):
    """Records under `<prefix>:generation:<id>`; each is forgotten some time after it was last written."""

    def __init__(self, client: redis.Redis, prefix: str = PREFIX, *, kept_s: float, claim_s: float) -> None:
        """Compose.

        Args:
            client: as `fashiondpo.storage.redis_connection.connect` gives it.
            prefix: of all keys.
            kept_s: a record is forgotten after so long.
            claim_s: a claim runs out after so long without renewal.
        """
        super().__init__(client, prefix)
        self._kept_ms, self._claim_ms = round(kept_s * 1000), round(claim_s * 1000)
        self._claims = self._key("generations", "claims")

    def accept(self, record: GenerationRecord) -> bool:
        """Keep one that is yet to be painted."""
        return bool(self._write(_ACCEPT, record))

    def renew(self, records: Collection[GenerationRecord]) -> frozenset[str]:
        """Go on claiming these."""
        return frozenset(record.generation_id for record in records if self._write(_RENEW, record))

    def finish(self, record: GenerationRecord) -> None:
        """Keep one that has ended."""
        self._write(_FINISH, record)

    def release(self, generation_ids: Collection[str]) -> None:
        """Give up the claims."""
        if generation_ids:
            with answering():
                self._client.zadd(self._claims, dict.fromkeys(generation_ids, 0), xx=True)

    def discard(self, generation_id: str) -> None:
        """Forget one."""
        with answering(), self._client.pipeline() as pipe:
            pipe.delete(self._record(generation_id), self._stop(generation_id))
            pipe.zrem(self._claims, generation_id)
            pipe.execute()

    def get(self, generation_id: str) -> GenerationRecord:
        """The record; raises NotFound."""
        with answering():
            content = self._client.get(self._record(generation_id))
        if content is None:
            raise unknown(generation_id)
        return _read(str(content))

    def ask_to_stop(self, generation_id: str) -> None:
        """Let whoever paints it stop."""
        with answering():
            self._client.set(self._stop(generation_id), "1", px=self._kept_ms)

    def take_over(self, limit: int) -> tuple[GenerationRecord, ...]:
        """Claim those whose claims have run out."""
        with answering():
            # by this machine's clock, only to see whom to ask about: the script asks the server's
            found = self._client.zrangebyscore(self._claims, "-inf", round(time.time() * 1000), start=0, num=limit)
        names = [str(name) for name in found]
        taken = (self._run(_TAKE, [self._claims, self._record(name)], [name, self._claim_ms]) for name in names)
        return tuple(_read(content) for content in taken if content is not None)

    def _write(self, script: LuaScript, record: GenerationRecord) -> int:
        name = record.generation_id
        keys = [self._claims, self._record(name), self._stop(name)]
        return int(self._run(script, keys, [name, record_to_json(record).decode(), self._claim_ms, self._kept_ms]) or 0)

    def _record(self, generation_id: str) -> str:
        return self._key("generation", generation_id)

    def _stop(self, generation_id: str) -> str:
        return self._key("generation", generation_id, "stop")


def _read(content: str) -> GenerationRecord:
    return json_to_record(content.encode(), GenerationRecord, "Redis")
