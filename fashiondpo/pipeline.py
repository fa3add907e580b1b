"""One round of FashionDPO: collect -> judge -> pair -> train -> gate -> publish. Over protocols only.

The round's record is the truth about it: it is stored after every stage, and every stage does only what is not yet
done, so a round that was interrupted at any moment goes on where it was and publishes exactly one adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from fashiondpo.contracts import (
    AdapterRef,
    CandidateRequest,
    CandidateSet,
    GateVerdict,
    JudgeInfo,
    PreferencePair,
    RoundRecord,
    RoundStage,
    Score,
    ScoredSet,
    TrainedAdapter,
)
from fashiondpo.errors import Cancelled, NotFound, PolicyMismatch, UnscoredCandidates
from fashiondpo.preferences import PreferenceSettings, preference_pairs
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.telemetry import Progress, log, log_context, no_progress, timed

Stop = Callable[[], bool]


class CandidateGenerator(Protocol):
    """Paints candidates and keeps their pictures and trajectories in the artifact store."""

    def generate(self, requests: Sequence[CandidateRequest]) -> Iterator[CandidateSet]:
        """One set per request, in order, each as soon as it is finished."""


class SetJudge(Protocol):
    """One judge over stored candidates."""

    @property
    def info(self) -> JudgeInfo:
        """Criterion, version and range."""

    def score(self, candidate_sets: Sequence[CandidateSet]) -> list[Score]:
        """One score per candidate of every set, in order; a failure is a score without value."""


class AdapterTrainer(Protocol):
    """Learns an adapter from pairs. Goes on from its last checkpoint when called again for the same round."""

    def train(
        self, round_id: str, sets: Sequence[CandidateSet], pairs: Sequence[PreferencePair], parent: AdapterRef
    ) -> TrainedAdapter:
        """The new adapter's weights, stored as an artifact, and how the training went."""


class Gate(Protocol):
    """Decides on held-out outfits whether a trained adapter may serve."""

    def decide(self, parent: AdapterRef, trained: TrainedAdapter) -> GateVerdict:
        """The verdict, with its figures."""


@dataclass(frozen=True)
class RoundParts:
    """Who does what in a round; every part has an in-process and, in a deployment, a remote form."""

    generator: CandidateGenerator
    judges: Sequence[SetJudge]
    trainer: AdapterTrainer
    gate: Gate
    artifacts: ArtifactStore
    feedback: FeedbackStore
    adapters: AdapterRegistry
    preferences: PreferenceSettings
    sets_per_call: int = 8


class JudgingParts(Protocol):
    """Of the parts of a round, those that judge."""

    @property
    def judges(self) -> Sequence[SetJudge]:
        """Who is asked."""

    @property
    def feedback(self) -> FeedbackStore:
        """Where sets and scores are kept."""

    @property
    def sets_per_call(self) -> int:
        """How many sets are painted, or judged, at once."""


class CollectingParts(JudgingParts, Protocol):
    """Of the parts of a round, those that collect and judge."""

    @property
    def generator(self) -> CandidateGenerator:
        """Who paints."""


def open_round(feedback: FeedbackStore, record: RoundRecord) -> RoundRecord:
    """Store a new round's record, or return the one that is already there under its name."""
    try:
        return feedback.round(record.round_id)
    except NotFound:
        feedback.put_round(record)
        return record


def run_round(
    record: RoundRecord,
    requests: Sequence[CandidateRequest],
    parts: RoundParts,
    *,
    progress: Callable[[RoundStage], Progress] = lambda _stage: no_progress,
    should_stop: Stop = lambda: False,
    after_stage: Callable[[RoundRecord], None] = lambda _record: None,
) -> RoundRecord:
    """Bring a round to its end, from wherever it is.

    Args:
        record: as stored.
        requests: what to collect; the same for the whole life of the round.
        parts: who does the work.
        progress: gives a progress callback for each stage.
        should_stop: asked between pieces of work.
        after_stage: told after every stage, once the record is stored.

    Returns:
        The finished record, as stored.

    Raises:
        Cancelled: as soon as should_stop says so; what was finished is kept.
        Unavailable: if a part does not answer; try again.
    """
    stages: dict[RoundStage, Callable[[RoundRecord], RoundRecord]] = {
        "collect": lambda r: collect_round(r, requests, parts, progress("collect"), should_stop),
        "judge": lambda r: judge_round(r, parts, progress("judge"), should_stop),
        "pair": lambda r: pair_round(r, parts),
        "train": lambda r: train_round(r, parts),
        "gate": lambda r: gate_round(r, parts),
        "publish": lambda r: publish_round(r, parts),
    }
    with log_context(round_id=record.round_id):
        while record.stage != "done":
            if should_stop():
                raise Cancelled(f"round {record.round_id} was stopped before stage {record.stage!r}")
            seconds = dict(record.seconds)
            stage = record.stage
            try:
                with timed(seconds, stage):
                    record = stages[stage](record)
            except Cancelled:
                parts.feedback.put_round(record.model_copy(update={"seconds": seconds}))  # the time was spent
                raise
            record = record.model_copy(update={"seconds": seconds})
            parts.feedback.put_round(record)
            log().info("stage finished", stage=stage, seconds=round(seconds[stage], 1))
            after_stage(record)
    return record


