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
from torch import Tensor

from fashiondpo.contracts import AdapterRef, content_digest
from fashiondpo.diffusion.lora import AdapterWeights, adapter_weights
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import Visit
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import Cancelled, InvalidInput, PolicyMismatch
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.checkpoint import read_checkpoint, save_checkpoint
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.joint_updates import figures_of, sum_gradients
from fashiondpo.training.memory import MemoryEstimate, SetShape, estimate_memory
from fashiondpo.training.metrics import METRICS_FILE, read_metrics
from fashiondpo.training.objectives import Pairs, VisitLosses, loss_terms, visit_losses
from fashiondpo.training.optimizer import PolicyOptimizer, check_finite
from fashiondpo.training.plan import Update, plan_updates, random_steps
from fashiondpo.training.policy import put_policy, take_off_policy
from fashiondpo.training.precision import prepare_policy
from fashiondpo.training.processes import ALONE, Processes
from fashiondpo.training.replay import check_replay, largest_log_ratio

CHECKPOINT_FILE = "checkpoint.safetensors"


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
        processes: Processes = ALONE,
    ) -> None:
        """Prepare the run and pick up its last checkpoint.

        Args:
            bundle: base model; its UNet must carry no adapter.
            sets: outfits with at least one pair.
            settings: hyper-parameters.
            folder: for `checkpoint.safetensors` and `metrics.jsonl`.
            parent: adapter to start from; also the reference policy.
            parent_ref: its version; every trajectory must have been made with it.
            processes: those that train together. Each reads the trajectories of its share of an update's outfits, all
                make the same steps, and only the main one writes.

        Raises:
            InvalidInput: if there is nothing to learn from, parent and parent_ref do not go together, or the optimiser's
                package is not installed.
            PolicyMismatch: if the first trajectory was made by another policy; `run` looks at the others.
            InvalidAdapter: if the parent does not fit the bundle.
            Conflict: if the folder holds another run.
            DataFileError: if the checkpoint is damaged.
        """
        usable = [s for s in sets if s.pairs]
        if not usable:
            raise InvalidInput("there is no preference pair to learn from: score more outfits or lower the margin")
        self.bundle, self.sets, self.settings, self.folder = bundle, usable, settings, folder
        self.processes = processes
        self.parent_ref = parent_ref or AdapterRef()
        if (parent is None) != (self.parent_ref.version == 0):
            given = "no weights" if parent is None else "weights"
            raise InvalidInput(f"{given} of a parent were given, but its version is {self.parent_ref.version}")
        self.device = bundle.device
        first = usable[0].trajectory()
        self._sampler = first.settings
        self._checked(usable[0])
        self.plan = plan_updates(len(usable), random_steps(first, bundle), settings)
        self.parameters = put_policy(bundle, parent, settings)
        self._restore_policy = prepare_policy(bundle.unet, settings)
        try:
            self._steps = PolicyOptimizer(self.parameters, settings, self.device)
            self.optimizer = self._steps.adamw
            self.updates_done = self._resume()
        except BaseException:
            self.close()
            raise
        self._probe = first if settings.objective == "d3po" and self.updates_done == 0 else None

    def estimate_memory(self) -> MemoryEstimate:
        """What the training needs of the device.

        Raises:
            InvalidInput: if not even two rows fit.
        """
        return estimate_memory(
            self.bundle, self.parameters, self.settings, SetShape.of_trajectory(self.sets[0].trajectory())
        )

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
            PolicyMismatch: if a trajectory was made by another policy, or if, before the first update of d3po, the policy
                gives recorded steps other densities than those recorded with them.
            TrainingDiverged: if a gradient is not finite.
        """
        until = len(self.plan) if max_updates is None else min(len(self.plan), self.updates_done + max_updates)
        self._check_replay()
        while self.updates_done < until:
            if self.processes.any_of(should_stop()):
                self._save()
                raise Cancelled(f"training was stopped after {self.updates_done} of {len(self.plan)} updates")
            figures = self._update(self.plan[self.updates_done])
            self.updates_done += 1
            if self.processes.is_main:
                self._append_metrics(figures)
            if self.updates_done % self.settings.checkpoint_every == 0:
                self._save()
            progress(self.updates_done, len(self.plan), figures)
        self._save()
        if not self.is_finished:
            return None
        with self._steps.averaged():
            return adapter_weights(self.bundle.unet, self.bundle.digest)

    def close(self) -> None:
        """Take the adapters off the UNet; it is the base model again."""
        self._restore_policy()
        take_off_policy(self.bundle)

    def _check_replay(self) -> None:
        if self._probe is not None and self.updates_done == 0:
            apart = largest_log_ratio(self.bundle, self._probe, random_steps(self._probe, self.bundle))
            check_replay(self.sets[0].set_id, apart, self.settings)
            self._probe = None

    def _update(self, update: Update) -> dict[str, float]:
        started = time.perf_counter()
        positions = dict.fromkeys(position for position, _ in update.visits)  # each is read once, however many steps
        own = self.processes.share(list(positions))
        trajectories = {position: self._checked(self.sets[position]) for position in own}
        # with its place in the update, which decides its noise, whoever works on it and in which forward
        visits = [
            (place, Visit(trajectories[position], step), self.sets[position].pairs)
            for place, (position, step) in enumerate(update.visits)
            if position in trajectories
        ]
        parts, norm = self._gradient(visits)
        while not bool(torch.isfinite(norm)) and self._steps.lowers_scale():
            parts, norm = self._gradient(visits)
        check_finite(norm, self.updates_done + 1)
        self._steps.step(self.learning_rate)
        return {
            **figures_of(parts, self.processes),
            "grad_norm": float(norm),
            "seconds": time.perf_counter() - started,
        }

    def _gradient(self, visits: Sequence[tuple[int, Visit, Pairs]]) -> tuple[list[VisitLosses], Tensor]:
        """Put the gradient of an update into the parameters; gives the losses of this process's visits, and its length."""
        counts = [loss_terms(pairs, visit.trajectory.num_candidates, self.settings) for _, visit, pairs in visits]
        # of all processes: so that the sum of their gradients is the mean over everything, whatever share each has
        terms = int(self.processes.summed(torch.tensor([sum(counts)])).item())
        self.optimizer.zero_grad()
        parts: list[VisitLosses] = []
        size = self.settings.visits_per_forward
        for start in range(0, len(visits), size):
            places, some, pairs = zip(*visits[start : start + size], strict=True)
            noise_keys = [(self.settings.seed, self.updates_done, place) for place in places]
            losses = visit_losses(self.bundle, some, pairs, self.settings, noise_keys)
            self._steps.backward(losses.loss.sum() / terms)
            parts.append(losses.detached())
        if self.processes.count > 1:
            sum_gradients(self.parameters, self.processes)
        return parts, self._steps.clipped_norm()

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
            "settings": self.settings.decisive(),
            "sets": [[s.set_id, s.pairs] for s in self.sets],
        }
        return content_digest(json.dumps(described, sort_keys=True).encode())

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT_FILE
        # the main process's: others may be on machines that do not see its folder
        content = self.processes.received(path.read_bytes() if self.processes.is_main and path.exists() else None)
        found = None if content is None else read_checkpoint(content, self._fingerprint(), path)
        if found is not None:
            self._steps.restore(found)
        self.processes.check_agreement(self.parameters)
        updates = 0 if found is None else found.updates
        if self.processes.is_main:
            self._rewrite_metrics(updates)
        return updates

    def _save(self) -> None:
        self.processes.check_agreement([*self.parameters, *self._steps.average])
        if self.processes.is_main:
            state = self._steps.checkpoint(self.updates_done, self._fingerprint())
            save_checkpoint(state, self.folder / CHECKPOINT_FILE)

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
