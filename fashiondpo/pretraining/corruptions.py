"""Ways in which pictures of garments go wrong, each with a strength from 0 (untouched) to 1 (ruined).

Pure functions of a batch: images (n, 3, h, w) in -1…1, one strength per image (n,), a generator for what is random.
They teach the quality judge how much damage looks how bad, and CLIP the words for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Corruption = Callable[[Tensor, Tensor, Generator], Tensor]

WIDEST_BLUR_PX = 2.5
SMALLEST_SIDE_PX = 4
LOUDEST_NOISE = 0.65
LOUDEST_LOW_NOISE = 1.3
LARGEST_MIX = 0.5


def blur(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur; its standard deviation grows to WIDEST_BLUR_PX."""
    del generator
    count, channels, height, width = images.shape
    offsets = torch.arange(-7, 8, dtype=images.dtype)
    sigma = (strength * WIDEST_BLUR_PX).clamp_min(1e-3)[:, None]
    kernel = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=1).repeat_interleave(channels, 0)
    rows = F.pad(images, (7, 7, 7, 7), mode="replicate").reshape(1, count * channels, height + 14, width + 14)
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=count * channels)
    return F.conv2d(rows, kernel[:, None, :, None], groups=count * channels).reshape(images.shape)


def lower_resolution(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Fewer pixels, down to SMALLEST_SIDE_PX along a side, enlarged again without smoothing."""
    del generator
    side = images.shape[-1]
    sides = (side - strength * (side - SMALLEST_SIDE_PX)).round().long()
    corrupted = images.clone()
    for smaller in sorted(set(sides.tolist())):
        if smaller < side:
            rows = sides == smaller
            small = F.interpolate(images[rows], (smaller, smaller), mode="area")
            corrupted[rows] = F.interpolate(small, images.shape[-2:], mode="nearest")
    return corrupted


def add_noise(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Independent Gaussian noise on every channel of every pixel."""
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    return (images + LOUDEST_NOISE * _per_image(strength) * noise).clamp(-1, 1)


def add_low_noise(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Smooth coloured clouds: Gaussian noise of a quarter of the resolution."""
    count, channels, height, width = images.shape
    noise = torch.randn(count, channels, height // 4, width // 4, generator=generator, dtype=images.dtype)
    clouds = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    return (images + LOUDEST_LOW_NOISE * _per_image(strength) * clouds).clamp(-1, 1)


def shift(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Rolled around the edges, up to half the side along both axes, in a random direction."""
    side = images.shape[-1]
    signs = torch.randint(0, 2, (len(images), 2), generator=generator) * 2 - 1
    steps = (strength[:, None] * side / 2).round().long() * signs
    rows = (torch.arange(images.shape[-2])[None] - steps[:, :1]) % images.shape[-2]
    columns = (torch.arange(side)[None] - steps[:, 1:]) % side
    positions = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return images[positions, channels, rows[:, None, :, None], columns[:, None, None, :]]


def mix(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Another picture of the batch shines through, up to half and half."""
    others = images[torch.randperm(len(images), generator=generator)]
    return torch.lerp(images, others, LARGEST_MIX * _per_image(strength))


CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": blur,
    "lower_resolution": lower_resolution,
    "noise": add_noise,
    "low_noise": add_low_noise,
    "shift": shift,
    "mix": mix,
}


def corrupt(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Corrupt every image in one way chosen at random. Shapes as in each corruption.

    Raises:
        ValueError: if there is not one strength per image, or one lies outside 0…1.
    """
    if strength.shape != images.shape[:1] or not ((strength >= 0) & (strength <= 1)).all():
        raise ValueError(f"expected {len(images)} strengths in 0…1, got {tuple(strength.shape)} {strength}")
    kinds = torch.randint(len(CORRUPTIONS), (len(images),), generator=generator)
    corrupted = images.clone()
    for kind, corruption in enumerate(CORRUPTIONS.values()):
        rows = kinds == kind
        if rows.any():
            corrupted[rows] = corruption(images[rows], strength[rows], generator)
    return corrupted


def damage_latents(latents: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Damage in a way chosen at random what a VAE would decode: noise, foreign patches, or a second garment.

    Args:
        latents: shape (n, c, h, w), of unit variance.
        strength: shape (n,), 0 (untouched) to 1 (ruined).
        generator: decides the rest.

    Returns:
        Shape (n, c, h, w).
    """
    amount = _per_image(strength)
    others = latents[torch.randperm(len(latents), generator=generator)]
    noisy = latents + 1.15 * amount * torch.randn(latents.shape, generator=generator)
    is_foreign = torch.rand(len(latents), 1, *latents.shape[2:], generator=generator) < 0.5 * amount
    patched = torch.where(is_foreign, others, latents)
    mixed = torch.lerp(latents, others, LARGEST_MIX * amount)
    kinds = torch.randint(3, (len(latents),), generator=generator)
    return torch.stack([noisy, patched, mixed])[kinds, torch.arange(len(latents))]


def _per_image(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]
