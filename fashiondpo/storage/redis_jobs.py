"""Rounds as work, in Redis: for the trainer's API and its workers on any number of machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import redis
from pydantic import JsonValue, ValidationError

from fashiondpo.errors import DataFileError, NotFound
from fashiondpo.messages import RoundEvent
from fashiondpo.storage.aliases import utc_now
from fashiondpo.storage.jobs import (
    JOBS,
    KEPT_EVENTS,
    Edit,
    EventKind,
    JobPage,
    RoundJob,
    cancel_requested,
    checked_end,
    checked_page,
    edited,
    event_place,
    make_event,
    page_of,
    same_request,
    unknown_round,
)
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.records import checked_name, first_problem, record_to_json
from fashiondpo.storage.redis_connection import KEEP_CHANGE, PREFIX, LuaScript, RedisPart, answering

EVENTS_TTL_S = 30 * 86_400
"""Events are forgotten so long after a round's last one: they tell what happens, the round's record what has happened."""
WAIT_S = 0.5
"""The server waits for events in portions: it must answer before the client gives up on it."""

# The number is kept beside the JSON, because the server gives it.
_OPEN = LuaScript("""
if redis.call('EXISTS', KEYS[2]) == 0 then
  local number = redis.call('INCR', KEYS[5])
  redis.call('HSET', KEYS[2], 'json', ARGV[3], 'number', number, 'changes', '')
  redis.call('ZADD', KEYS[3], number, ARGV[2])
  redis.call('ZADD', KEYS[4], number, ARGV[2])
end
return redis.call('HMGET', KEYS[2], 'json', 'number')
""")
_UPDATE = LuaScript(
    KEEP_CHANGE
    + """
if ARGV[6] == 'finished' then
  redis.call('ZREM', KEYS[3], ARGV[5])
else
  redis.call('ZADD', KEYS[3], redis.call('HGET', KEYS[2], 'number'), ARGV[5])
end
return 1
"""
)
_APPEND = LuaScript("""
if redis.call('EXISTS', KEYS[2]) == 0 then
  return false
end
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 16)) do
  if entry[2][2] == ARGV[2] then
    return entry[1]
  end
end
local id = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'name', ARGV[2], 'event', ARGV[3])
redis.call('EXPIRE', KEYS[3], ARGV[5])
return id
""")
_REMOVE = LuaScript("""
redis.call('ZREM', KEYS[4], ARGV[2])
return redis.call('DEL', KEYS[3], KEYS[2])
""")
_PAGE_OF_IDS = LuaScript("""
local jobs = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], ARGV[2], ARGV[3], 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[4])) do
  local kept = redis.call('HMGET', ARGV[5] .. id, 'json', 'number')
  if kept[1] then
    table.insert(jobs, {id, kept[1], kept[2]})
  end
