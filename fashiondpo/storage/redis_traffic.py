"""Recorded traffic in Redis Streams with consumer groups: one stream for the judges, one per provenance for rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from fashiondpo.contracts import CandidateSet
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.records import checked_name
from fashiondpo.storage.redis_connection import LuaScript, RedisPart
from fashiondpo.storage.traffic import Backlog, Provenance, TrafficEntry, checked_claim, sorted_backlogs

# KEYS: 2 where each set is, as "<stream> <entry id>"; 3 provenances by stream; 4 the judges' stream.
_PARTS = """
local places, provenances, recorded = KEYS[2], KEYS[3], KEYS[4]

local function streams()
  local all = redis.call('HKEYS', provenances)
  table.sort(all)
  table.insert(all, 1, recorded)
  return all
end

local function put(stream, set_id, made_by)
  local is_new = redis.call('EXISTS', stream) == 0
  local id = redis.call('XADD', stream, '*', 'set_id', set_id, 'made_by', made_by)
  if is_new then
    redis.call('XGROUP', 'CREATE', stream, 'takers', '0')
    if stream ~= recorded then
      redis.call('HSET', provenances, stream, made_by)
    end
  end
  redis.call('HSET', places, set_id, stream .. ' ' .. id)
end

local function remove(stream, id, set_id)
  redis.call('XACK', stream, 'takers', id)
  redis.call('XDEL', stream, id)
  redis.call('HDEL', places, set_id)
end

local function tidy(stream, consumer)
  if redis.call('EXISTS', stream) == 0 then
    return
  end
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream)
    redis.call('HDEL', provenances, stream)
  elseif #redis.call('XPENDING', stream, 'takers', '-', '+', 1, consumer) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', stream, 'takers', consumer)
  end
end

local function entry(stream, id)
  local found = redis.call('XRANGE', stream, id, id)[1]
  return found and {found[2][2], found[2][4]}
end

local function held_ids(stream, consumer, count)
  local ids = {}
  if redis.call('EXISTS', stream) == 1 then
    for _, pending in ipairs(redis.call('XPENDING', stream, 'takers', '-', '+', count, consumer)) do
      table.insert(ids, pending[1])
    end
  end
  return ids
end

local function place_held(set_id, consumer)
  local stream, id = string.match(redis.call('HGET', places, set_id) or '', '^(.*) (%S+)$')
  if stream and redis.call('EXISTS', stream) == 1
      and #redis.call('XPENDING', stream, 'takers', id, id, 1, consumer) == 1 then
    return stream, id
  end
end
"""

_ADD = LuaScript(
    _PARTS
    + """
if redis.call('HEXISTS', places, ARGV[2]) == 0 then
  put(recorded, ARGV[2], ARGV[3])
end
return 1
"""
)
# What the consumer holds counts as claimed anew, so that others do not take it over.
_CLAIM = LuaScript(
    _PARTS
    + """
local stream, consumer, count, idle_ms = KEYS[5], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if redis.call('EXISTS', stream) == 0 or count == 0 then
  return {}
end
local ids = held_ids(stream, consumer, count)
for _, id in ipairs(ids) do
  redis.call('XCLAIM', stream, 'takers', consumer, 0, id, 'JUSTID')
end
if idle_ms ~= '' and #ids < count then
  local idle = redis.call('XPENDING', stream, 'takers', 'IDLE', idle_ms, '-', '+', count)
  for _, pending in ipairs(idle) do
    if pending[2] ~= consumer and #ids < count then
      redis.call('XCLAIM', stream, 'takers', consumer, 0, pending[1], 'JUSTID')
      table.insert(ids, pending[1])
    end
  end
end
local entries = {}
for _, id in ipairs(ids) do
  table.insert(entries, entry(stream, id))
