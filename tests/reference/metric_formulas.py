"""The metrics of the papers written a second time, slowly, and without what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor


def frechet(features: np.ndarray, reference: np.ndarray) -> float:
    """With the matrix root of the product of both covariances."""
    return gaussian_frechet(features.mean(0), np.cov(features.T), reference.mean(0), np.cov(reference.T))


def gaussian_frechet(mean: np.ndarray, cov: np.ndarray, other_mean: np.ndarray, other_cov: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(np.atleast_2d(cov) @ np.atleast_2d(other_cov))
    return float(((mean - other_mean) ** 2).sum() + np.trace(cov + other_cov - 2 * np.real(root)))


def mmd_squared(features: np.ndarray, reference: np.ndarray) -> float:
    """Unbiased, with the cubic kernel, pair by pair."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def among(vectors: np.ndarray) -> float:
        pairs = [(i, j) for i in range(len(vectors)) for j in range(len(vectors)) if i != j]
        return math.fsum(kernel(vectors[i], vectors[j]) for i, j in pairs) / len(pairs)

    cross = [kernel(x, y) for x in features for y in reference]
    return among(features) + among(reference) - 2 * math.fsum(cross) / len(cross)


def score_of_chances(chances: Sequence[Sequence[float]]) -> float:
    """Inception score: exp of the entropy of the mean minus the mean of the entropies."""

    def entropy(row: Sequence[float]) -> float:
        return -math.fsum(p * math.log(p) for p in row if p > 0)

    mean = [math.fsum(column) / len(chances) for column in zip(*chances, strict=True)]
    return math.exp(entropy(mean) - math.fsum(map(entropy, chances)) / len(chances))


ALEX_LAYERS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
"""Position of each convolution in torchvision's AlexNet, its stride and padding."""


def alex_lpips(weights: dict[str, Tensor], linear: Sequence[Tensor], one: Tensor, other: Tensor) -> Tensor:
    """LPIPS over AlexNet: differences of unit feature vectors, squared, weighed, averaged over the picture, added up.

    Args:
        weights: torchvision's names, `features.0.weight` and so on.
        linear: weights of the channels after each convolution, (c,) each.
        one, other: pixels in -1…1, (n, 3, side, side).
    """
    total = torch.zeros(len(one), dtype=one.dtype)
    for features, beside, weight in zip(
        _alex_activations(weights, one), _alex_activations(weights, other), linear, strict=True
    ):
        lengths = [torch.sqrt(1e-8 + (x * x).sum(1, keepdim=True)) for x in (features, beside)]
        difference = features / lengths[0] - beside / lengths[1]
        total = total + torch.einsum("nchw,c->n", difference**2, weight) / (features.shape[2] * features.shape[3])
    return total


def _alex_activations(weights: dict[str, Tensor], pixels: Tensor) -> list[Tensor]:
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (pixels - mean.to(pixels)[:, None, None]) / std.to(pixels)[:, None, None]
    found = []
    for number, (position, stride, padding) in enumerate(ALEX_LAYERS):
        if number in (1, 2):
            x = torch.nn.functional.max_pool2d(x, 3, 2)
        x = torch.conv2d(
            x, weights[f"features.{position}.weight"], weights[f"features.{position}.bias"], stride, padding
        )
        x = x.clamp_min(0)
        found.append(x)
    return found
