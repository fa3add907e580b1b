"""One training step of D3PO: all candidates at once, against the published scheme pair by pair.

Published, for every pair and step: two forwards of the policy, two of a deep-copied reference UNet, each with the four
guidance branches of one candidate; one backward; one optimiser step. Here: one forward and one backward of the K
candidates for all their pairs, reference densities from the record, one optimiser step.

The published scheme is given every benefit: its reference runs without gradients and without an adapter, its inputs are
prepared beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from measuring.mini import open_mini, shared_options, some_conditions
from measuring.sd2 import count_sd2_flops
from measuring.timing import alternate, print_figures
from torch import Tensor, nn

from fashiondpo.contracts import NUM_CANDIDATES
from fashiondpo.diffusion.conditions import ConditionRows, condition_rows
from fashiondpo.diffusion.ddim import transition_log_prob
from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.diffusion.model import DiFashion
from fashiondpo.diffusion.sampling import SlotTask, Visit, denoising_transition, sample_trajectories
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.training.config import TrainSettings, paper_settings
from fashiondpo.training.objectives import visit_losses

SCORES = (0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.6)
"""Of the candidates, all different, so that every two of them make a pair."""

LARGEST_DIFFERENCE = 1e-3
"""Of the two schemes' gradients, relative; what float32 leaves between batches of 4 and of 28 rows is far below."""


def all_pairs(candidates: int) -> tuple[tuple[int, int], ...]:
    """Every pair of the first candidates, (chosen, rejected): 21 of 7."""
    return tuple((a, b) if SCORES[a] > SCORES[b] else (b, a) for a, b in combinations(range(candidates), 2))


@dataclass(frozen=True)
class Subject:
    """What both schemes train on.

    Attributes:
        bundle: its UNet carries the policy's adapter.
        reference: a deep copy of the UNet as it sampled.
        parameters: of the adapter.
        trajectory: the recorded candidates of one outfit.
        pairs: (chosen, rejected) candidates.
        settings: beta and clip.
    """

    bundle: DiFashion
    reference: UNet2DConditionModel
    parameters: list[nn.Parameter]
    trajectory: Trajectory
    pairs: tuple[tuple[int, int], ...]
    settings: TrainSettings

    def optimizer(self) -> torch.optim.AdamW:
        """A fresh one, as published."""
        settings = self.settings
        return torch.optim.AdamW(
            self.parameters, settings.learning_rate, betas=settings.adam_betas, weight_decay=settings.weight_decay
        )

    def update(self, optimizer: torch.optim.AdamW) -> None:
        """One optimiser step with the gradient that has been added up."""
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def prepare(bundle: DiFashion, *, candidates: int, steps: int) -> Subject:
    """Sample the candidates of one outfit, keep a copy of the UNet, and move the policy a little away from it."""
    task = SlotTask(some_conditions(bundle, seed=0), tuple(range(candidates)))
    sampler = bundle.sampler.model_copy(update={"num_inference_steps": steps})
    trajectory = sample_trajectories(bundle, [task], sampler)[0]
    reference = copy.deepcopy(bundle.unet)
    settings = paper_settings()
    parameters = add_adapter(bundle.unet, rank=settings.rank)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return Subject(bundle, reference, parameters, trajectory, all_pairs(candidates), settings)


