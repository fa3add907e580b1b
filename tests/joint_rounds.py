"""A small round to train on by one process or several: saved bundle, painted sets, pairs, stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashiondpo.contracts import AdapterRef, CandidateSet, PreferencePair, TrainedAdapter
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.joint_training import JointTrainer
from fashiondpo.offline import LocalGenerator, LocalTrainer, blank_requests
from fashiondpo.storage.adapters import FolderAdapters
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.config import TrainSettings
from tests.tiny_models import saved_tiny_bundle
from tests.tiny_rounds import HISTORY, Squares, blanks

OUTFITS, CANDIDATES = 5, 3
# five outfits in updates of three: shares of two and one, and of one and one
DEFAULT = TrainSettings(passes=2, outfits_per_update=3, visits_per_forward=2, checkpoint_every=1)
ACCUMULATED_D3PO = TrainSettings(
    objective="d3po",
    beta=0.1,
    learning_rate=3e-3,
    rate_decay="none",
    passes=2,
    outfits_per_update=3,
    steps_per_outfit=2,
    checkpoint_every=1,
)


@dataclass(frozen=True)
class JointRound:
    """What there is to learn from, and who can."""

    bundle: DiFashion
    bundle_folder: Path
    artifacts: FolderArtifacts
    adapters: FolderAdapters
    sets: list[CandidateSet]
    pairs: list[PreferencePair]

    def alone(self, settings: TrainSettings, folder: Path) -> TrainedAdapter:
        """Trained by this process."""
        trainer = LocalTrainer(self.bundle, self.artifacts, self.adapters, settings, folder)
        return trainer.train("round-0001", self.sets, self.pairs, AdapterRef())

    def trainer(
        self,
        settings: TrainSettings,
        folder: Path,
        *,
        processes: int = 2,
        progress: Progress = no_progress,
        should_stop: Callable[[], bool] = lambda: False,
        **changes: Any,
    ) -> JointTrainer:
        return JointTrainer(
            self.bundle_folder,
            self.bundle.digest,
            "cpu",
            processes,
            self.artifacts,
            str(self.artifacts),
            self.adapters,
            settings,
            folder,
            progress,
            should_stop,
            **changes,
        )

    def together(self, settings: TrainSettings, folder: Path, **options: Any) -> TrainedAdapter:
        """Trained by several processes."""
        return self.trainer(settings, folder, **options).train("round-0001", self.sets, self.pairs, AdapterRef())

    def weights(self, adapter: TrainedAdapter) -> AdapterWeights:
        return AdapterWeights.from_bytes(self.artifacts.get(adapter.weights))


def joint_round(folder: Path, artifacts: FolderArtifacts) -> JointRound:
    """Painted now; one outfit has fewer pairs than the others, so that shares weigh differently."""
    bundle = saved_tiny_bundle(folder / "bundle")
    generator = LocalGenerator(bundle, Squares(), HISTORY, artifacts)
    requests = blank_requests(blanks(OUTFITS), prefix="round-0001", candidates=CANDIDATES, seed=1)
    sets = list(generator.generate(requests))
    found = [(0, 1), (0, 2), (1, 2)]
    pairs = [
        PreferencePair(set_id=s.set_id, chosen=chosen, rejected=rejected, margin=1.0)
        for i, s in enumerate(sets)
        for chosen, rejected in (found[:1] if i == 2 else found)
    ]
    adapters = FolderAdapters(folder / "adapters")
    return JointRound(bundle, folder / "bundle", artifacts, adapters, sets, pairs)
