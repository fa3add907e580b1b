"""The gate of a round in a worker: held-out outfits are painted here and judged by the services, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fashiondpo.contracts import AdapterRef, CandidateRequest, CandidateSet, GateVerdict, RoundRecord, TrainedAdapter
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import UnscoredCandidates
from fashiondpo.evaluation.comparison import Measured, compare
from fashiondpo.evaluation.gate import GateSettings, decide
from fashiondpo.evaluation.statistics import Floats, pairwise_diversity
from fashiondpo.judges.features import ImageFeatures
from fashiondpo.offline import LocalGenerator, judge_inputs, load_weights
from fashiondpo.pipeline import SetJudge, Stop, collect_round, judge_round
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.telemetry import Progress
from services.trainer.orders import GateSide, gate_name

Diversity = Callable[[Sequence[CandidateSet]], Floats]


@dataclass(frozen=True)
class HeldOutParts:
    """Who paints, judges and keeps what the gate looks at."""

    generator: LocalGenerator
    judges: Sequence[SetJudge]
    feedback: FeedbackStore
    sets_per_call: int = 8


@dataclass(frozen=True)
class ResumableGate:
    """Compares the trained adapter with its parent on the same outfits and seeds.

    What was painted and judged lies in the feedback store, under `gate-<round>-before` and `gate-<round>-after`: a gate
    that was stopped or killed goes on from there.

    Attributes:
        round_id: the round whose adapter is to be judged.
        parts: the generator paints with either adapter; it need not record.
        requests: the held-out tasks, given the start of their names.
        adapters, artifacts: where the weights of both are.
        diversity: how different the candidates of each outfit are, (outfits,).
        weights: of the judges in the combined score.
        settings: what the adapter has to show.
        progress: told about sets that were painted or judged.
        should_stop: asked between batches.
    """

    round_id: str
    parts: HeldOutParts
    requests: Callable[[str], Sequence[CandidateRequest]]
    adapters: AdapterRegistry
    artifacts: ArtifactStore
    diversity: Diversity
    weights: dict[str, float]
    settings: GateSettings
    progress: Progress
    should_stop: Stop

    def decide(self, parent: AdapterRef, trained: TrainedAdapter) -> GateVerdict:
        """The verdict, with its figures.

        Raises:
            Cancelled: if should_stop says so; what was painted and judged is kept.
            Unavailable: if a judge does not answer, or owes scores.
        """
        before = self._measured("before", parent, load_weights(self.adapters, parent))
        unpublished = AdapterRef(version=parent.version + 1, digest=trained.weights.split(".")[0])
        weights = AdapterWeights.from_bytes(self.artifacts.get(trained.weights))
        after = self._measured("after", unpublished, weights)
        return decide(compare(before, after, self.weights), self.settings)

    def _measured(self, side: GateSide, ref: AdapterRef, weights: AdapterWeights | None) -> Measured:
        name = gate_name(self.round_id, side)
        requests = self.requests(name)
        painting, judging = self._progress_of(side, len(requests), len(self.parts.judges))
        record = RoundRecord(round_id=name, seed=0, adapter=ref)
        found = self.parts.generator.adapter, self.parts.generator.weights
        self.parts.generator.activate(ref, weights)
        try:
            record = collect_round(record, requests, self.parts, painting, self.should_stop)
        finally:
            self.parts.generator.activate(*found)
        record = judge_round(record, self.parts, judging, self.should_stop)
        return self._figures(record)

    def _figures(self, record: RoundRecord) -> Measured:
        scored = [self.parts.feedback.scored(set_id) for set_id in record.set_ids]
        criteria = tuple(judge.info.criterion for judge in self.parts.judges)
        owed = [s for s in scored if any(score.value is None and not score.is_final for score in s.scores)]
        if owed:
            raise UnscoredCandidates([s.candidate_set.set_id for s in owed], criteria)
        values = [
            [[s.value(c.candidate_id, criterion) for criterion in criteria] for c in s.candidate_set.candidates]
            for s in scored
        ]
        return Measured(
            criteria=criteria,
            scores=np.array(values, dtype=np.float64),  # None becomes NaN
            diversity=self.diversity([s.candidate_set for s in scored]),
        )

    def _progress_of(self, side: GateSide, outfits: int, judges: int) -> tuple[Progress, Progress]:
        """For painting and judging of one side: each set counts once when painted and once per judge."""
        half = outfits * (1 + judges)
        start = 0 if side == "before" else half

        def told_from(offset: int) -> Progress:
            return lambda done, _total, figures: self.progress(start + offset + done, 2 * half, figures)

        return told_from(0), told_from(outfits)


def features_diversity(features: ImageFeatures, artifacts: ArtifactStore) -> Diversity:
    """Mean distance between the candidates of each outfit in the features' space."""

    def diversity(candidate_sets: Sequence[CandidateSet]) -> Floats:
        images = [judge_input.image for judge_input in judge_inputs(candidate_sets, artifacts)]
        vectors = features.images(images).numpy().astype(np.float64)
        return pairwise_diversity(vectors.reshape(len(candidate_sets), -1, vectors.shape[1]))

    return diversity
