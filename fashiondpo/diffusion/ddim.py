"""The DDIM step as pure functions: transition, density, and what a network's output means.

Alphas are cumulative products, written with a bar in the papers: the share of the signal's variance that is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from fashiondpo.errors import InvalidInput

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of a model, taken from its diffusers scheduler."""

    scheduler: DDIMScheduler

    @property
    def prediction_type(self) -> PredictionType:
        """What the network was trained to predict."""
        name: PredictionType = self.scheduler.config.prediction_type
        return name

    @property
    def num_train_timesteps(self) -> int:
        """How many noise levels there are."""
        return int(self.scheduler.config.num_train_timesteps)

    @cached_property
    def alphas(self) -> Tensor:
        """Signal share at each timestep, shape (num_train_timesteps,), float64."""
        alphas: Tensor = self.scheduler.alphas_cumprod.double()
        return alphas

    def timesteps(self, num_inference_steps: int) -> Tensor:
        """Timesteps of a run, noisiest first. Shape (num_inference_steps,), int64.

        Raises:
            InvalidInput: if the model does not have that many noise levels.
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        try:
            scheduler.set_timesteps(num_inference_steps)
        except ValueError as error:
            raise InvalidInput(f"{num_inference_steps} steps are not possible: {error}") from error
        timesteps: Tensor = scheduler.timesteps.long()
        if int(timesteps.max()) >= self.num_train_timesteps:  # an offset pushes a run over all levels past the last one
            raise InvalidInput(
                f"{num_inference_steps} steps do not fit {self.num_train_timesteps} noise levels: take fewer"
            )
        return timesteps

    def step_alphas(self, timesteps: Tensor, num_inference_steps: Tensor | int) -> tuple[Tensor, Tensor]:
        """Signal share before and after the step that begins at each timestep. Two tensors of shape (n,), float64."""
        following = timesteps - self.num_train_timesteps // num_inference_steps
        final = self.scheduler.final_alpha_cumprod.double()
        return self.alphas[timesteps], torch.where(following >= 0, self.alphas[following.clamp(min=0)], final)


def predicted_epsilon(output: Tensor, latents: Tensor, alpha: Tensor, prediction_type: PredictionType) -> Tensor:
    """The noise that a network's output claims is in the latents.

    Args:
        output, latents: (n, c, h, w).
        alpha: (n,).
        prediction_type: "epsilon" returns the output; "v_prediction" solves v = sqrt(a) eps - sqrt(1-a) x0.
    """
    if prediction_type == "epsilon":
        return output
    alpha = _per_row(alpha, latents)
    return alpha.sqrt() * output + (1 - alpha).sqrt() * latents


def ddim_std(alpha: Tensor, alpha_next: Tensor, ddim_eta: Tensor | float) -> Tensor:
    """Standard deviation of the step: eta * sqrt((1-a')/(1-a) * (1 - a/a')). Shape (n,).

    Source: DDIM (arXiv:2010.02502), equation 16.
    """
    return ddim_eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)).sqrt()


def ddim_transition(
    latents: Tensor, epsilon: Tensor, alpha: Tensor, alpha_next: Tensor, ddim_eta: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the next latents.

    mean = sqrt(a') x0 + sqrt(1 - a' - std^2) eps with x0 = (x - sqrt(1-a) eps) / sqrt(a).

    Args:
        latents, epsilon: (n, c, h, w).
        alpha, alpha_next: signal share before and after, (n,).
        ddim_eta: 0 is deterministic, 1 has the noise of DDPM; a number or shape (n,).

    Returns:
        Mean (n, c, h, w) and standard deviation (n,).

    Source: DDIM (arXiv:2010.02502), equation 12.
    """
    std = ddim_std(alpha, alpha_next, ddim_eta)
    a, a_next, spread = (_per_row(x, latents) for x in (alpha, alpha_next, std))
    denoised = (latents - (1 - a).sqrt() * epsilon) / a.sqrt()
    mean = a_next.sqrt() * denoised + (1 - a_next - spread**2).clamp(min=0).sqrt() * epsilon
    return mean, std.to(latents.dtype)


def transition_log_prob(visited: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Gaussian log-density of the visited latents in nats, averaged over latent elements.

    The mean, not the sum: a sum over thousands of elements makes ratios overflow.

    Args:
        visited, mean: (n, c, h, w).
        std: (n,), positive.

    Returns:
        Shape (n,).

    Raises:
        ValueError: if a standard deviation is not positive; a deterministic step has no density.
    """
    if not bool((std > 0).all()):
        raise ValueError("a step without noise has no density; use ddim_eta > 0")
    distance = ((visited - mean) ** 2).flatten(1).mean(1)
    return -distance / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.to(device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 1))
