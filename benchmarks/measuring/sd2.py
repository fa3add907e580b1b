"""Floating-point operations of a training step at Stable Diffusion 2's size, counted without the memory it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fashiondpo.diffusion.guidance import BRANCHES
from fashiondpo.diffusion.lora import add_adapter
from fashiondpo.pretraining.bundle import sd2_unet_without_weights
from fashiondpo.training.config import paper_settings


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one outfit-step at Stable Diffusion 2's size, 512 px."""

    ours: int
    published: int
    published_forwards: int
    """The published scheme's forwards alone, as if its backwards cost nothing."""


def count_sd2_flops(*, candidates: int, pairs: int) -> StepFlops:
    """Count matrix products, convolutions and attention of both schemes on torch's meta device, backward included."""
    unet = sd2_unet_without_weights()
    unet.requires_grad_(False)
    reference = _forward_flops(unet, BRANCHES)
    add_adapter(unet, rank=paper_settings().rank)
    policy_forward, policy = _forward_flops(unet, BRANCHES), _training_flops(unet, BRANCHES)
    # every pair has the same shapes, so one stands for all
    return StepFlops(
        ours=_training_flops(unet, BRANCHES * candidates),
        published=pairs * 2 * (policy + reference),
        published_forwards=pairs * 2 * (policy_forward + reference),
    )


def _sd2_inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents with history, timesteps and prompts of a batch at 512 px, as shapes alone."""
    return (
        torch.empty(rows, 8, 64, 64, device="meta"),
        torch.zeros(rows, dtype=torch.long, device="meta"),
        torch.empty(rows, 77, 1024, device="meta"),
    )


def _forward_flops(unet: UNet2DConditionModel, rows: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(*_sd2_inputs(rows))
    return int(counter.get_total_flops())


def _training_flops(unet: UNet2DConditionModel, rows: int) -> int:
    """Forward and backward; what the frozen base weights save shows, since the counter sees the operations that run."""
    with FlopCounterMode(display=False) as counter:
        unet(*_sd2_inputs(rows)).sample.sum().backward()
    return int(counter.get_total_flops())
