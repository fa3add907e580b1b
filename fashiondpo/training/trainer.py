"""Fine-tune a LoRA adapter from preference pairs over recorded denoising steps; stops and goes on exactly.

Everything random follows from the seed and the number of the update, so a run that was killed goes on from its last
checkpoint as if nothing had happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fashiondpo.contracts import AdapterRef, content_digest
from fashiondpo.diffusion.lora import (
    POLICY,
    AdapterWeights,
    adapter_parameters,
    adapter_weights,
    add_adapter,
    load_adapter,
    remove_adapter,
)
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import Visit
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import Cancelled, InvalidInput, PolicyMismatch, TrainingDiverged
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.metrics import METRICS_FILE, read_metrics
from fashiondpo.training.objectives import REFERENCE, VisitLosses, loss_terms, visit_losses
from fashiondpo.training.plan import Update, plan_updates, random_steps


@dataclass(frozen=True)
class PreferenceSet:
    """One outfit to learn from.

    Attributes:
        set_id: names it in messages and in the run's fingerprint.
        pairs: (chosen, rejected) positions among the candidates.
        trajectory: reads the recorded runs; called when they are needed, so they need not all fit in memory.
    """

    set_id: str
    pairs: tuple[tuple[int, int], ...]
    trajectory: Callable[[], Trajectory]


class PreferenceTrainer:
    """One training run of one adapter. Puts it on the bundle's UNet; `close` takes it off again."""

    def __init__(
        self,
        bundle: DiFashion,
        sets: Sequence[PreferenceSet],
        settings: TrainSettings,
        folder: Path,
        *,
        parent: AdapterWeights | None = None,
        parent_ref: AdapterRef | None = None,
    ) -> None:
        """Prepare the run and pick up its last checkpoint.

        Args:
            bundle: base model; its UNet must carry no adapter.
            sets: outfits with at least one pair.
            settings: hyper-parameters.
            folder: for `checkpoint.safetensors` and `metrics.jsonl`.
            parent: adapter to start from; also the reference policy.
            parent_ref: its version; every trajectory must have been made with it.

        Raises:
            InvalidInput: if there is nothing to learn from, or parent and parent_ref do not go together.
            PolicyMismatch: if the first trajectory was made by another policy; `run` looks at the others.
            InvalidAdapter: if the parent does not fit the bundle.
            Conflict: if the folder holds another run.
            DataFileError: if the checkpoint is damaged.
        """
        usable = [s for s in sets if s.pairs]
        if not usable:
            raise InvalidInput("there is no preference pair to learn from: score more outfits or lower the margin")
        self.bundle, self.sets, self.settings, self.folder = bundle, usable, settings, folder
        self.parent_ref = parent_ref or AdapterRef()
        if (parent is None) != (self.parent_ref.version == 0):
            given = "no weights" if parent is None else "weights"
            raise InvalidInput(f"{given} of a parent were given, but its version is {self.parent_ref.version}")
        self.device = bundle.device
        first = usable[0].trajectory()
        self._sampler = first.settings
        self._checked(usable[0])
        self.plan = plan_updates(len(usable), random_steps(first, bundle), settings)
        self.parameters = self._policy_parameters(parent)
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, betas=settings.adam_betas, weight_decay=settings.weight_decay
        )
        try:
            self.updates_done = self._resume()
        except BaseException:
            self.close()
            raise

    @property
    def is_finished(self) -> bool:
        """Whether all updates are done."""
        return self.updates_done == len(self.plan)

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        rate = self.settings.learning_rate
        return rate if self.settings.rate_decay == "none" else rate * (1 - self.updates_done / len(self.plan))

    def run(
        self,
        *,
        progress: Progress = no_progress,
        should_stop: Callable[[], bool] = lambda: False,
        max_updates: int | None = None,
    ) -> AdapterWeights | None:
        """Train until done, or for at most `max_updates`.

        Returns:
            The adapter, or None if updates are left; the state is saved either way.

        Raises:
            Cancelled: if should_stop said so; the state is saved.
            PolicyMismatch: if a trajectory was made by another policy.
            TrainingDiverged: if a gradient is not finite.
        """
        until = len(self.plan) if max_updates is None else min(len(self.plan), self.updates_done + max_updates)
        while self.updates_done < until:
            if should_stop():
                self._save()
                raise Cancelled(f"training was stopped after {self.updates_done} of {len(self.plan)} updates")
            figures = self._update(self.plan[self.updates_done])
            self.updates_done += 1
            self._append_metrics(figures)
            if self.updates_done % self.settings.checkpoint_every == 0:
                self._save()
            progress(self.updates_done, len(self.plan), figures)
        self._save()
        return adapter_weights(self.bundle.unet, self.bundle.digest) if self.is_finished else None

    def close(self) -> None:
        """Take the adapters off the UNet; it is the base model again."""
        remove_adapter(self.bundle.unet, name=REFERENCE)
        remove_adapter(self.bundle.unet)
        self.bundle.unet.requires_grad_(False)

    def _policy_parameters(self, parent: AdapterWeights | None) -> list[nn.Parameter]:
        unet, digest = self.bundle.unet, self.bundle.digest
        if parent is None:
            return add_adapter(unet, rank=self.settings.rank, seed=self.settings.seed)
        parameters = load_adapter(unet, parent, digest)
        if self.settings.objective != "d3po":  # which alone has the reference's figures on record
            load_adapter(unet, parent, digest, name=REFERENCE)
            unet.set_adapter(POLICY)
            parameters = adapter_parameters(unet)
        return parameters

    def _update(self, update: Update) -> dict[str, float]:
        started = time.perf_counter()
        positions = dict.fromkeys(position for position, _ in update.visits)  # each is read once, however many steps
        trajectories = {position: self._checked(self.sets[position]) for position in positions}
        terms = sum(
            loss_terms(self.sets[position].pairs, trajectories[position].num_candidates, self.settings)
            for position, _ in update.visits
        )
        self.optimizer.zero_grad()
        parts: list[VisitLosses] = []
        size = self.settings.visits_per_forward
        for start in range(0, len(update.visits), size):
            some = update.visits[start : start + size]
            visits = [Visit(trajectories[position], step) for position, step in some]
            pairs = [self.sets[position].pairs for position, _ in some]
            # a generator per position, so that noise does not depend on how visits are split into forwards
            noise_keys = [(self.settings.seed, self.updates_done, start + i) for i in range(len(some))]
            losses = visit_losses(self.bundle, visits, pairs, self.settings, noise_keys)
            (losses.loss.sum() / terms).backward()  # type: ignore[no-untyped-call]
            parts.append(losses.detached())
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            raise TrainingDiverged(
                f"the gradient of update {self.updates_done + 1} is not finite: lower the learning rate, or raise beta; "
                "the adapter of the last checkpoint is kept"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        return _figures(parts, float(norm), time.perf_counter() - started)

    def _checked(self, preference_set: PreferenceSet) -> Trajectory:
        """The set's trajectory, if this policy may learn from it."""
        trajectory = preference_set.trajectory()
        name = preference_set.set_id
        if trajectory.base_digest != self.bundle.digest:
            raise PolicyMismatch(
                f"{name} was made by base {trajectory.base_digest[:12]}, not {self.bundle.digest[:12]}"
            )
        if trajectory.adapter != self.parent_ref:
            raise PolicyMismatch(
                f"{name} was made with adapter version {trajectory.adapter.version}, the reference policy is version "
                f"{self.parent_ref.version}: collect new candidates"
            )
        if trajectory.settings != self._sampler:
            raise PolicyMismatch(
                f"{name} was made with other sampler settings than {self.sets[0].set_id}: train them in separate rounds"
            )
        if max(max(pair) for pair in preference_set.pairs) >= trajectory.num_candidates:
            raise InvalidInput(f"{name} has {trajectory.num_candidates} candidates, but a pair names another")
        return trajectory

    def _fingerprint(self) -> str:
        described = {
            "base": self.bundle.digest,
            "parent": self.parent_ref.model_dump(),
            "settings": self.settings.model_dump(exclude={"checkpoint_every"}),
            "sets": [[s.set_id, s.pairs] for s in self.sets],
        }
        return content_digest(json.dumps(described, sort_keys=True).encode())

    def _resume(self) -> int:
        found = load_checkpoint(self.folder / "checkpoint.safetensors", self._fingerprint())
        if found is None:
            self._rewrite_metrics(0)
            return 0
        found.restore(self.parameters, self.optimizer)
        self._rewrite_metrics(found.updates)
        return found.updates

    def _save(self) -> None:
        state = Checkpoint.of(self.parameters, self.optimizer, self.updates_done, self._fingerprint())
        save_checkpoint(state, self.folder / "checkpoint.safetensors")

    def _append_metrics(self, figures: dict[str, float]) -> None:
        with (self.folder / METRICS_FILE).open("a") as file:
            file.write(json.dumps({"step": self.updates_done, **figures}) + "\n")

    def _rewrite_metrics(self, updates: int) -> None:
        """Forget the lines of updates after the checkpoint: they will be made again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.folder) if row["step"] <= updates]
        unfinished = self.folder / f"{METRICS_FILE}.unfinished"
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in kept))
        unfinished.replace(self.folder / METRICS_FILE)


def _figures(parts: Sequence[VisitLosses], grad_norm: float, seconds: float) -> dict[str, float]:
    def mean(name: str) -> float:
        values: list[Tensor] = [getattr(part, name) for part in parts]
        return float(torch.cat(values).float().mean())

    return {
        "loss": mean("loss"),
        "implicit_accuracy": mean("is_right"),
        "margin": mean("margin"),
        "clipped_fraction": mean("is_clipped"),
        "kl": mean("kl"),
        "grad_norm": grad_norm,
        "seconds": seconds,
    }
