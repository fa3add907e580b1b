"""Feedback: the records of rounds, what was generated in them, how it was scored, and the pairs made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

from pydantic import Field

from fashiondpo.contracts import CandidateSet, Frozen, Name, PreferencePair, RoundRecord, Score, ScoredSet
from fashiondpo.errors import Conflict, InvalidInput, NotFound
from fashiondpo.storage.records import FolderRecords, Kind, MemoryRecords, Records, RecordT, checked_name


class FeedbackStore(Protocol):
    """What people's taste is learnt from. A record is accepted once the call that puts it has returned.

    Every method raises InvalidInput for an id that cannot be a name, and for figures that are not finite.
    """

    def put_round(self, record: RoundRecord) -> None:
        """Keep the round's record; it replaces the one before. Tuples in its settings come back as lists."""

    def round(self, round_id: str) -> RoundRecord:
        """The round's newest record; raises NotFound."""

    def round_ids(self) -> tuple[str, ...]:
        """Every round that has a record, sorted."""

    def put_set(self, round_id: str, candidate_set: CandidateSet) -> None:
        """Keep a candidate set as the round's next; nothing happens if it is there already.

        The round's own record may come later.

        Raises:
            Conflict: if its id was used for another set, or in another round.
        """

    def set(self, set_id: str) -> CandidateSet:
        """The candidate set; raises NotFound."""

    def set_ids(self, round_id: str) -> tuple[str, ...]:
        """The round's candidate sets in the order in which they were put; none for an unknown round."""

    def put_scores(self, set_id: str, scores: Iterable[Score]) -> None:
        """Add what judges said of a set's candidates, all of it or nothing; see `merged_scores`.

        Raises:
            NotFound: if there is no such set.
            InvalidInput: if a score is for a candidate that the set does not have.
        """

    def scored(self, set_id: str) -> ScoredSet:
        """The set with its scores, in the order of `merged_scores`; raises NotFound."""

    def scored_sets(self, round_id: str) -> Iterator[ScoredSet]:
        """The round's sets with their scores, in the order of `set_ids`."""

    def put_pairs(self, round_id: str, pairs: Iterable[PreferencePair]) -> None:
        """Keep the round's preference pairs; they replace the ones before as a whole."""

    def pairs(self, round_id: str) -> tuple[PreferencePair, ...]:
        """The round's preference pairs; raises NotFound if none were ever put."""

    def remove_sets(self, round_id: str, set_ids: Iterable[str]) -> None:
        """Forget sets of a round, with their scores; nothing happens for sets that are not there or another round's."""

    def remove_round(self, round_id: str) -> None:
        """Forget a round: its sets with their scores, its pairs, at last its record. Nothing happens if there is none."""


def merged_scores(candidate_set: CandidateSet, old: Iterable[Score], new: Iterable[Score]) -> tuple[Score, ...]:
    """The scores of a set after new ones came in: one per candidate and criterion.

    The newest wins, but a failure never replaces a value of the same judge's version: a judge that fails when asked
    again has not unsaid anything. Another version's value does not compare with what others get now, and gives way.

    Args:
        candidate_set: whose candidates they are.
        old: what was kept so far.
        new: what came in, oldest first.

    Returns:
        Scores by candidate, then by criterion; the order in which judges answered leaves no trace.

    Raises:
        InvalidInput: if a score is for a candidate that the set does not have.
    """
    places = {candidate.candidate_id: place for place, candidate in enumerate(candidate_set.candidates)}
    kept: dict[tuple[int, str], Score] = {}
    for score in (*old, *new):
        if score.candidate_id not in places:
            raise InvalidInput(
                f"set {candidate_set.set_id!r} has no candidate {score.candidate_id!r}; it has {', '.join(places)}"
            )
        key = places[score.candidate_id], score.criterion
        before = kept.get(key)
        if score.value is not None or before is None or not _stands(before, score.judge_version):
            kept[key] = score
    return tuple(kept[key] for key in sorted(kept))


def _stands(score: Score, judge_version: str) -> bool:
    """Whether it is a value of this version."""
    return score.value is not None and score.judge_version == judge_version


