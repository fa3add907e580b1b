"""Paint candidates, record how they came about, and replay the record under another policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from fashiondpo.contracts import AdapterRef, GuidanceScales, SamplerSettings
from fashiondpo.diffusion.conditions import (
    ConditionRows,
    Conditions,
    condition_rows,
    mixed_latents,
    reduced_latents,
)
from fashiondpo.diffusion.ddim import NoiseSchedule, ddim_transition, predicted_epsilon, transition_log_prob
from fashiondpo.diffusion.guidance import BRANCHES, branch_weights, guide
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.trajectory import Trajectory, stored_dtype
from fashiondpo.diffusion.unet import weights_dtype
from fashiondpo.errors import Cancelled, InvalidInput
from fashiondpo.telemetry import Progress, no_progress

ROWS_PER_FORWARD = 56
"""Rows denoised together unless told otherwise; each takes up to four branches through the UNet."""


@dataclass(frozen=True)
class SlotTask:
    """One slot to paint K times: its conditions and the seed of every candidate."""

    conditions: Conditions
    seeds: tuple[int, ...]


def guided_epsilon(
    unet: UNet2DConditionModel,
    schedule: NoiseSchedule,
    latents: Tensor,
    timesteps: Tensor,
    rows: ConditionRows,
    used: Sequence[int] = tuple(range(BRANCHES)),
) -> Tensor:
    """Predicted noise under guidance, for rows that may be at different timesteps.

    Args:
        unet: base model or policy.
        schedule: of the model.
        latents: (n, c, h, w).
        timesteps: (n,) int64.
        rows: conditions of the n rows.
        used: branches to compute; those left out must have no weight for any row. The last bits of a result depend on how
            many there are, so whoever batches rows of several requests keeps apart those that need others.

    Returns:
        (n, c, h, w), float32.
    """
    count = len(latents)
    without = mixed_latents(latents, rows.null_latents, rows.mutual_weight)
    with_mutual = mixed_latents(latents, rows.mutual_latents, rows.mutual_weight)
    null, history = rows.null_latents, rows.history_latents
    no_prompt, prompt = rows.prompt_embeds
    # the same four branches and the same order as in `guide`
    branches = (
        (without, null, no_prompt),
        (without, null, prompt),
        (with_mutual, null, prompt),
        (with_mutual, history, prompt),
    )
    mixed, beside, prompts = (torch.cat([branches[branch][part] for branch in used]) for part in range(3))
    dtype = weights_dtype(unet)
    inputs = torch.cat([mixed, beside], dim=1).to(dtype)
    output: Tensor = unet(inputs, timesteps.repeat(len(used)), prompts.to(dtype)).sample
    guided = guide(output.float().view(len(used), count, *latents.shape[1:]), rows.scales, used)
    alpha = schedule.alphas[timesteps.cpu()].to(latents.device, torch.float32)
    return predicted_epsilon(guided, latents, alpha, schedule.prediction_type)


def needed_branches(guidance: GuidanceScales) -> tuple[int, ...]:
    """The branches that have a weight under these scales; where two scales agree, one has none."""
    weights = branch_weights(torch.tensor([[guidance.category, guidance.mutual, guidance.history]]))
    return tuple(branch for branch, weight in enumerate(weights.flatten().tolist()) if weight != 0)


def denoising_transition(
    unet: UNet2DConditionModel,
    schedule: NoiseSchedule,
    latents: Tensor,
    timesteps: Tensor,
    rows: ConditionRows,
    settings: SamplerSettings,
) -> tuple[Tensor, Tensor]:
    """Mean (n, c, h, w) and standard deviation (n,) of each row's next latents under this UNet."""
    epsilon = guided_epsilon(unet, schedule, latents, timesteps, rows, needed_branches(settings.guidance))
    alpha, alpha_next = schedule.step_alphas(timesteps.cpu(), settings.num_inference_steps)
    return ddim_transition(latents, epsilon, alpha.to(latents.device), alpha_next.to(latents.device), settings.ddim_eta)


