"""Train the networks of the held-out judge: the one that names categories, and the critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from fashiondpo.judges.held_out import CRITIC_CLASSES, HeldOutConfig, HeldOutJudge, HeldOutNet
from fashiondpo.judges.pixels import square_batch
from fashiondpo.judges.weights import round_to_half
from fashiondpo.outfits.fashion_mnist import Silhouettes
from fashiondpo.outfits.mini import CATEGORIES, IMAGE_SIZE_PX
from fashiondpo.pretraining.batches import drawn, mirrored
from fashiondpo.pretraining.corruptions import add_noise, blur
from fashiondpo.pretraining.garments import Garments, sample_garments
from fashiondpo.telemetry import Progress, no_progress

_STRONGEST_BLUR = 0.35  # a standard deviation of 0.9 pixels, softer than what the VAE paints
_STRONGEST_NOISE = 0.2
_CRITIC_GRAIN = 0.03  # so that it does not learn the last bits of a VAE


@dataclass(frozen=True)
class HeldOutSettings:
    """Size and schedule; the defaults made the shipped model."""

    width: int = 32
    steps: int = 600
    batch_size: int = 128
    learning_rate: float = 2e-3
    device: str = "cpu"


def train_held_out(
    silhouettes: Silhouettes,
    settings: HeldOutSettings | None = None,
    *,
    seed: int = 1000,
    progress: Progress = no_progress,
) -> HeldOutNet:
    """Train on endlessly re-tinted silhouettes; returns the network for `HeldOutJudge`, in eval mode.

    Its seed must be another than that of the judges which label, so that they share no accident of training.
    """
    settings = settings or HeldOutSettings()
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), Generator().manual_seed(seed)
    network = HeldOutNet(HeldOutConfig(settings.width, len(CATEGORIES), IMAGE_SIZE_PX)).to(settings.device)

    def batch() -> tuple[Tensor, Tensor]:
        garments = sample_garments(silhouettes, settings.batch_size, rng)
        return _softened(garments, generator), torch.from_numpy(garments.categories)

    return _fitted(network, settings, batch, weight_decay=1e-2, progress=progress)


def _softened(garments: Garments, generator: Generator) -> Tensor:
    pixels = square_batch(list(garments.images), IMAGE_SIZE_PX) * 2 - 1
    softness, loudness = torch.rand(2, len(pixels), generator=generator)
    pixels = blur(pixels, softness * _STRONGEST_BLUR, generator)
    return add_noise(pixels, loudness * _STRONGEST_NOISE, generator)


def held_out_accuracy(judge: HeldOutJudge, garments: Garments) -> float:
    """Share of unseen garments whose category it names."""
    return float((np.array(judge.categories(list(garments.images))) == garments.categories).mean())


@dataclass(frozen=True)
class CriticSettings:
    """Size and schedule; the defaults made the shipped model."""

    width: int = 32
    steps: int = 500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    weight_decay: float = 5e-2
    device: str = "cpu"


def train_critic(
    garments: NDArray[np.uint8],
    painted: NDArray[np.uint8],
    settings: CriticSettings | None = None,
    *,
    seed: int = 2000,
    progress: Progress = no_progress,
) -> HeldOutNet:
    """Train a network to tell garments (class 1) from what a generator painted (class 0); returned in eval mode.

    Its pictures and its seed must be others than those of the quality judge, so that what the two agree on is in the
    pictures.

    Args:
        garments: real ones that went through the generator's VAE, (n, side, side, 3).
        painted: of the generator, (m, side, side, 3).
        settings: size and schedule.
        seed: of weights and batches.
        progress: told about steps.

    Raises:
        ValueError: if one of the two is missing.
    """
    settings = settings or CriticSettings()
    if not (len(garments) and len(painted)):
        raise ValueError("a critic needs both garments and painted pictures")
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    network = HeldOutNet(HeldOutConfig(settings.width, CRITIC_CLASSES, garments.shape[1])).to(settings.device)
    half = settings.batch_size // 2
    classes = torch.cat([torch.zeros(half), torch.ones(half)]).long()

    def batch() -> tuple[Tensor, Tensor]:
        pixels = torch.cat([drawn(kind, half, generator)[0] for kind in (painted, garments)])
        pixels = mirrored(pixels, generator)
        return pixels + _CRITIC_GRAIN * torch.randn(pixels.shape, generator=generator), classes

    return _fitted(network, settings, batch, weight_decay=settings.weight_decay, progress=progress)


def _fitted(
    network: HeldOutNet,
    settings: HeldOutSettings | CriticSettings,
    batch: Callable[[], tuple[Tensor, Tensor]],
    *,
    weight_decay: float,
    progress: Progress,
) -> HeldOutNet:
    """The network once it names classes, of pixels (n, 3, side, side) and classes (n,) that `batch` gives step by step."""
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    for step in range(settings.steps):
        pixels, classes = (tensor.to(settings.device) for tensor in batch())
        loss = F.cross_entropy(network(pixels), classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress(step + 1, settings.steps, {"loss": loss.item()})
    round_to_half(network)
    return network.eval().requires_grad_(False)
