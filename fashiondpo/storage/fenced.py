"""Stores in memory or in folders as a lease's holder uses them: without the lease nothing is written.

Those in Redis check the lease themselves, in the same step as they write: see their `fenced`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from fashiondpo.contracts import (
    AdapterManifest,
    AdapterRef,
    CandidateSet,
    GateVerdict,
    PreferencePair,
    RoundRecord,
    Score,
    ScoredSet,
)
from fashiondpo.storage.adapters import AdapterRegistry, TrainingFigures
from fashiondpo.storage.aliases import AliasMove, AliasName
from fashiondpo.storage.feedback import FeedbackStore

Guard = Callable[[], AbstractContextManager[None]]
"""Inside, the lease is held and cannot be lost; raises LeaseLost instead of entering. See `MemoryLeases.guard`."""


class FencedFeedback:
    """A feedback store whose writes are refused with LeaseLost once the guard lets nobody in."""

    def __init__(self, feedback: FeedbackStore, guard: Guard) -> None:
        self._feedback, self._guard = feedback, guard

    def put_round(self, record: RoundRecord) -> None:
        """Keep the round's record."""
        with self._guard():
            self._feedback.put_round(record)

    def round(self, round_id: str) -> RoundRecord:
        """The round's newest record."""
        return self._feedback.round(round_id)

    def round_ids(self) -> tuple[str, ...]:
        """Every round that has a record, sorted."""
        return self._feedback.round_ids()

    def put_set(self, round_id: str, candidate_set: CandidateSet) -> None:
        """Keep a candidate set as the round's next."""
        with self._guard():
            self._feedback.put_set(round_id, candidate_set)

    def set(self, set_id: str) -> CandidateSet:
        """The candidate set."""
        return self._feedback.set(set_id)

    def set_ids(self, round_id: str) -> tuple[str, ...]:
        """The round's candidate sets in the order in which they were put."""
        return self._feedback.set_ids(round_id)

    def put_scores(self, set_id: str, scores: Iterable[Score]) -> None:
        """Add what judges said of a set's candidates."""
        given = tuple(scores)
        with self._guard():
            self._feedback.put_scores(set_id, given)

    def scored(self, set_id: str) -> ScoredSet:
        """The set with its scores."""
        return self._feedback.scored(set_id)

    def scored_sets(self, round_id: str) -> Iterator[ScoredSet]:
        """The round's sets with their scores."""
        return self._feedback.scored_sets(round_id)

    def put_pairs(self, round_id: str, pairs: Iterable[PreferencePair]) -> None:
        """Keep the round's preference pairs."""
        given = tuple(pairs)
        with self._guard():
            self._feedback.put_pairs(round_id, given)

    def pairs(self, round_id: str) -> tuple[PreferencePair, ...]:
        """The round's preference pairs."""
        return self._feedback.pairs(round_id)

    def remove_sets(self, round_id: str, set_ids: Iterable[str]) -> None:
        """Forget sets of a round, with their scores."""
        given = tuple(set_ids)
        with self._guard():
            self._feedback.remove_sets(round_id, given)

    def remove_round(self, round_id: str) -> None:
        """Forget a round."""
        with self._guard():
            self._feedback.remove_round(round_id)


class FencedAdapters:
    """An adapter registry whose writes are refused with LeaseLost once the guard lets nobody in."""

    def __init__(self, adapters: AdapterRegistry, guard: Guard) -> None:
        self._adapters, self._guard = adapters, guard

    def publish(
        self,
        weights: bytes,
        *,
        round_id: str,
        base_digest: str,
        parent: AdapterRef,
        rank: int,
        targets: Sequence[str],
        training: TrainingFigures,
        verdict: GateVerdict | None,
    ) -> AdapterManifest:
        """Keep the adapter of a round as the next version."""
        with self._guard():
            return self._adapters.publish(
                weights,
                round_id=round_id,
                base_digest=base_digest,
                parent=parent,
                rank=rank,
                targets=targets,
                training=training,
                verdict=verdict,
            )

    def manifest(self, version: int) -> AdapterManifest:
        """What is known of a version."""
        return self._adapters.manifest(version)

    def weights(self, version: int) -> bytes:
        """The version's safetensors file, checked."""
        return self._adapters.weights(version)

    def versions(self) -> tuple[int, ...]:
        """Every published version, ascending."""
        return self._adapters.versions()

    def alias(self, name: AliasName) -> int | None:
        """The version that serves, or served before."""
        return self._adapters.alias(name)

    def activate(self, version: int, *, is_forced: bool = False) -> None:
        """Make a version the champion."""
        with self._guard():
            self._adapters.activate(version, is_forced=is_forced)

    def rollback(self) -> int:
        """Make the previous version the champion again."""
        with self._guard():
            return self._adapters.rollback()

    def alias_history(self) -> tuple[AliasMove, ...]:
        """Every change of the champion, oldest first."""
        return self._adapters.alias_history()
