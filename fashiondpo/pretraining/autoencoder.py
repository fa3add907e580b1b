"""Train the mini family's VAE: diffusers' AutoencoderKL from 32x32x3 pixels to 8x8x4 latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from fashiondpo.diffusion.pretrain import warm_up
from fashiondpo.outfits.fashion_mnist import Silhouettes
from fashiondpo.pretraining.garments import sample_garments
from fashiondpo.telemetry import Progress, no_progress

_FIRST_LOG_VARIANCE = -5.0  # at first the latents are hardly noisy, else colour is lost in the noise and never found


@dataclass(frozen=True)
class AutoencoderSettings:
    """Size and schedule; the defaults made the shipped model.

    Attributes:
        channels: of each level; each level after the first halves the side.
        norm_groups: few, because normalising small groups of channels within a picture wipes out its colour.
        kl_weight: pull of the latents towards a standard normal.
        coarse_weight, chroma_weight: weight of the absolute error of the picture, and of its colour alone, averaged over
            4x4 pixels. Without them the decoder stays grey for hundreds of steps, or red and green become one.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    norm_groups: int = 2
    latent_channels: int = 4
    steps: int = 1600
    batch_size: int = 32
    learning_rate: float = 2.5e-3
    kl_weight: float = 5e-4
    coarse_weight: float = 1.0
    chroma_weight: float = 3.0


def build_autoencoder(settings: AutoencoderSettings, *, image_size_px: int = 32) -> AutoencoderKL:
    """A fresh AutoencoderKL; each level after the first halves the side."""
    levels = len(settings.channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=settings.norm_groups,
        sample_size=image_size_px,
    )


def to_pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """(n, h, w, 3) of 0…255 to (n, 3, h, w) of -1…1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(
    silhouettes: Silhouettes,
    settings: AutoencoderSettings | None = None,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> AutoencoderKL:
    """Train on endlessly re-tinted silhouettes; sets `scaling_factor` so that latents have unit variance."""
    settings = settings or AutoencoderSettings()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = build_autoencoder(settings).to(memory_format=torch.channels_last)
    with torch.no_grad():
        vae.quant_conv.bias[settings.latent_channels :] = _FIRST_LOG_VARIANCE
    optimizer = torch.optim.AdamW(vae.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps, pct_start=warm_up(settings.steps)
    )
    for step in range(settings.steps):
        pixels = to_pixels(sample_garments(silhouettes, settings.batch_size, rng).images)
        posterior = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist
        painted = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction_loss(painted, pixels, settings) + settings.kl_weight * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, settings.steps, {"loss": loss.item()})
    vae.eval().to(memory_format=torch.contiguous_format).requires_grad_(False)
    with torch.no_grad():
        latents = vae.encode(to_pixels(sample_garments(silhouettes, 1024, rng).images)).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def reconstruction_loss(painted: Tensor, pixels: Tensor, settings: AutoencoderSettings) -> Tensor:
    """Squared plus half the absolute error, and the weighted errors of coarse picture and coarse colour; a scalar.

    Args:
        painted, pixels: (n, 3, h, w) in -1…1.
        settings: the weights.
    """
    error = painted - pixels
    coarse = F.avg_pool2d(error, 4)
    chroma = coarse - coarse.mean(1, keepdim=True)
    fine = error.pow(2).mean() + 0.5 * error.abs().mean()
    return fine + settings.coarse_weight * coarse.abs().mean() + settings.chroma_weight * chroma.abs().mean()


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: NDArray[np.uint8]) -> float:
    """Mean peak signal-to-noise ratio in dB of images passed through the VAE."""
    pixels = to_pixels(images)
    painted = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    squared = ((painted - pixels) / 2).pow(2).mean((1, 2, 3))
    return float((-10 * squared.log10()).mean())