def sample_trajectories(
    bundle: DiFashion,
    tasks: Sequence[SlotTask],
    settings: SamplerSettings,
    *,
    adapter: AdapterRef | None = None,
    rows_per_forward: int = ROWS_PER_FORWARD,
    progress: Progress = no_progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Trajectory]:
    """Paint every candidate of every task and record each step.

    A candidate has a generator of its own, so what it becomes does not depend on its batch. The sampler continues from
    the value it stores, so a replay meets the very states that were visited.

    Args:
        bundle: the generator; its active adapter, if any, is used.
        tasks: slots that are painted independently of each other; all with the same number of seeds.
        settings: ddim_eta must be positive.
        adapter: the version that is active, for the record.
        rows_per_forward: memory against speed; candidates of one task may be split over forwards.
        progress: told about denoised steps, over all batches.
        should_stop: asked before every step.

    Returns:
        One trajectory per task.

    Raises:
        InvalidInput: if ddim_eta is 0 (a deterministic step has no density), there is no candidate to paint, or the
            tasks differ in number of seeds.
        Cancelled: as soon as should_stop says so.
    """
    if settings.ddim_eta == 0:
        raise InvalidInput("recording needs ddim_eta > 0: a deterministic step has no density")
    _check_seeds([task.seeds for task in tasks])
    # as they will be stored, so that a replay is conditioned on the same values
    tasks = [replace(task, conditions=task.conditions.rounded(stored_dtype(settings))) for task in tasks]
    rows = [(task, seed) for task in tasks for seed in task.seeds]
    batches = [rows[start : start + rows_per_forward] for start in range(0, len(rows), rows_per_forward)]
    total = len(batches) * settings.num_inference_steps
    states: list[Tensor] = []
    log_probs: list[Tensor] = []
    for index, batch in enumerate(batches):
        conditions = condition_rows([task.conditions for task, _ in batch], settings, bundle.device)
        done = index * settings.num_inference_steps
        run = _Run(bundle, settings, [seed for _, seed in batch])
        for step, timestep in enumerate(run.timesteps):
            if should_stop():
                raise Cancelled(f"sampling was stopped after {done + step} of {total} steps")
            run.advance(timestep, conditions)
            progress(done + step + 1, total, {})
        states.append(torch.stack(run.states, dim=1))
        log_probs.append(torch.stack(run.log_probs, dim=1))
    timesteps = bundle.schedule.timesteps(settings.num_inference_steps)
    per_task = [
        (latents.clone(), densities.clone())
        for latents, densities in zip(
            torch.split(torch.cat(states), [len(t.seeds) for t in tasks]),
            torch.split(torch.cat(log_probs), [len(t.seeds) for t in tasks]),
            strict=True,
        )
    ]
    return [
        Trajectory(
            latents, timesteps, densities, task.conditions, task.seeds, settings, bundle.digest, adapter or AdapterRef()
        )
        for task, (latents, densities) in zip(tasks, per_task, strict=True)
    ]


def _check_seeds(seeds: Sequence[Sequence[int]]) -> None:
    counts = {len(of_slot) for of_slot in seeds}
    if len(counts) != 1 or 0 in counts:
        raise InvalidInput(f"every slot needs the same number of candidates, at least one; got {sorted(counts)}")


class _Run:
    """Rows that are denoised together from the first step to the last."""

    def __init__(self, bundle: DiFashion, settings: SamplerSettings, seeds: Sequence[int]) -> None:
        self.bundle, self.settings = bundle, settings
        self.dtype = stored_dtype(settings)
        # on the CPU, so that a seed means the same picture on every device
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.timesteps = bundle.schedule.timesteps(settings.num_inference_steps)
        self.states: list[Tensor] = []
        self.log_probs: list[Tensor] = []
        self.latents = self._visit(self._noise())

    def _noise(self) -> Tensor:
        shape = self.bundle.latent_shape
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.bundle.device)

    def _visit(self, latents: Tensor) -> Tensor:
        stored = latents.to(self.dtype)
        self.states.append(stored.cpu())
        return stored.float()

    @torch.no_grad()
    def advance(self, timestep: Tensor, conditions: ConditionRows) -> None:
        timesteps = timestep.to(self.bundle.device).expand(len(self.latents))
        mean, std = denoising_transition(
            self.bundle.unet, self.bundle.schedule, self.latents, timesteps, conditions, self.settings
        )
        spread = std.view(-1, 1, 1, 1)
        self.latents = self._visit(mean + spread * self._noise())
        is_random = bool((std > 0).all())
        density = transition_log_prob(self.latents, mean, std) if is_random else torch.zeros_like(std)
        self.log_probs.append(density.float().cpu())


@dataclass(frozen=True)
class Visit:
    """One recorded step of all candidates of a trajectory."""

    trajectory: Trajectory
    step: int


def replay_log_probs(
    unet: UNet2DConditionModel, schedule: NoiseSchedule, visits: Sequence[Visit]
) -> tuple[Tensor, ...]:
    """Log-densities of recorded steps under this UNet, (k,) per visit; differentiable, in one forward.

    With the policy that sampled them, these are the densities that the trajectories recorded.

    Raises:
        ValueError: if the trajectories were not made with the same settings.
    """
    settings = visits[0].trajectory.settings
    if any(visit.trajectory.settings != settings for visit in visits):
        raise ValueError("trajectories replayed together must have been made with the same settings")
    device = next(unet.parameters()).device
    candidates = [visit.trajectory.num_candidates for visit in visits]
    before = torch.cat([v.trajectory.latents[:, v.step] for v in visits]).to(device).float()
    after = torch.cat([v.trajectory.latents[:, v.step + 1] for v in visits]).to(device).float()
    timesteps = torch.cat(
        [v.trajectory.timesteps[v.step].expand(k) for v, k in zip(visits, candidates, strict=True)]
    ).to(device)
    rows = condition_rows([condition for visit in visits for condition in visit_conditions(visit)], settings, device)
    mean, std = denoising_transition(unet, schedule, before, timesteps, rows, settings)
    return torch.split(transition_log_prob(after, mean, std), candidates)


