"""Preference objectives as pure functions."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ClipSides = Literal["both", "one"]


def clipped_log_ratios(
    chosen: Tensor, rejected: Tensor, *, clip_range: float, sides: ClipSides
) -> tuple[Tensor, Tensor]:
    """Log-ratios with pi / pi_ref held within [1 - clip_range, 1 + clip_range]; outside the gradient is zero.

    With `sides="one"` the chosen ratio is only held down and the rejected one only held up: what has gone too far the
    wanted way stops, what has gone the wrong way still gets a gradient back.

    Args:
        chosen, rejected: log pi - log pi_ref in nats, any shape.
        clip_range: in 0…1.
        sides: "both" as published, or "one".

    Raises:
        ValueError: if clip_range is not between 0 and 1.
    """
    if not 0 < clip_range < 1:
        raise ValueError(f"clip_range must lie between 0 and 1, got {clip_range}")
    low, high = math.log1p(-clip_range), math.log1p(clip_range)
    if sides == "both":
        return chosen.clamp(low, high), rejected.clamp(low, high)
    return chosen.clamp(max=high), rejected.clamp(min=low)


def d3po_loss(
    chosen_log_ratio: Tensor,
    rejected_log_ratio: Tensor,
    *,
    beta: float,
    clip_range: float,
    sides: ClipSides = "both",
) -> Tensor:
    """Preference loss of one denoising step.

    How much more than the reference does the policy favour the chosen step over the rejected one?

    Args:
        chosen_log_ratio: log pi(x_{t-1}|x_t) - log pi_ref(x_{t-1}|x_t) on the chosen trajectory, in nats. Shape (pairs,).
        rejected_log_ratio: the same on the rejected trajectory. Shape (pairs,).
        beta: pull towards the reference; larger stays closer.
        clip_range: see `clipped_log_ratios`.
        sides: see `clipped_log_ratios`.

    Returns:
        Loss per pair, shape (pairs,); log 2 while policy and reference agree.

    Raises:
        ValueError: if the shapes differ, or beta or clip_range is out of range.

    Source: D3PO (arXiv:2311.13231), per-step objective; used by FashionDPO (arXiv:2504.12900).
    """
    if chosen_log_ratio.shape != rejected_log_ratio.shape:
        raise ValueError(
            f"log ratios differ in shape: {tuple(chosen_log_ratio.shape)} and {tuple(rejected_log_ratio.shape)}"
        )
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    chosen, rejected = clipped_log_ratios(chosen_log_ratio, rejected_log_ratio, clip_range=clip_range, sides=sides)
    return -F.logsigmoid(beta * (chosen - rejected))


def diffusion_dpo_loss(
    chosen_error: Tensor,
    chosen_reference_error: Tensor,
    rejected_error: Tensor,
    rejected_reference_error: Tensor,
    *,
    beta: float,
) -> Tensor:
    """Preference loss from denoising errors of finished pictures, at one random noise level.

    Args:
        chosen_error, rejected_error: mean squared error of the policy's prediction. Shape (pairs,).
        chosen_reference_error, rejected_reference_error: the same for the reference policy.
        beta: in the hundreds to thousands; it holds the number of timesteps.

    Returns:
        Loss per pair, shape (pairs,); log 2 while policy and reference agree.

    Raises:
        ValueError: if the shapes differ or beta is not positive.

    Source: Diffusion-DPO (arXiv:2311.12908), equation 14 with constant weighting.
    """
    errors = chosen_error, chosen_reference_error, rejected_error, rejected_reference_error
    if len({error.shape for error in errors}) > 1:
        raise ValueError(f"errors differ in shape: {', '.join(str(tuple(error.shape)) for error in errors)}")
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    chosen, rejected = chosen_error - chosen_reference_error, rejected_error - rejected_reference_error
    return -F.logsigmoid(-beta * (chosen - rejected))


def kl_estimate(log_ratio: Tensor) -> Tensor:
    """Estimate of KL(pi_ref || pi) from steps of the reference: r - 1 - log r, never negative. Same shape, nats."""
    return torch.expm1(log_ratio) - log_ratio
