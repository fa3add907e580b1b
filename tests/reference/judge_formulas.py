"""What the judges compute, written a second time: numpy, float64, loops, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def leaky_relu(x: Array, slope: float) -> Array:
    return np.where(x > 0, x, slope * x)


def vbpr_score(
    item: Array, others: Sequence[Array], weights: Mapping[str, Array], *, slope: float, shared_map: bool
) -> float:
    """<phi(item), phi(mean of others)> + w . item + b; or with the outfit side's own map, averaged after mapping."""

    def mapped(x: Array, side: str) -> Array:
        hidden = leaky_relu(weights[f"{side}_map1.weight"] @ x + weights[f"{side}_map1.bias"], slope)
        return leaky_relu(weights[f"{side}_map2.weight"] @ hidden + weights[f"{side}_map2.bias"], slope)

    mean, std = weights["feature_mean"], weights["feature_std"]
    item, others = (item - mean) / std, [(other - mean) / std for other in others]
    if shared_map:
        outfit = mapped(np.mean(others, axis=0), "i")
    else:
        outfit = np.mean([mapped(other, "o") for other in others], axis=0)
    bias = float(weights["visual_bias.weight"][0] @ item + weights["visual_bias.bias"][0])
    return float(mapped(item, "i") @ outfit) + bias


def bpr_loss(positive: Sequence[float], negative: Sequence[Sequence[float]]) -> float:
    """Mean of log(1 + exp(-(positive - negative))) over all pairs."""
    losses = [math.log1p(math.exp(-(p - n))) for p, row in zip(positive, negative, strict=True) for n in row]
    return sum(losses) / len(losses)


def pairwise_auc(better: Sequence[float], worse: Sequence[float]) -> float:
    """By counting the pairs in the right order; ties are half a pair."""
    points = [1.0 if b > w else 0.5 if b == w else 0.0 for b in better for w in worse]
    return sum(points) / len(points)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def expected_level(log_probs: Sequence[float]) -> float:
    """Mean of the levels 1 … n under a softmax of these log-probabilities."""
    weights = np.exp(np.asarray(log_probs, dtype=np.float64))
    return float(np.average(np.arange(1, len(log_probs) + 1), weights=weights))


def shannon_entropy(log_probs: Sequence[float]) -> float:
    """In nats, of the same softmax: log Z minus the mean log-weight."""
    values = np.asarray([value for value in log_probs if value != -math.inf], dtype=np.float64)
    z = np.exp(values).sum()
    return float(np.log(z) - (np.exp(values) / z * values).sum())
