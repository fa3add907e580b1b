"""Preference objectives as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def win_shares(pairs: Sequence[tuple[int, int]], candidates: int) -> Tensor:
    """How the candidates of one outfit did in their comparisons: 1/2 + (won - lost) / (2 (K - 1)), shape (candidates,).

    1 has won against every other, 0 lost against every other, and one that was never compared has 1/2. Their mean is 1/2.

    Args:
        pairs: (chosen, rejected) positions.
        candidates: K, at least 2.

    Raises:
        ValueError: if there are fewer than two candidates.

    Source: Copeland's score, scaled to 0…1; in DiffusionNFT (arXiv:2509.16117) the place of the optimality probability r.
    """
    if candidates < 2:
        raise ValueError(f"comparisons need at least two candidates, got {candidates}")
    score = torch.zeros(candidates)
    for chosen, rejected in pairs:
        score[chosen] += 1
        score[rejected] -= 1
    return 0.5 + score / (2 * (candidates - 1))


def diffusion_nft_loss(
    prediction: Tensor, reference_prediction: Tensor, target: Tensor, win_share: Tensor, *, beta: float
) -> Tensor:
    """Loss of finished pictures at one noise level each: towards what won, away from what lost.

    r |p+ - y|^2 + (1 - r) |p- - y|^2, where p+ = q + beta (p - q) and p- = q - beta (p - q) are the policy's prediction p
    and its mirror image in the reference's prediction q. Both are anchored at the reference, so there is no ratio to clip.

    Args:
        prediction, reference_prediction: of the noised pictures, (n, c, h, w).
        target: what a perfect prediction would be, (n, c, h, w).
        win_share: r, in 0…1, shape (n,).
        beta: pull towards the reference; larger stays closer.

    Returns:
        Mean over elements, shape (n,).

    Raises:
        ValueError: if the shapes do not go together or beta is not positive.

    Source: the objective of DiffusionNFT (arXiv:2509.16117), with r from comparisons instead of a reward.
    """
    if not prediction.shape == reference_prediction.shape == target.shape or win_share.shape != target.shape[:1]:
        shapes = (prediction, reference_prediction, target, win_share)
        raise ValueError(
            f"predictions and win shares differ in shape: {', '.join(str(tuple(x.shape)) for x in shapes)}"
        )
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    moved = beta * (prediction - reference_prediction)
    towards = (reference_prediction + moved - target).pow(2).flatten(1).mean(1)
    away = (reference_prediction - moved - target).pow(2).flatten(1).mean(1)
    return win_share * towards + (1 - win_share) * away


def kl_estimate(log_ratio: Tensor) -> Tensor:
    """Estimate of KL(pi_ref || pi) from steps of the reference: r - 1 - log r, never negative. Same shape, nats."""
    return torch.expm1(log_ratio) - log_ratio