class Ours:
    """All candidates in one forward; the reference's densities were recorded while sampling."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.optimizer = subject, subject.optimizer()

    def gradient(self, step: int) -> float:
        """Add the gradient of one outfit-step; returns the summed loss."""
        subject = self.subject
        losses = visit_losses(
            subject.bundle, [Visit(subject.trajectory, step)], [subject.pairs], subject.settings, [(0, 0, step)]
        )
        loss = losses.loss.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def train(self, step: int) -> None:
        """One outfit-step with its optimiser step."""
        self.gradient(step)
        self.subject.update(self.optimizer)


class Published:
    """Pair by pair, each candidate on its own, the reference computed again every time."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.optimizer = subject, subject.optimizer()
        bundle, trajectory = subject.bundle, subject.trajectory
        self.rows: ConditionRows = condition_rows([trajectory.conditions], trajectory.settings, bundle.device)
        self.latents = trajectory.latents.to(bundle.device).float()

    def log_prob(self, unet: UNet2DConditionModel, candidate: int, step: int) -> Tensor:
        """Density of one candidate's step, shape (1,)."""
        trajectory = self.subject.trajectory
        states = self.latents[candidate]
        mean, std = denoising_transition(
            unet,
            self.subject.bundle.schedule,
            states[step, None],
            trajectory.timesteps[step, None],
            self.rows,
            trajectory.settings,
        )
        return transition_log_prob(states[step + 1, None], mean, std)

    def clipped_log_ratio(self, candidate: int, step: int) -> Tensor:
        """Of one candidate's step, shape (1,)."""
        policy = self.log_prob(self.subject.bundle.unet, candidate, step)
        with torch.no_grad():
            reference = self.log_prob(self.subject.reference, candidate, step)
        clip_range = self.subject.settings.clip_range
        return (policy - reference).exp().clamp(1 - clip_range, 1 + clip_range).log()

    def pair_gradient(self, pair: tuple[int, int], step: int) -> float:
        """Add the gradient of one pair; returns its loss."""
        chosen, rejected = (self.clipped_log_ratio(candidate, step) for candidate in pair)
        loss = -F.logsigmoid(self.subject.settings.beta * (chosen - rejected)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def gradient(self, step: int) -> float:
        """Add the gradient of one outfit-step; returns the summed loss."""
        return sum(self.pair_gradient(pair, step) for pair in self.subject.pairs)

    def train(self, step: int) -> None:
        """One outfit-step with an optimiser step per pair."""
        for pair in self.subject.pairs:
            self.pair_gradient(pair, step)
            self.subject.update(self.optimizer)


def disagreement(subject: Subject, schemes: Sequence[Ours | Published], step: int) -> tuple[float, float]:
    """Relative difference of the two schemes' losses and gradients while no optimiser steps in between."""
    losses, gradients = [], []
    for scheme in schemes:
        losses.append(scheme.gradient(step))
        gradients.append(torch.cat([p.grad.flatten() for p in subject.parameters if p.grad is not None]).clone())
        for parameter in subject.parameters:
            parameter.grad = None
    loss = abs(losses[0] - losses[1]) / abs(losses[1])
    return loss, float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


def compare_times(subject: Subject, rounds: int, *, warm_up: bool) -> dict[str, float]:
    """Check that both schemes do the same, time them, say what came out.

    Raises:
        SystemExit: if their gradients differ.
    """
    ours, published = Ours(subject), Published(subject)
    loss, gradient = disagreement(subject, [ours, published], step=0)
    print(f"Without optimiser steps both agree: losses within {loss:.1e}, gradients within {gradient:.1e}, relative.")
    if not gradient <= LARGEST_DIFFERENCE:  # nan too
        raise SystemExit(f"the gradients differ by {gradient:.1e}, more than {LARGEST_DIFFERENCE}: nothing to compare")
    timings = alternate({"ours": ours.train, "published": published.train}, rounds=rounds, warm_up=warm_up)
    ratio = timings["published"].median_s / timings["ours"].median_s
    print(f"All candidates at once: {timings['ours']}.")
    print(f"Pair by pair:           {timings['published']}.")
    print(f"The published scheme takes {ratio:.1f} times as long.")
    return {
        "ratio": ratio,
        "ours_s": timings["ours"].median_s,
        "ours_spread": timings["ours"].spread,
        "published_s": timings["published"].median_s,
        "published_spread": timings["published"].spread,
        "loss_difference": loss,
        "gradient_difference": gradient,
    }


def compare_flops() -> dict[str, float]:
    """Count both schemes at Stable Diffusion 2's size and say what came out."""
    flops = count_sd2_flops(candidates=NUM_CANDIDATES, pairs=len(all_pairs(NUM_CANDIDATES)))
    ratio, forwards_ratio = flops.published / flops.ours, flops.published_forwards / flops.ours
    print(
        f"At Stable Diffusion 2's size, 512 px: {flops.ours / 1e12:.1f} against {flops.published / 1e12:.1f} TFLOP, "
        f"{ratio:.1f} times as many; {forwards_ratio:.1f} times if the published backwards cost nothing."
    )
    return {
        "flop_ratio_sd2": ratio,
        "flop_ratio_sd2_forwards_only": forwards_ratio,
        "tflop_sd2": flops.ours / 1e12,
        "published_tflop_sd2": flops.published / 1e12,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print, end with one line of JSON."""
    parser = shared_options(
        "One D3PO training step: all candidates at once, against the published scheme pair by pair."
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed outfit-steps of each scheme (default: 7)")
    options = parser.parse_args(arguments)
    rounds, candidates = (1, 3) if options.quick else (options.rounds, NUM_CANDIDATES)
    torch.set_num_threads(options.threads)
    print(f"Time of one training step over {candidates} candidates and all their pairs, from forward to optimiser.")
    subject = prepare(open_mini(options.bundle), candidates=candidates, steps=max(rounds, 10))
    figures = compare_times(subject, rounds, warm_up=not options.quick) | compare_flops()
    print_figures(figures | {"candidates": candidates, "rounds": rounds, "threads": options.threads})


if __name__ == "__main__":
    main()
