"""Keeps what the engine has painted: pictures, trajectories, and the sets that rounds may learn from."""

from __future__ import annotations

from dataclasses import dataclass

from fashiondpo.contracts import Candidate, CandidateSet
from fashiondpo.diffusion.engine import FinishedSet
from fashiondpo.outfits.images import encode_png
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.storage.traffic import TRAFFIC_ROUND, Traffic


@dataclass(frozen=True)
class CandidateWriter:
    """Encodes and stores candidate sets; called on worker threads, several at once.

    Attributes:
        artifacts: where pictures and trajectories go.
        feedback: where recorded sets go that no round has asked for; None where no round ever will.
        traffic: tells the judges of them.
    """

    artifacts: ArtifactStore
    feedback: FeedbackStore | None = None
    traffic: Traffic | None = None

    def write(self, result: FinishedSet, *, is_recorded: bool, joins_traffic: bool) -> CandidateSet:
        """Keep a set: first what it refers to, then itself, last the word that it is there.

        Args:
            result: as the engine finished it.
            is_recorded: keep its trajectory, so that it can be learned from.
            joins_traffic: let rounds draw it from the traffic.

        Raises:
            Unavailable: if a store does not answer.
            Conflict: if its name was used for another set.
        """
        trajectory = result.trajectory
        candidates = tuple(
            Candidate(
                candidate_id=f"{result.set_id}-{k}",
                index=k,
                seed=seed,
                image=self.artifacts.put(encode_png(image), "png"),
            )
            for k, (seed, image) in enumerate(zip(trajectory.seeds, result.images, strict=True))
        )
        candidate_set = CandidateSet(
            set_id=result.set_id,
            outfit=result.outfit,
            slot=result.slot,
            candidates=candidates,
            sampler=trajectory.settings,
            base_digest=trajectory.base_digest,
            adapter=result.adapter,
            trajectory=self.artifacts.put(trajectory.to_bytes(), "safetensors") if is_recorded else None,
            history=result.history,
        )
        if joins_traffic and self.feedback is not None and self.traffic is not None:
            self.feedback.put_set(TRAFFIC_ROUND, candidate_set)
            self.traffic.add(candidate_set)
        return candidate_set