end
return jobs
""")


class RedisJobs(RedisPart):
    """Rounds among everybody who uses the same server and prefix.

    Keys: a hash `<prefix>:jobs:<id>` and a stream `<prefix>:events:<id>` per round; the sorted sets `<prefix>:job-numbers`
    and `<prefix>:jobs-unfinished`, round ids by number; `<prefix>:job-last`, the last number.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = PREFIX,
        *,
        kept_events: int = KEPT_EVENTS,
        fence: Lease | None = None,
    ) -> None:
        """Compose: `RedisPart`'s arguments, and about how many events a round keeps."""
        super().__init__(client, prefix, fence=fence)
        self._kept_events = kept_events

    def fenced(self, lease: Lease) -> RedisJobs:
        """The same rounds, for a holder: what it writes without the lease is refused with LeaseLost."""
        return RedisJobs(self._client, self._prefix, kept_events=self._kept_events, fence=lease)

    def open(self, job: RoundJob) -> RoundJob:
        """Keep a new round and number it."""
        keys = [self._job(job.round_id), self._key("job-numbers"), self._unfinished, self._key("job-last")]
        json_text = record_to_json(job.model_copy(update={"number": 0})).decode()
        content, number = self._run(_OPEN, keys, [job.round_id, json_text])
        return same_request(self._parsed(job.round_id, content, number), job)

    def get(self, round_id: str) -> RoundJob:
        """The round's newest state."""
        content, number = self._ask("HMGET", self._job(round_id), "json", "number")
        if content is None:
            raise unknown_round(round_id)
        return self._parsed(round_id, content, number)

    def update(self, round_id: str, edit: Edit) -> RoundJob:
        """Change a round."""
        key, name, new = self._job(round_id), uuid4().hex, None

        def tried() -> Iterator[bool]:
            nonlocal new
            while True:
                old, number = self._ask("HMGET", key, "json", "number")
                if old is None:
                    raise unknown_round(round_id)
                new = edited(self._parsed(round_id, old, number), edit)
                json_text = record_to_json(new.model_copy(update={"number": 0})).decode()
                state = "finished" if new.is_finished else "unfinished"
                yield bool(self._run(_UPDATE, [key, self._unfinished], [name, old, json_text, round_id, state]))

        self._compare_and_set(key, tried())
        return new or self.get(round_id)

    def request_cancel(self, round_id: str) -> RoundJob:
        """Ask for the round to stop."""
        unfenced = self if self._fence is None else RedisJobs(self._client, self._prefix)
        return unfenced.update(round_id, cancel_requested)

    def page(self, cursor: str | None = None, limit: int = 50) -> JobPage:
        """Rounds, newest first."""
        before = checked_page(cursor, limit)
        newest = "+inf" if before is None else f"({before}"
        return page_of(self._listed("job-numbers", newest, limit + 1), limit)

    def unfinished(self) -> tuple[RoundJob, ...]:
        """Rounds that are queued or running, oldest first."""
        return tuple(reversed(self._listed("jobs-unfinished", "+inf", -1)))

    def append_event(self, round_id: str, kind: EventKind, details: Mapping[str, JsonValue]) -> RoundEvent:
        """Tell the round's readers."""
        event = make_event("0", utc_now(), kind, details)
        keys = [self._job(round_id), self._key("events", round_id)]
        values: list[str | int] = [uuid4().hex, event.model_dump_json(), self._kept_events, EVENTS_TTL_S]
        event_id = self._run(_APPEND, keys, values)
        if event_id is None:
            raise unknown_round(round_id)
        return event.model_copy(update={"event_id": event_id})

    def events(self, round_id: str, after_id: str = "0", block_s: float = 0.0) -> tuple[RoundEvent, ...]:
        """What happened after an event."""
        key, deadline = self._key("events", checked_name(round_id)), time.monotonic() + block_s
        place = "-".join(map(str, event_place(after_id)))
        while True:
            left = deadline - time.monotonic()
            waiting = max(1, round(min(left, WAIT_S) * 1000)) if left > 0 else None
            with answering():
                streams: Any = self._client.xread({key: place}, block=waiting)
            entries = dict(streams).get(key, [])
            if entries or left <= 0:
                return tuple(_event(event_id, fields["event"], key) for event_id, fields in entries)

    def remove(self, round_id: str) -> None:
        """Forget a round that has ended, with its events."""
        try:
            checked_end(self.get(round_id))  # one that has ended never begins again
        except NotFound:
            return
        keys = [self._job(round_id), self._key("events", round_id), self._key("job-numbers")]
        self._run(_REMOVE, keys, [round_id])

    @property
    def _unfinished(self) -> str:
        return self._key("jobs-unfinished")

    def _job(self, round_id: str) -> str:
        return self._key("jobs", checked_name(round_id))

    def _listed(self, index: str, newest: str, limit: int) -> list[RoundJob]:
        found = self._look(_PAGE_OF_IDS, [self._key(index)], [newest, "-inf", limit, self._key("jobs", "")])
        return [self._parsed(*job) for job in found]

    def _parsed(self, round_id: str, content: str, number: str) -> RoundJob:
        job = JOBS.parsed(content.encode(), round_id, self._job(round_id))
        return job.model_copy(update={"number": int(number)})


def _event(event_id: str, content: str, source: str) -> RoundEvent:
    try:
        return RoundEvent.model_validate_json(content).model_copy(update={"event_id": event_id})
    except ValidationError as error:
        raise DataFileError(source, f"holds no event under {event_id}: {first_problem(error)}") from error