def collect_round(
    record: RoundRecord,
    requests: Sequence[CandidateRequest],
    parts: CollectingParts,
    progress: Progress,
    should_stop: Stop,
) -> RoundRecord:
    """Paint the candidates that are not there yet, with the adapter that the round starts from."""
    present = set(parts.feedback.set_ids(record.round_id))
    missing = iter([request for request in requests if request.set_id not in present])
    while batch := list(islice(missing, parts.sets_per_call)):
        if should_stop():
            raise Cancelled(f"round {record.round_id} was stopped while collecting; {len(present)} sets are kept")
        for candidate_set in parts.generator.generate(batch):
            if candidate_set.adapter != record.adapter:
                raise PolicyMismatch(
                    f"{candidate_set.set_id} was made with adapter version {candidate_set.adapter.version}, the round "
                    f"starts from version {record.adapter.version}: activate that on the generator"
                )
            parts.feedback.put_set(record.round_id, candidate_set)
            present.add(candidate_set.set_id)
            progress(len(present), len(requests), {})
    return _at(record, "judge", set_ids=tuple(request.set_id for request in requests))


def judge_round(record: RoundRecord, parts: JudgingParts, progress: Progress, should_stop: Stop) -> RoundRecord:
    """Ask every judge for the scores that are not there yet; those of another version of it do not count."""
    total, done = len(record.set_ids) * len(parts.judges), 0
    for judge in parts.judges:
        info = judge.info
        waiting = [owed for s in record.set_ids if (owed := _unsettled(parts.feedback.scored(s), info)) is not None]
        done += len(record.set_ids) - len(waiting)
        for start in range(0, len(waiting), parts.sets_per_call):
            if should_stop():
                raise Cancelled(f"round {record.round_id} was stopped while judging; scores so far are kept")
            batch = waiting[start : start + parts.sets_per_call]
            scores = iter(judge.score(batch))
            for candidate_set in batch:
                parts.feedback.put_scores(candidate_set.set_id, list(islice(scores, len(candidate_set.candidates))))
            done += len(batch)
            progress(done, total, {})
    return _at(record, "pair")


def pair_round(record: RoundRecord, parts: RoundParts) -> RoundRecord:
    """Turn scores into preference pairs. Raises UnscoredCandidates (try again) while a judge still owes scores."""
    try:
        pairs = preference_pairs(map(parts.feedback.scored, record.set_ids), parts.preferences)
    except UnscoredCandidates:
        parts.feedback.put_round(_at(record, "judge"))  # the next attempt asks the judges again
        raise
    parts.feedback.put_pairs(record.round_id, pairs)
    return _at(record, "train")


def train_round(record: RoundRecord, parts: RoundParts) -> RoundRecord:
    """Fine-tune the adapter on the pairs."""
    sets = [parts.feedback.set(set_id) for set_id in record.set_ids]
    pairs = parts.feedback.pairs(record.round_id)
    trained = parts.trainer.train(record.round_id, sets, pairs, record.adapter)
    return _at(record, "gate", trained=trained)


def gate_round(record: RoundRecord, parts: RoundParts) -> RoundRecord:
    """Let held-out outfits decide."""
    return _at(record, "publish", verdict=parts.gate.decide(record.adapter, _trained(record)))


def publish_round(record: RoundRecord, parts: RoundParts) -> RoundRecord:
    """Register the adapter; if the gate promoted it, it becomes the champion. Safe to run twice."""
    trained = _trained(record)
    manifest = parts.adapters.publish(
        parts.artifacts.get(trained.weights),
        round_id=record.round_id,
        base_digest=trained.base_digest,
        parent=record.adapter,
        rank=trained.rank,
        targets=trained.targets,
        training=trained.figures,
        verdict=record.verdict,
    )
    if record.verdict is not None and record.verdict.is_promoted:
        parts.adapters.activate(manifest.version)
    return _at(record, "done", published=manifest.ref)


def _trained(record: RoundRecord) -> TrainedAdapter:
    if record.trained is None:
        raise NotFound(f"round {record.round_id} is at stage {record.stage!r} but names no trained adapter")
    return record.trained


def _unsettled(scored: ScoredSet, judge: JudgeInfo) -> CandidateSet | None:
    """The set with only those candidates whose score by this judge is still owed; None if none is."""
    settled = {
        score.candidate_id
        for score in scored.scores
        if (score.criterion, score.judge_version) == (judge.criterion, judge.version)
        and (score.value is not None or score.is_final)
    }
    owed = tuple(c for c in scored.candidate_set.candidates if c.candidate_id not in settled)
    return scored.candidate_set.model_copy(update={"candidates": owed}) if owed else None


def _at(record: RoundRecord, stage: RoundStage, **changes: object) -> RoundRecord:
    return record.model_copy(update={"stage": stage, **changes})