class StoredSet(Frozen):
    """A candidate set and its place: the position-th of its round, counted from 1; 0 where a list keeps the order."""

    schema_version: Literal[1] = 1
    round_id: Name
    position: int = Field(0, ge=0)
    candidate_set: CandidateSet


class StoredScores(Frozen):
    """The scores of a set, as `merged_scores` has them."""

    schema_version: Literal[1] = 1
    set_id: Name
    scores: tuple[Score, ...]


class StoredPairs(Frozen):
    """The preference pairs of a round."""

    schema_version: Literal[1] = 1
    round_id: Name
    pairs: tuple[PreferencePair, ...]


ROUNDS = Kind("rounds", RoundRecord, lambda record: record.round_id)
SETS = Kind("sets", StoredSet, lambda stored: stored.candidate_set.set_id)
SCORES = Kind("scores", StoredScores, lambda stored: stored.set_id)
PAIRS = Kind("pairs", StoredPairs, lambda stored: stored.round_id)


class RecordFeedback(ABC):
    """The meaning of a feedback store, wherever its records are; subclasses say how they are kept."""

    def put_round(self, record: RoundRecord) -> None:
        """Keep the round's record."""
        self._write(ROUNDS, record)

    def round(self, round_id: str) -> RoundRecord:
        """The round's newest record."""
        record = self._read(ROUNDS, round_id)
        if record is None:
            raise NotFound(f"there is no round {round_id!r}")
        return record

    @abstractmethod
    def round_ids(self) -> tuple[str, ...]:
        """Every round that has a record, sorted."""

    def put_set(self, round_id: str, candidate_set: CandidateSet) -> None:
        """Keep a candidate set as the round's next."""
        set_id = checked_name(candidate_set.set_id)
        stored = self._add_set(checked_name(round_id), candidate_set)
        if stored is None:
            return
        if stored.round_id != round_id:
            raise Conflict(f"candidate set {set_id!r} belongs to round {stored.round_id!r}, not to {round_id!r}")
        if stored.candidate_set != candidate_set:
            raise Conflict(f"candidate set {set_id!r} is already there with other content; use another set_id")

    def set(self, set_id: str) -> CandidateSet:
        """The candidate set."""
        return self._stored_set(set_id).candidate_set

    @abstractmethod
    def set_ids(self, round_id: str) -> tuple[str, ...]:
        """The round's candidate sets in the order in which they were put."""

    def put_scores(self, set_id: str, scores: Iterable[Score]) -> None:
        """Add what judges said of a set's candidates."""
        candidate_set = self.set(set_id)
        new = tuple(scores)

        def merge(old: StoredScores | None) -> StoredScores:
            return StoredScores(set_id=set_id, scores=merged_scores(candidate_set, old.scores if old else (), new))

        self._change(SCORES, set_id, merge)

    def scored(self, set_id: str) -> ScoredSet:
        """The set with its scores."""
        return self._scored_set(self.set(set_id), self._read(SCORES, set_id))

    def scored_sets(self, round_id: str) -> Iterator[ScoredSet]:
        """The round's sets with their scores."""
        return map(self.scored, self.set_ids(round_id))

    def put_pairs(self, round_id: str, pairs: Iterable[PreferencePair]) -> None:
        """Keep the round's preference pairs."""
        self._write(PAIRS, StoredPairs(round_id=checked_name(round_id), pairs=tuple(pairs)))

    def pairs(self, round_id: str) -> tuple[PreferencePair, ...]:
        """The round's preference pairs."""
        stored = self._read(PAIRS, round_id)
        if stored is None:
            raise NotFound(f"no preference pairs were made for round {round_id!r}")
        return stored.pairs

    def remove_sets(self, round_id: str, set_ids: Iterable[str]) -> None:
        """Forget sets of a round, with their scores."""
        checked_name(round_id)
        for set_id in set_ids:
            stored = self._read(SETS, set_id)
            if stored is not None and stored.round_id == round_id:
                self._remove_set(round_id, set_id)

    def remove_round(self, round_id: str) -> None:
        """Forget a round."""
        self.remove_sets(round_id, self.set_ids(round_id))
        self._remove_round(round_id)

    def _stored_set(self, set_id: str) -> StoredSet:
        stored = self._read(SETS, set_id)
        if stored is None:
            raise NotFound(f"there is no candidate set {set_id!r}")
        return stored

    @staticmethod
    def _scored_set(candidate_set: CandidateSet, stored: StoredScores | None) -> ScoredSet:
        return ScoredSet(candidate_set=candidate_set, scores=stored.scores if stored else ())

    @abstractmethod
    def _read(self, kind: Kind[RecordT], name: str) -> RecordT | None: ...

    @abstractmethod
    def _write(self, kind: Kind[RecordT], record: RecordT) -> None: ...

    @abstractmethod
    def _change(self, kind: Kind[RecordT], name: str, change: Callable[[RecordT | None], RecordT]) -> None:
        """Replace a record by what `change` makes of it, so that nothing written meanwhile is lost."""

    @abstractmethod
    def _add_set(self, round_id: str, candidate_set: CandidateSet) -> StoredSet | None:
        """Keep the set as the round's next, unless there is one of its id: then return that."""

    @abstractmethod
    def _remove_set(self, round_id: str, set_id: str) -> None: ...

    @abstractmethod
    def _remove_round(self, round_id: str) -> None: ...


