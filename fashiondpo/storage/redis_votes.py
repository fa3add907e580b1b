"""People's votes in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from fashiondpo.contracts import CandidateSet
from fashiondpo.messages import Vote
from fashiondpo.storage.records import checked_name, json_to_record, record_to_json
from fashiondpo.storage.redis_connection import LuaScript, RedisPart
from fashiondpo.storage.votes import Ballot, Tally, checked_ballot, count_votes, voter_hash

_VOTE = LuaScript("""
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return redis.call('HVALS', KEYS[2])
""")
_FORGET = LuaScript("return redis.call('DEL', KEYS[2])")


class RedisVotes(RedisPart):
    """Votes given to everybody who uses the same server and prefix: a hash `<prefix>:votes:<set>`, ballots by voter."""

    def put(self, candidate_set: CandidateSet, voter_id: str, votes: Sequence[Vote]) -> Tally:
        """Keep one person's votes on a set."""
        ballot = checked_ballot(candidate_set, votes)
        values = [voter_hash(ballot.set_id, voter_id), record_to_json(ballot).decode()]
        return self._counted(candidate_set, self._run(_VOTE, [self._ballots(candidate_set)], values))

    def tally(self, candidate_set: CandidateSet) -> Tally:
        """Everybody's votes on a set."""
        return self._counted(candidate_set, self._ask("HVALS", self._ballots(candidate_set)))

    def remove(self, set_id: str) -> None:
        """Forget everybody's votes on a set."""
        self._run(_FORGET, [self._key("votes", checked_name(set_id))])

    def _counted(self, candidate_set: CandidateSet, contents: list[str]) -> Tally:
        source = self._ballots(candidate_set)
        return count_votes(candidate_set, [json_to_record(text.encode(), Ballot, source) for text in contents])

    def _ballots(self, candidate_set: CandidateSet) -> str:
        return self._key("votes", checked_name(candidate_set.set_id))
