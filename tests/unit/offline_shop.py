"""A shop over the tiny bundle: a round in one process, with one judge that likes bright pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fashiondpo.contracts import CandidateRequest, CandidateSet, JudgeInfo
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.evaluation.gate import GateSettings
from fashiondpo.judges.base import Scored, to_scores
from fashiondpo.offline import LocalGenerator, LocalJudge, LocalTrainer, blank_requests
from fashiondpo.offline_evaluation import LocalEvaluator, LocalGate
from fashiondpo.outfits.images import decode_image
from fashiondpo.pipeline import RoundParts
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.storage.adapters import FolderAdapters
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.feedback import FolderFeedback
from fashiondpo.training.config import TrainSettings
from tests.tiny_rounds import HISTORY, Squares, blanks

CANDIDATES = 4
LEARN = TrainSettings(
    objective="d3po",
    rate_decay="none",
    learning_rate=1e-2,
    passes=4,
    steps_per_outfit=None,
    outfits_per_update=4,
    beta=1.0,
)
QUALITY_ALONE = PreferenceSettings(weights={"quality": 1.0})


class Brightness:
    """A judge that likes bright pictures."""

    @property
    def info(self) -> JudgeInfo:
        return JudgeInfo(criterion="quality", version="brightness-1", low=0, high=255)

    def score(self, inputs):
        return to_scores(inputs, self.info, [Scored(float(i.image.mean())) for i in inputs])


def spread(sets: list[CandidateSet], artifacts) -> np.ndarray:
    """How much the pictures of each set differ, (outfits,)."""
    pictures = [[decode_image(artifacts.get(c.image)) for c in found.candidates] for found in sets]
    return np.asarray(pictures, float).std(axis=1).mean(axis=(1, 2, 3))


@dataclass(frozen=True)
class Shop:
    """Everything of one shop, in one folder."""

    bundle: DiFashion
    folder: Path

    @property
    def artifacts(self) -> FolderArtifacts:
        return FolderArtifacts(self.folder / "artifacts")

    @property
    def feedback(self) -> FolderFeedback:
        return FolderFeedback(self.folder / "feedback")

    @property
    def adapters(self) -> FolderAdapters:
        return FolderAdapters(self.folder / "adapters")

    def generator(self, **options) -> LocalGenerator:
        return LocalGenerator(self.bundle, Squares(), HISTORY, self.artifacts, **options)

    def gate(self, outfits: int = 16, **settings) -> LocalGate:
        held_out = blanks(outfits, first=100)
        evaluator = LocalEvaluator(
            self.generator(is_recorded=False),
            [LocalJudge(Brightness(), self.artifacts)],
            held_out,
            blank_requests(held_out, prefix="held-out", candidates=CANDIDATES, seed=1),
            lambda sets: spread(sets, self.artifacts),
        )
        asked = GateSettings(**{"min_outfits": 10, "min_diversity_ratio": 0.5, "max_fall": None, **settings})
        return LocalGate(evaluator, self.adapters, self.artifacts, {"quality": 1.0}, asked)

    def trainer(self, settings: TrainSettings = LEARN, **options) -> LocalTrainer:
        return LocalTrainer(self.bundle, self.artifacts, self.adapters, settings, self.folder / "runs", **options)

    def parts(self, **changes) -> RoundParts:
        parts = RoundParts(
            generator=self.generator(),
            judges=[LocalJudge(Brightness(), self.artifacts)],
            trainer=self.trainer(),
            gate=self.gate(),
            artifacts=self.artifacts,
            feedback=self.feedback,
            adapters=self.adapters,
            preferences=QUALITY_ALONE,
        )
        return replace(parts, **changes)


def assert_same_look(found, expected, artifacts) -> None:
    """The same pictures but for rounding: other batches add up in another order, which may move a pixel by one level."""
    for one, other in zip(found, expected, strict=True):
        assert [c.seed for c in one.candidates] == [c.seed for c in other.candidates]
        for a, b in zip(one.candidates, other.candidates, strict=True):
            pictures = [decode_image(artifacts.get(c.image)).astype(int) for c in (a, b)]
            assert np.abs(pictures[0] - pictures[1]).max() <= 1


def requests(count: int = 12, *, prefix: str = "r1", round_index: int = 0) -> list[CandidateRequest]:
    return blank_requests(blanks(count), prefix=prefix, candidates=CANDIDATES, seed=0, round_index=round_index)