class _LockedFeedback(RecordFeedback):
    """Feedback over records that can be had for oneself for a moment."""

    def __init__(self, records: Records) -> None:
        self._records = records
        # Round and position of sets that were read before. Sets never change or move; names of removed ones are not
        # given again.
        self._places: dict[str, tuple[str, int]] = {}
        self._places_lock = Lock()

    def round_ids(self) -> tuple[str, ...]:
        return tuple(self._records.names(ROUNDS))

    def set_ids(self, round_id: str) -> tuple[str, ...]:
        positions = self._positions(round_id)
        return tuple(sorted(positions, key=positions.__getitem__))

    def _read(self, kind: Kind[RecordT], name: str) -> RecordT | None:
        return self._records.read(kind, name)

    def _write(self, kind: Kind[RecordT], record: RecordT) -> None:
        self._records.write(kind, record)

    def _change(self, kind: Kind[RecordT], name: str, change: Callable[[RecordT | None], RecordT]) -> None:
        with self._records.exclusive():
            self._records.write(kind, change(self._records.read(kind, name)))

    def _add_set(self, round_id: str, candidate_set: CandidateSet) -> StoredSet | None:
        with self._records.exclusive():
            stored = self._records.read(SETS, candidate_set.set_id)
            if stored is None:
                position = 1 + max(self._positions(round_id).values(), default=0)
                placed = StoredSet(round_id=round_id, position=position, candidate_set=candidate_set)
                self._records.write(SETS, placed)
            return stored

    def _remove_set(self, round_id: str, set_id: str) -> None:
        with self._records.exclusive():
            self._records.remove(SCORES, set_id)
            self._records.remove(SETS, set_id)
        with self._places_lock:
            self._places.pop(set_id, None)

    def _remove_round(self, round_id: str) -> None:
        self._records.remove(PAIRS, round_id)
        self._records.remove(ROUNDS, round_id)

    def _positions(self, round_id: str) -> dict[str, int]:
        """Positions of the round's sets, by set id; reads only the sets that were not read before."""
        checked_name(round_id)
        with self._places_lock:
            names = self._records.names(SETS)
            for set_id in names:
                if set_id not in self._places:
                    stored = self._stored_set(set_id)
                    self._places[set_id] = stored.round_id, stored.position
            return {set_id: self._places[set_id][1] for set_id in names if self._places[set_id][0] == round_id}


class MemoryFeedback(_LockedFeedback):
    """Feedback of this process; gone with it."""

    def __init__(self) -> None:
        super().__init__(MemoryRecords())


class FolderFeedback(_LockedFeedback):
    """Feedback in a folder, one JSON file per record; other processes may use the same folder at the same time.

    A file that is cut short, foreign, or of an unknown schema version is a DataFileError that names it.
    """

    def __init__(self, path: Path | str) -> None:
        """Takes the folder's path; the folder is made when something is first written."""
        super().__init__(FolderRecords(path))
