"""Evaluation and gate driven from one process: held-out outfits, completed and measured with one policy after the other.

Who paints and who judges may be in this process or behind HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fashiondpo.contracts import AdapterRef, CandidateRequest, CandidateSet, GateVerdict, Outfit, TrainedAdapter
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import InvalidInput, Unavailable
from fashiondpo.evaluation.comparison import MISMATCHED, Comparison, Measured, compare
from fashiondpo.evaluation.gate import GateSettings, decide
from fashiondpo.judges.base import JudgeInput
from fashiondpo.judges.held_out import HeldOutJudge
from fashiondpo.judges.personalization import PersonalizationJudge
from fashiondpo.offline import judge_inputs, load_weights
from fashiondpo.outfits.model import Blank
from fashiondpo.pipeline import CandidateGenerator, SetJudge
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.telemetry import Progress, no_progress


@dataclass(frozen=True)
class Measurement:
    """What a policy achieved on held-out outfits: the figures and the candidates behind them."""

    measured: Measured
    candidate_sets: tuple[CandidateSet, ...]


HeldOutMetrics = Callable[[Sequence[CandidateSet], Sequence[Blank]], dict[str, np.ndarray]]
"""Metrics that made no label: name to values per outfit, (outfits,)."""


class PolicyGenerator(CandidateGenerator, Protocol):
    """A generator that paints with the policy it was given last."""

    @property
    def adapter(self) -> AdapterRef:
        """Which that is."""

    @property
    def weights(self) -> AdapterWeights | None:
        """Its weights, where this process has them."""

    def activate(self, ref: AdapterRef, weights: AdapterWeights | None) -> None:
        """Paint with this policy from now on."""


@dataclass(frozen=True)
class LocalEvaluator:
    """Completes held-out outfits with a policy and lets every judge and metric look at them."""

    generator: PolicyGenerator
    judges: Sequence[SetJudge]
    blanks: Sequence[Blank]
    requests: Sequence[CandidateRequest]
    diversity: Callable[[Sequence[CandidateSet]], np.ndarray]
    held_out: HeldOutMetrics | None = None
    progress: Progress = no_progress

    def with_progress(self, progress: Progress) -> LocalEvaluator:
        """The same, telling somebody else how far it is."""
        return replace(self, progress=progress)

    def measure(self, ref: AdapterRef, weights: AdapterWeights | None) -> Measurement:
        """Paint the held-out outfits with this policy and measure them; the generator's own adapter comes back.

        Raises:
            InvalidInput: if there is nothing to paint.
            Unavailable: if a judge failed in a way that a later attempt may mend.
        """
        if not self.requests:
            raise InvalidInput("there are no held-out outfits to measure")
        found = self.generator.adapter, self.generator.weights
        self.generator.activate(ref, weights)
        try:
            sets = []
            for candidate_set in self.generator.generate(self.requests):
                sets.append(candidate_set)
                self.progress(len(sets), len(self.requests), {})
        finally:
            self.generator.activate(*found)
        return self.measured(sets)

    def measured(self, sets: Sequence[CandidateSet]) -> Measurement:
        """Measure candidates of the held-out outfits, one set for each in their order, whoever has painted them.

        Raises:
            Unavailable: if a judge failed in a way that a later attempt may mend.
        """
        shape = (len(sets), len(sets[0].candidates))
        scores = []
        for judge in self.judges:
            given = judge.score(sets)
            if owed := [score for score in given if score.value is None and not score.is_final]:
                raise Unavailable(f"{len(owed)} held-out scores are missing, the first because of: {owed[0].reason}")
            values = [np.nan if score.value is None else score.value for score in given]
            scores.append(np.array(values, dtype=np.float64).reshape(shape))
        measured = Measured(
            criteria=tuple(judge.info.criterion for judge in self.judges),
            scores=np.stack(scores, axis=-1),
            diversity=self.diversity(sets),
            held_out=self.held_out(sets, self.blanks) if self.held_out is not None else {},
        )
        return Measurement(measured, tuple(sets))


@dataclass(frozen=True)
class LocalGate:
    """Compares the trained adapter with its parent on held-out outfits, same outfits and seeds."""

    evaluator: LocalEvaluator
    adapters: AdapterRegistry
    artifacts: ArtifactStore
    weights: dict[str, float]
    settings: GateSettings

    def compare(self, parent: AdapterRef, trained: TrainedAdapter) -> tuple[Comparison, Measurement, Measurement]:
        """Figures of the change, and what they were measured on."""
        content = self.artifacts.get(trained.weights)
        before = self.evaluator.measure(parent, load_weights(self.adapters, parent))
        unpublished = AdapterRef(version=parent.version + 1, digest=trained.weights.split(".")[0])
        after = self.evaluator.measure(unpublished, AdapterWeights.from_bytes(content))
        return compare(before.measured, after.measured, self.weights), before, after

    def decide(self, parent: AdapterRef, trained: TrainedAdapter) -> GateVerdict:
        """The verdict, with its figures."""
        comparison, _, _ = self.compare(parent, trained)
        return decide(comparison, self.settings)


@dataclass(frozen=True)
class HeldOutFigures:
    """Facts by rule, and how much candidates please a stranger: what personalization is worth must lie above that."""

    judge: HeldOutJudge | None
    personalization: PersonalizationJudge
    artifacts: ArtifactStore

    def __call__(self, candidate_sets: Sequence[CandidateSet], blanks: Sequence[Blank]) -> dict[str, np.ndarray]:
        """Values per outfit, by name of the figure; NaN where there is no stranger."""
        inputs = judge_inputs(candidate_sets, self.artifacts)
        shape = (len(candidate_sets), -1)
        strangers = [
            _with_user(judge_input, user_id)
            for judge_input, user_id in zip(inputs, _strangers(candidate_sets), strict=True)
            if user_id is not None
        ]
        values = {score.candidate_id: score.value for score in self.personalization.score(strangers)}
        found = [values.get(judge_input.candidate_id) for judge_input in inputs]
        mismatched = np.array([np.nan if v is None else v for v in found], dtype=np.float64).reshape(shape)
        figures = {MISMATCHED: mismatched.mean(1)}
        if self.judge is not None:
            truths = [blank.true_item_id for s, blank in zip(candidate_sets, blanks, strict=True) for _ in s.candidates]
            facts = self.judge.measure(inputs, truths)
            for name in facts[0]:
                per_candidate = np.array([fact.get(name, np.nan) for fact in facts]).reshape(shape)
                figures[name] = per_candidate.mean(1)
        return figures


def _strangers(candidate_sets: Sequence[CandidateSet]) -> list[int | None]:
    """For every candidate, the next other user among the outfits; None if all are of one user."""
    users = [candidate_set.outfit.user_id for candidate_set in candidate_sets]
    found: list[int | None] = []
    for position, candidate_set in enumerate(candidate_sets):
        others = (u for u in users[position + 1 :] + users[:position] if u != users[position])
        found += [next(others, None)] * len(candidate_set.candidates)
    return found


def _with_user(judge_input: JudgeInput, user_id: int) -> JudgeInput:
    outfit: Outfit = judge_input.outfit.model_copy(update={"user_id": user_id})
    return replace(judge_input, outfit=outfit)