end
if #ids < count then
  local fresh = redis.call('XREADGROUP', 'GROUP', 'takers', consumer, 'COUNT', count - #ids, 'STREAMS', stream, '>')
  if fresh then
    for _, found in ipairs(fresh[1][2]) do
      table.insert(entries, {found[2][2], found[2][4]})
    end
  end
end
tidy(stream, consumer)
return entries
"""
)
_MARK_SCORED = LuaScript(
    _PARTS
    + """
local done, consumer, scored_prefix = 0, ARGV[2], ARGV[3]
for place = 4, #ARGV do
  local stream, id = place_held(ARGV[place], consumer)
  if stream == recorded then
    local made_by = entry(stream, id)[2]
    remove(stream, id, ARGV[place])
    put(scored_prefix .. redis.sha1hex(made_by), ARGV[place], made_by)
    done = done + 1
  end
end
tidy(recorded, consumer)
return done
"""
)
_ACKNOWLEDGE = LuaScript(
    _PARTS
    + """
local touched, done = {}, 0
for place = 3, #ARGV do
  local stream, id = place_held(ARGV[place], ARGV[2])
  if stream then
    remove(stream, id, ARGV[place])
    touched[stream] = true
    done = done + 1
  end
end
for stream in pairs(touched) do
  tidy(stream, ARGV[2])
end
return done
"""
)
_GIVE_BACK = LuaScript(
    _PARTS
    + """
local done = 0
for _, stream in ipairs(streams()) do
  for _, id in ipairs(held_ids(stream, ARGV[2], 100000)) do
    local held = entry(stream, id)
    put(stream, held[1], held[2])
    redis.call('XACK', stream, 'takers', id)
    redis.call('XDEL', stream, id)
    done = done + 1
  end
  tidy(stream, ARGV[2])
end
return done
"""
)
_PENDING = LuaScript(
    _PARTS
    + """
local entries = {}
for _, stream in ipairs(streams()) do
  for _, id in ipairs(held_ids(stream, ARGV[2], 100000)) do
    table.insert(entries, entry(stream, id))
  end
end
return entries
"""
)
_BACKLOGS = LuaScript(
    _PARTS
    + """
local backlogs = {}
for _, stream in ipairs(streams()) do
  local total, claimed = 0, 0
  if redis.call('EXISTS', stream) == 1 then
    total, claimed = redis.call('XLEN', stream), redis.call('XPENDING', stream, 'takers')[1]
  end
  table.insert(backlogs, {redis.call('HGET', provenances, stream) or '', total - claimed, claimed})
end
return backlogs
"""
)
_DISCARD = LuaScript(
    _PARTS
    + """
local stream, done = KEYS[5], 0
if redis.call('EXISTS', stream) == 1 then
  local free = redis.call('XREADGROUP', 'GROUP', 'takers', '-', 'STREAMS', stream, '>')
  for _, found in ipairs(free and free[1][2] or {}) do
    remove(stream, found[1], found[2][2])
    done = done + 1
  end
  tidy(stream, '-')
end
return done
"""
)


class RedisTraffic(RedisPart):
    """Traffic among everybody who uses the same server and prefix.

    Keys: the streams `<prefix>:traffic-recorded` and `<prefix>:traffic-scored:<provenance>`, which hold nothing but
    what is on its way; the hashes `<prefix>:traffic-places` and `<prefix>:traffic-provenances`.
    """

    def fenced(self, lease: Lease) -> RedisTraffic:
        """The same traffic, for a holder: what it changes without the lease is refused with LeaseLost."""
        return RedisTraffic(self._client, self._prefix, fence=lease)

    def add(self, candidate_set: CandidateSet) -> None:
        """Let the judges see the set."""
        made_by = Provenance.of(candidate_set).model_dump_json()
        self._do(_ADD, [checked_name(candidate_set.set_id), made_by])

    def claim_recorded(self, consumer: str, count: int, *, idle_s: float | None = None) -> tuple[TrafficEntry, ...]:
        """Recorded sets for the consumer to have judged."""
        return self._claim(self._recorded, consumer, count, idle_s)

    def mark_scored(self, consumer: str, set_ids: Iterable[str]) -> int:
        """Let rounds claim these."""
        return int(self._do(_MARK_SCORED, [checked_name(consumer), self._scored_prefix, *_unique(set_ids)]))

    def claim_scored(
        self, consumer: str, count: int, made_by: Provenance, *, idle_s: float | None = None
    ) -> tuple[TrafficEntry, ...]:
        """Scored sets of one provenance for the consumer to learn from."""
        return self._claim(self._scored(made_by), consumer, count, idle_s)

    def acknowledge(self, consumer: str, set_ids: Iterable[str]) -> int:
        """Forget what is done with."""
        return int(self._do(_ACKNOWLEDGE, [checked_name(consumer), *_unique(set_ids)]))

    def give_back(self, consumer: str) -> int:
        """Let others claim what the consumer holds."""
        return int(self._do(_GIVE_BACK, [checked_name(consumer)]))

    def pending(self, consumer: str) -> tuple[TrafficEntry, ...]:
        """What the consumer holds."""
        return _entries(self._look(_PENDING, self._common_keys, [checked_name(consumer)]))

    def waiting(self) -> int:
        """How many recorded sets nobody has claimed yet."""
        return int(self._look(_BACKLOGS, self._common_keys)[0][1])

    def backlogs(self) -> tuple[Backlog, ...]:
        """Scored sets by provenance."""
        found = self._look(_BACKLOGS, self._common_keys)[1:]
        return sorted_backlogs(
            Backlog(Provenance.model_validate_json(made_by), int(waiting), int(claimed))
            for made_by, waiting, claimed in found
        )

    def discard(self, made_by: Provenance) -> int:
        """Forget the scored sets of this provenance that nobody holds."""
        return int(self._do(_DISCARD, stream=self._scored(made_by)))

    def _claim(self, stream: str, consumer: str, count: int, idle_s: float | None) -> tuple[TrafficEntry, ...]:
        checked_claim(consumer, count)
        idle_ms = "" if idle_s is None else round(idle_s * 1000)
        return _entries(self._do(_CLAIM, [consumer, count, idle_ms], stream=stream))

    def _do(self, script: LuaScript, values: list[str | int] | list[str] | None = None, *, stream: str = "") -> Any:
        return self._run(script, [*self._common_keys, stream] if stream else self._common_keys, values or [])

    @property
    def _common_keys(self) -> list[str]:
        return [self._key("traffic-places"), self._key("traffic-provenances"), self._recorded]

    @property
    def _recorded(self) -> str:
        return self._key("traffic-recorded")

    @property
    def _scored_prefix(self) -> str:
        return self._key("traffic-scored", "")

    def _scored(self, made_by: Provenance) -> str:
        return self._scored_prefix + hashlib.sha1(made_by.model_dump_json().encode(), usedforsecurity=False).hexdigest()


def _entries(found: list[list[str]]) -> tuple[TrafficEntry, ...]:
    return tuple(
        TrafficEntry(set_id=set_id, made_by=Provenance.model_validate_json(made_by)) for set_id, made_by in found
    )


def _unique(set_ids: Iterable[str]) -> list[str]:
    return list(map(checked_name, dict.fromkeys(set_ids)))
