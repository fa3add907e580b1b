"""People's votes on candidates, one more judge: who voted is kept as a hash, never as an id."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from threading import Lock
from typing import Literal, Protocol

from fashiondpo.contracts import CandidateSet, Frozen, JudgeInfo, Name, Score, content_digest
from fashiondpo.errors import InvalidInput
from fashiondpo.messages import FeedbackRequest, FeedbackResponse, Vote
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.storage.records import checked_name, record_to_json

VOTES = JudgeInfo(criterion="votes", version="votes-1", low=-1.0, high=1.0)
"""Votes as a judge."""

MOST_LOOKS = 100
"""So often may others vote on a set while one vote is being counted; the last of them leaves the right scores."""


class Ballot(Frozen):
    """What one person thinks of a set's candidates."""

    schema_version: Literal[1] = 1
    set_id: Name
    votes: tuple[Vote, ...]


@dataclass(frozen=True)
class Tally:
    """How many people voted on a set, and what they think together: a score per candidate, none without voters."""

    voters: int
    scores: tuple[Score, ...]


class Votes(Protocol):
    """Everybody's votes. The newest of a person on a set counts."""

    def put(self, candidate_set: CandidateSet, voter_id: str, votes: Sequence[Vote]) -> Tally:
        """Keep one person's votes on a set, in place of that person's earlier ones on it.

        Args:
            candidate_set: what was voted on.
            voter_id: who votes; only a hash of it is kept, another one for every set.
            votes: at most one per candidate.

        Returns:
            The votes of everybody, these included.

        Raises:
            InvalidInput: for votes on candidates that the set does not have, and for two votes on one candidate.
        """

    def tally(self, candidate_set: CandidateSet) -> Tally:
        """Everybody's votes on a set."""

    def remove(self, set_id: str) -> None:
        """Forget everybody's votes on a set; nothing happens if there are none."""


def count_votes(candidate_set: CandidateSet, ballots: Collection[Ballot]) -> Tally:
    """What voters think together: per candidate the mean of their votes.

    A voter who said nothing about a candidate counts 0: neither for nor against it.
    """
    scores = []
    for candidate in candidate_set.candidates:
        values = [
            vote.value for ballot in ballots for vote in ballot.votes if vote.candidate_id == candidate.candidate_id
        ]
        if ballots:
            scores.append(
                Score(
                    candidate_id=candidate.candidate_id,
                    criterion=VOTES.criterion,
                    judge_version=VOTES.version,
                    value=fsum(values) / len(ballots),
                    diagnostics={"voters": len(ballots)},
                )
            )
    return Tally(len(ballots), tuple(scores))


def vote_on_set(request: FeedbackRequest, votes: Votes, feedback: FeedbackStore) -> FeedbackResponse:
    """Count one person's votes, and keep what everybody thinks as the set's scores under the criterion "votes".

    Raises:
        NotFound: if there is no such set.
        InvalidInput: for votes on candidates that the set does not have.
    """
    candidate_set = feedback.set(request.set_id)
    counted = votes.put(candidate_set, request.voter_id, request.votes)
    # Somebody else may have voted, and written newer scores, before these were written: whoever writes looks again.
    for _ in range(MOST_LOOKS):
        feedback.put_scores(candidate_set.set_id, counted.scores)
        written, counted = counted, votes.tally(candidate_set)
        if counted == written:
            break
    return FeedbackResponse(set_id=request.set_id, voters=counted.voters, scores=counted.scores)


class MemoryVotes:
    """Votes of this process; gone with it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ballots: dict[str, dict[str, Ballot]] = {}

    def put(self, candidate_set: CandidateSet, voter_id: str, votes: Sequence[Vote]) -> Tally:
        """Keep one person's votes on a set."""
        ballot = checked_ballot(candidate_set, votes)
        with self._lock:
            ballots = self._ballots.setdefault(ballot.set_id, {})
            ballots[voter_hash(ballot.set_id, voter_id)] = ballot
            return count_votes(candidate_set, list(ballots.values()))

    def tally(self, candidate_set: CandidateSet) -> Tally:
        """Everybody's votes on a set."""
        with self._lock:
            return count_votes(candidate_set, list(self._ballots.get(checked_name(candidate_set.set_id), {}).values()))

    def remove(self, set_id: str) -> None:
        """Forget everybody's votes on a set."""
        with self._lock:
            self._ballots.pop(checked_name(set_id), None)


def voter_hash(set_id: str, voter_id: str) -> str:
    """Under which name a person's votes on a set are kept: the same person is another name on every set."""
    return content_digest(f"{set_id}/{voter_id}".encode(errors="surrogatepass"))


def checked_ballot(candidate_set: CandidateSet, votes: Iterable[Vote]) -> Ballot:
    """One person's votes on a set; raises InvalidInput as `Votes.put`."""
    set_id, given = checked_name(candidate_set.set_id), tuple(votes)
    known = [candidate.candidate_id for candidate in candidate_set.candidates]
    voted = [vote.candidate_id for vote in given]
    if strangers := sorted(set(voted) - set(known)):
        raise InvalidInput(f"set {set_id!r} has no candidates {strangers[:3]}; it has {', '.join(known)}")
    if len(set(voted)) != len(voted):
        raise InvalidInput(f"there are two votes on one candidate of set {set_id!r}; give one per candidate")
    ballot = Ballot(set_id=set_id, votes=given)
    record_to_json(ballot)
    return ballot
