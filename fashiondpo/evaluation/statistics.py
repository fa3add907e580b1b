"""How sure a figure is: resampled intervals over outfits, win rates, diversity. Pure functions over numpy arrays.

The outfit is the unit everywhere: the K candidates of one outfit share its difficulty, so they are averaged first and
never counted as K independent observations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fashiondpo.contracts import Interval

Floats = NDArray[np.float64]


def bootstrap_interval(values: ArrayLike, *, samples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean with its percentile bootstrap interval: how much would it move with other outfits of the same kind?

    Args:
        values: one figure per outfit; NaN = this outfit has none and is left out. Shape (outfits,).
        samples: how often the outfits are drawn anew, with replacement.
        seed: the same seed gives the same interval.
        level: share of the resampled means inside the interval.

    Raises:
        ValueError: if no value is left, one is infinite, or `samples` or `level` make no sense.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or np.isinf(found).any():
        raise ValueError(f"expected finite values (or NaN) of shape (outfits,), got shape {found.shape}")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples must be at least 1 and level between 0 and 1, got {samples} and {level}")
    present = found[~np.isnan(found)]
    if present.size == 0:
        raise ValueError(f"an interval needs at least one value, but none of {found.size} outfits has one")
    drawn = np.random.default_rng(seed).integers(present.size, size=(samples, present.size))
    low, high = np.quantile(present[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=float(present.mean()), low=float(low), high=float(high))


def wins(before: ArrayLike, after: ArrayLike) -> Floats:
    """Per outfit 1 if it is better after, 0 if before, 1/2 for a tie; NaN where one side has no value.

    Raises:
        ValueError: if the shapes differ.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if old.shape != new.shape:
        raise ValueError(f"before and after differ in shape: {old.shape} and {new.shape}")
    return np.where(np.isnan(old) | np.isnan(new), np.nan, 0.5 * (np.sign(new - old) + 1))


def win_rate(
    before: ArrayLike, after: ArrayLike, *, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Share of outfits that are better after than before, with its interval; ties count half.

    Args:
        before: one figure per outfit, larger is better, NaN = none. Shape (outfits,).
        after: the same of the same outfits.
        samples: see `bootstrap_interval`, as for `seed` and `level`.
        seed: see there.
        level: see there.

    Raises:
        ValueError: if the shapes differ or no outfit has both figures.
    """
    return bootstrap_interval(wins(before, after), samples=samples, seed=seed, level=level)


def pairwise_diversity(features: ArrayLike) -> Floats:
    """How different the candidates of one outfit are: the mean Euclidean distance over all pairs of them.

    Args:
        features: one vector per candidate, such as unit-length image embeddings (distances then lie in 0…2).
            Shape (outfits, K, dimensions), K at least 2.

    Returns:
        Shape (outfits,); 0 where all candidates are the same.

    Raises:
        ValueError: if the shape is another.
    """
    vectors = np.asarray(features, dtype=np.float64)
    if vectors.ndim != 3 or vectors.shape[1] < 2:
        raise ValueError(f"expected features of shape (outfits, K >= 2, dimensions), got {vectors.shape}")
    # Differences and not the Gram matrix: near-equal candidates would drown in rounding there.
    first, second = np.triu_indices(vectors.shape[1], k=1)
    distances = [np.linalg.norm(vectors[:, i] - vectors[:, j], axis=-1) for i, j in zip(first, second, strict=True)]
    return np.asarray(np.mean(distances, axis=0), dtype=np.float64)


def mean_of_present(values: Floats, axis: int) -> Floats:
    """Mean along an axis over what is not NaN; NaN where nothing is there."""
    there = ~np.isnan(values)
    count = there.sum(axis=axis)
    total = np.where(there, values, 0.0).sum(axis=axis)
    return ratio_where_possible(total, count)


def ratio_where_possible(numerator: Floats, denominator: Floats | NDArray[np.intp]) -> Floats:
    """Element by element; NaN where the denominator is 0."""
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result
