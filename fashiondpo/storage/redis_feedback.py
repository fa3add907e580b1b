"""Feedback in Redis: one key per record, changed in single steps, for any number of processes and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from fashiondpo.contracts import CandidateSet, ScoredSet
from fashiondpo.errors import NotFound
from fashiondpo.storage.feedback import PAIRS, ROUNDS, SCORES, SETS, RecordFeedback, StoredScores, StoredSet
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.records import Kind, RecordT, checked_name, record_to_json
from fashiondpo.storage.redis_connection import LuaScript, RedisPart

_WRITE = LuaScript("""
redis.call('SET', KEYS[2], ARGV[2])
return 1
""")
_WRITE_ROUND = LuaScript("""
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[3])
return 1
""")
_ADD_SET = LuaScript("""
local there = redis.call('GET', KEYS[2])
if there then
  return there
end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('RPUSH', KEYS[3], ARGV[3])
return false
""")
_REPLACE = LuaScript("""
local kept = redis.call('GET', KEYS[2]) or ''
if kept == ARGV[3] then
  return 1
end
if kept ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[3])
return 1
""")
_REMOVE_SET = LuaScript("""
redis.call('LREM', KEYS[4], 0, ARGV[2])
return redis.call('DEL', KEYS[3], KEYS[2])
""")
_REMOVE_ROUND = LuaScript("""
redis.call('ZREM', KEYS[4], ARGV[2])
return redis.call('DEL', KEYS[3], KEYS[2])
""")
SETS_PER_READ = 64
"""Scored sets that are read together: some hundred kilobytes."""


class RedisFeedback(RedisPart, RecordFeedback):
    """Feedback in Redis, for many processes at once.

    Keys: `<prefix>:rounds:<id>`, `:sets:<id>`, `:scores:<id>`, `:pairs:<id>` hold records as JSON; the sorted set
    `<prefix>:round-ids` and the lists `<prefix>:round-sets:<id>` say what there is, and in which order.
    """

    def fenced(self, lease: Lease) -> RedisFeedback:
        """The same feedback, for a holder: what it writes without the lease is refused with LeaseLost."""
        return RedisFeedback(self._client, self._prefix, fence=lease)

    def round_ids(self) -> tuple[str, ...]:
        """Every round that has a record, sorted."""
        return tuple(self._ask("ZRANGE", self._key("round-ids"), 0, -1))

    def set_ids(self, round_id: str) -> tuple[str, ...]:
        """The round's candidate sets in the order in which they were put."""
        return tuple(self._ask("LRANGE", self._key("round-sets", checked_name(round_id)), 0, -1))

    def scored(self, set_id: str) -> ScoredSet:
        """The set with its scores."""
        return self._scored([checked_name(set_id)])[0]

    def scored_sets(self, round_id: str) -> Iterator[ScoredSet]:
        """The round's sets with their scores, read in portions."""
        return self._scored_in_portions(self.set_ids(round_id))

    def _scored_in_portions(self, set_ids: tuple[str, ...]) -> Iterator[ScoredSet]:
        left = iter(set_ids)
        while portion := list(islice(left, SETS_PER_READ)):
            yield from self._scored(portion)

    def _scored(self, set_ids: list[str]) -> list[ScoredSet]:
        contents = self._ask("MGET", *(self._key(kind, set_id) for set_id in set_ids for kind in ("sets", "scores")))
        scored = []
        for set_id, stored_set, stored_scores in zip(set_ids, contents[::2], contents[1::2], strict=True):
            if stored_set is None:
                raise NotFound(f"there is no candidate set {set_id!r}")
            candidate_set = self._parsed(SETS, set_id, stored_set).candidate_set
            scores: StoredScores | None = None
            if stored_scores is not None:
                scores = self._parsed(SCORES, set_id, stored_scores)
            scored.append(self._scored_set(candidate_set, scores))
        return scored

    def _read(self, kind: Kind[RecordT], name: str) -> RecordT | None:
        content = self._ask("GET", self._name(kind, checked_name(name)))
        return None if content is None else self._parsed(kind, name, content)

    def _write(self, kind: Kind[RecordT], record: RecordT) -> None:
        name = checked_name(kind.name_of(record))
        keys, values = [self._name(kind, name)], [record_to_json(record).decode()]
        if kind.folder == ROUNDS.folder:
            self._run(_WRITE_ROUND, [*keys, self._key("round-ids")], [*values, name])
        else:
            self._run(_WRITE, keys, values)

    def _change(self, kind: Kind[RecordT], name: str, change: Callable[[RecordT | None], RecordT]) -> None:
        key = self._name(kind, checked_name(name))

        def tried() -> Iterator[bool]:
            while True:
                old = self._ask("GET", key)
                new = change(None if old is None else self._parsed(kind, name, old))
                yield bool(self._run(_REPLACE, [key], [old or "", record_to_json(new).decode()]))

        self._compare_and_set(key, tried())

    def _add_set(self, round_id: str, candidate_set: CandidateSet) -> StoredSet | None:
        set_id = candidate_set.set_id
        placed = StoredSet(round_id=round_id, candidate_set=candidate_set)
        keys = [self._name(SETS, set_id), self._key("round-sets", round_id)]
        there = self._run(_ADD_SET, keys, [record_to_json(placed).decode(), set_id])
        return None if there is None else self._parsed(SETS, set_id, there)

    def _remove_set(self, round_id: str, set_id: str) -> None:
        keys = [self._name(SETS, set_id), self._name(SCORES, set_id), self._key("round-sets", round_id)]
        self._run(_REMOVE_SET, keys, [set_id])

    def _remove_round(self, round_id: str) -> None:
        self._run(
            _REMOVE_ROUND,
            [self._name(ROUNDS, round_id), self._name(PAIRS, round_id), self._key("round-ids")],
            [round_id],
        )

    def _name(self, kind: Kind[RecordT], name: str) -> str:
        return self._key(kind.folder, name)

    def _parsed(self, kind: Kind[RecordT], name: str, content: str) -> RecordT:
        return kind.parsed(content.encode(), name, self._name(kind, name))