def visit_conditions(visit: Visit) -> list[Conditions]:
    """Conditions of every candidate at one step."""
    conditions, candidates = visit.trajectory.conditions, visit.trajectory.num_candidates
    mutual = conditions.mutual_latents
    if mutual.ndim == 3:
        return [conditions] * candidates
    return [replace(conditions, mutual_latents=mutual[k, visit.step]) for k in range(candidates)]


def sample_outfit(
    bundle: DiFashion,
    conditions: Sequence[Conditions],
    given_latents: Tensor,
    seeds: Sequence[Sequence[int]],
    settings: SamplerSettings,
    *,
    adapter: AdapterRef | None = None,
    progress: Progress = no_progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Trajectory]:
    """Paint several empty slots of one outfit together (GOR): each is conditioned on the others in progress.

    Candidate k of one slot belongs to candidate k of every other slot: together they are one outfit.

    Args:
        bundle: the generator.
        conditions: one per empty slot; their mutual latents are replaced at every step.
        given_latents: latents of the items that are there, (g, c, h, w); g may be 0.
        seeds: per empty slot, one per candidate.
        settings: ddim_eta must be positive.
        adapter, progress, should_stop: as in `sample_trajectories`.

    Returns:
        One trajectory per empty slot, with the mutual latents of every candidate and step.

    Raises:
        InvalidInput: if ddim_eta is 0, there are fewer than two empty slots, or not as many seeds for each.
        Cancelled: as soon as should_stop says so.
    """
    if settings.ddim_eta == 0:
        raise InvalidInput("recording needs ddim_eta > 0: a deterministic step has no density")
    if len(conditions) < 2:
        raise InvalidInput("painting slots together needs at least two empty slots")
    if len(seeds) != len(conditions):
        raise InvalidInput(f"{len(conditions)} empty slots need as many rows of seeds, got {len(seeds)}")
    _check_seeds(seeds)
    conditions = [condition.rounded(stored_dtype(settings)) for condition in conditions]
    slots, candidates = len(conditions), len(seeds[0])
    run = _Run(bundle, settings, [seed for of_slot in seeds for seed in of_slot])
    rows = condition_rows([c for c in conditions for _ in range(candidates)], settings, bundle.device)
    mutual_steps: list[Tensor] = []
    for step, timestep in enumerate(run.timesteps):
        if should_stop():
            raise Cancelled(f"sampling was stopped after {step} of {len(run.timesteps)} steps")
        latents = run.latents.view(slots, candidates, *bundle.latent_shape)
        mutual = mutual_of_others(bundle, latents, given_latents.to(bundle.device), settings)
        mutual_steps.append(mutual.cpu())
        run.advance(timestep, rows.with_mutual(mutual.flatten(0, 1)))
        progress(step + 1, len(run.timesteps), {})
    states = torch.stack(run.states, dim=1).view(slots, candidates, -1, *bundle.latent_shape)
    log_probs = torch.stack(run.log_probs, dim=1).view(slots, candidates, -1)
    mutual_latents = torch.stack(mutual_steps, dim=2)  # slots, candidates, steps, c, h, w
    return [
        Trajectory(
            states[slot].clone(),
            run.timesteps,
            log_probs[slot].clone(),
            replace(conditions[slot], mutual_latents=mutual_latents[slot].clone()),
            tuple(seeds[slot]),
            settings,
            bundle.digest,
            adapter or AdapterRef(),
        )
        for slot in range(slots)
    ]


@torch.no_grad()
def mutual_of_others(bundle: DiFashion, latents: Tensor, given: Tensor, settings: SamplerSettings) -> Tensor:
    """Mutual latents (s, k, c, h, w) of every slot from the other slots' states (s, k, c, h, w) and the given items."""
    slots, candidates = latents.shape[:2]
    encoded = []
    for slot in range(slots):
        others = torch.cat([latents[:slot], latents[slot + 1 :]])
        fixed = given[:, None].expand(-1, candidates, -1, -1, -1)
        encoded.append(bundle.mutual_encoder(reduced_latents(torch.cat([others, fixed]), settings.mutual_reduction)))
    dtype = stored_dtype(settings)
    return torch.stack(encoded).to(dtype).float()
