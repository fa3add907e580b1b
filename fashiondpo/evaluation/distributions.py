"""Figures of a whole set of pictures, from their features or class probabilities: FID, KID, IS. Pure numpy, float64.

They belong to the set and not to single pictures. Intervals come from drawing outfits anew, with all their pictures: the
candidates of one outfit are no independent observations. Whoever has computed `Pictures` once can ask for many draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fashiondpo.contracts import Interval
from fashiondpo.evaluation.statistics import Floats

Ids = NDArray[np.intp]

KERNEL_ROWS = 1024
"""Rows of a kernel matrix that are in memory at once."""


@dataclass(frozen=True)
class Pictures:
    """Vectors of pictures, and whose they are.

    Attributes:
        vectors: features or class probabilities. Shape (n, d).
        outfits: position of each picture's outfit, 0…outfits - 1; every outfit has at least one. Shape (n,).
    """

    vectors: Floats
    outfits: Ids

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.outfits.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"expected vectors (n, d) and outfits (n,), got {self.vectors.shape}, {self.outfits.shape}"
            )
        if not np.isfinite(self.vectors).all():
            raise ValueError("vectors of pictures must be finite")
        if len(self.outfits) and set(np.unique(self.outfits)) != set(range(int(self.outfits.max()) + 1)):
            raise ValueError("outfits must be numbered 0, 1, … without gaps")

    @property
    def outfit_count(self) -> int:
        """How many outfits there are."""
        return int(self.outfits.max()) + 1 if len(self.outfits) else 0

    def rows_of(self, drawn: Ids) -> Ids:
        """Rows of all pictures of these outfits, as often as each was drawn."""
        return np.concatenate([self._rows[outfit] for outfit in drawn])

    @cached_property
    def _rows(self) -> list[Ids]:
        return [np.flatnonzero(self.outfits == outfit) for outfit in range(self.outfit_count)]


class SetFigure(Protocol):
    """A figure of a set of pictures, ready to be asked for resampled sets."""

    def value(self, drawn: Ids | None = None) -> float:
        """The figure; of the outfits drawn, with repetitions, where some are given."""


@dataclass(frozen=True)
class ReferenceSet:
    """What real pictures look like: the moments of their features, and the features.

    Attributes:
        vectors: features of real pictures. Shape (m, d), m at least 2.
    """

    vectors: Floats
    _similarities: dict[float, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) < 2 or not np.isfinite(self.vectors).all():
            raise ValueError(f"a reference needs finite features of two pictures or more, got {self.vectors.shape}")

    @cached_property
    def mean(self) -> Floats:
        """Shape (d,)."""
        return np.asarray(self.vectors.mean(0))

    @cached_property
    def covariance(self) -> Floats:
        """With m - 1 in the denominator. Shape (d, d)."""
        centred = self.vectors - self.mean
        return np.asarray(centred.T @ centred / (len(centred) - 1))

    @cached_property
    def root(self) -> Floats:
        """The symmetric square root of the covariance."""
        values, axes = np.linalg.eigh(self.covariance)
        return np.asarray((axes * np.sqrt(np.clip(values, 0, None))) @ axes.T)

    @cached_property
    def unit(self) -> float:
        """What features are multiplied by so that theirs have a mean square of 1; √d for vectors of unit length."""
        return float(1 / np.sqrt((self.vectors**2).mean()))

    def similarity(self, scale: float = 1.0) -> float:
        """Mean kernel over all pairs of different pictures, their features multiplied by `scale`; computed once for each."""
        if scale not in self._similarities:
            vectors = self.vectors * scale
            total = sum(float(block.sum()) for _, block in _kernel_blocks(vectors, vectors))
            own = float(_kernel_of_itself(vectors).sum())
            self._similarities[scale] = (total - own) / (len(vectors) * (len(vectors) - 1))
        return self._similarities[scale]


class FrechetDistance:
    """Fréchet distance between Gaussians fitted to two sets of features; with features of Inception it is the FID.

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₂^½ Σ₁ Σ₂^½)^½; the last trace is the sum of the singular values of the centred
    features times Σ₂^½ / √(n − 1), so that no root of an unsymmetric matrix is needed.

    Source: FID (arXiv:1706.08500), equation 6.
    """

    def __init__(self, pictures: Pictures, reference: ReferenceSet) -> None:
        if pictures.vectors.shape[1] != reference.vectors.shape[1]:
            raise ValueError(
                f"features differ in width: {pictures.vectors.shape[1]} and {reference.vectors.shape[1]} of the reference"
            )
        self._pictures, self._reference = pictures, reference
        self._turned = pictures.vectors @ reference.root

    def value(self, drawn: Ids | None = None) -> float:
        """The distance, 0 or more; raises ValueError for fewer than two pictures."""
        rows = slice(None) if drawn is None else self._pictures.rows_of(drawn)
        vectors, turned = self._pictures.vectors[rows], self._turned[rows]
        if len(vectors) < 2:
            raise ValueError("a covariance needs two pictures or more")
        mean, scale = vectors.mean(0), len(vectors) - 1
        spread = float(((vectors - mean) ** 2).sum()) / scale
        overlap = _sum_of_singular_values(turned - turned.mean(0)) / np.sqrt(scale)
        apart = float(((mean - self._reference.mean) ** 2).sum())
        return float(max(0.0, apart + spread + np.trace(self._reference.covariance) - 2 * overlap))


class KernelDistance:
    """Squared maximum mean discrepancy under the kernel (x·y / d + 1)³, unbiased; with Inception it is the KID.

    Unlike the Fréchet distance it does not grow when there are few pictures, and it may fall below 0.

    Source: Demystifying MMD GANs (arXiv:1801.01401), equation 4.
    """

    def __init__(self, pictures: Pictures, reference: ReferenceSet, *, scale: float = 1.0, factor: float = 1.0) -> None:
        """Compare pictures with real ones.

        Args:
            pictures: their features.
            reference: features of real pictures.
            scale: features are multiplied by this, which decides how much the kernel's constant counts; with `unit`, vectors
                of unit length are compared by (cosine + 1)³.
            factor: of the result; 1000 is usual.
        """
        vectors, outfits, count = pictures.vectors * scale, pictures.outfits, pictures.outfit_count
        self._factor, self._similarity = factor, reference.similarity(scale)
        self._own, self._cross = np.zeros((count, count)), np.zeros(count)
        for start, block in _kernel_blocks(vectors, vectors):
            by_column = np.stack([np.bincount(outfits, row, count) for row in block])
            np.add.at(self._own, outfits[start : start + len(block)], by_column)
        for start, block in _kernel_blocks(vectors, reference.vectors * scale):
            np.add.at(self._cross, outfits[start : start + len(block)], block.mean(1))
        self._own[np.diag_indices(count)] -= np.bincount(outfits, _kernel_of_itself(vectors), count)
        self._sizes = np.bincount(outfits, minlength=count).astype(np.float64)

    def value(self, drawn: Ids | None = None) -> float:
        """The discrepancy; raises ValueError for fewer than two pictures.

        A picture that was drawn twice makes no pair with itself.
        """
        count = len(self._sizes)
        times = np.ones(count) if drawn is None else np.bincount(drawn, minlength=count).astype(np.float64)
        pairs = np.outer(self._sizes, self._sizes)
        pairs[np.diag_indices(count)] -= self._sizes
        weights = np.outer(times, times)
        weights[np.diag_indices(count)] = times  # an outfit drawn twice is the same outfit
        if (total := float((weights * pairs).sum())) <= 0:
            raise ValueError("pairs need two pictures or more")
        own = float((weights * self._own).sum()) / total
        cross = float(times @ self._cross) / float(times @ self._sizes)
        return self._factor * (own + self._similarity - 2 * cross)


class InceptionScore:
    """exp of the mean KL divergence of a picture's class probabilities from those of all: 1 … number of classes.

    High when every picture is of one class without doubt, and all classes come equally often.

    Source: Improved Techniques for Training GANs (arXiv:1606.03498), section 4.
    """

    def __init__(self, pictures: Pictures) -> None:
        chances = pictures.vectors
        if (chances < 0).any() or not np.allclose(chances.sum(1), 1, atol=1e-4):
            raise ValueError("class probabilities must not be negative and must add up to 1 in every row")
        self._pictures = pictures
        self._negative_entropy = _times_log(chances).sum(1)

    def value(self, drawn: Ids | None = None) -> float:
        """The score; raises ValueError without pictures."""
        rows = slice(None) if drawn is None else self._pictures.rows_of(drawn)
        chances = self._pictures.vectors[rows]
        if not len(chances):
            raise ValueError("a score needs at least one picture")
        return float(np.exp(self._negative_entropy[rows].mean() - _times_log(chances.mean(0)).sum()))


def change_interval(
    before: SetFigure, after: SetFigure, outfits: int, *, samples: int = 500, seed: int = 0, level: float = 0.95
) -> Interval:
    """Value after minus value before, with an interval from drawing outfits anew, the same ones for both.

    A set with repetitions lies further from the reference than one without, on both sides alike. What remains of that in
    the differences is taken out: they are moved so that their mean is the difference that was found.

    Args:
        before, after: figures of the same outfits.
        outfits: how many there are.
        samples, seed, level: as in `bootstrap_interval`.

    Raises:
        ValueError: if there are no outfits, or `samples` or `level` make no sense.
    """
    if outfits < 1 or samples < 1 or not 0 < level < 1:
        raise ValueError(f"expected outfits, samples and a level, got {outfits}, {samples} and {level}")
    found = after.value() - before.value()
    rng = np.random.default_rng(seed)
    draws = (rng.integers(outfits, size=outfits) for _ in range(samples))
    changes = np.array([after.value(drawn) - before.value(drawn) for drawn in draws])
    low, high = np.quantile(changes - changes.mean() + found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=found, low=float(low), high=float(high))


def frechet_distance(features: ArrayLike, reference: ArrayLike) -> float:
    """`FrechetDistance` of two sets of features, (n, d) and (m, d)."""
    return FrechetDistance(_alone(features), ReferenceSet(np.asarray(reference, dtype=np.float64))).value()


def kernel_distance(features: ArrayLike, reference: ArrayLike) -> float:
    """`KernelDistance` of two sets of features, (n, d) and (m, d)."""
    return KernelDistance(_alone(features), ReferenceSet(np.asarray(reference, dtype=np.float64))).value()


def inception_score(probabilities: ArrayLike) -> float:
    """`InceptionScore` of class probabilities, (n, classes)."""
    return InceptionScore(_alone(probabilities)).value()


def too_few_pictures(pictures: int, reference: int, dimensions: int) -> str | None:
    """What to say of a Fréchet distance whose covariances cannot have full rank; None where they can."""
    short = [
        f"{count} {name} pictures"
        for name, count in (("generated", pictures), ("real", reference))
        if count <= dimensions
    ]
    if not short:
        return None
    return (
        f"the covariance of {' and '.join(short)} over {dimensions} features has not full rank: the distance is too large "
        "by an amount that depends on their number; compare it only with distances of as many pictures, and look at KID"
    )


def _alone(vectors: ArrayLike) -> Pictures:
    found = np.asarray(vectors, dtype=np.float64)
    return Pictures(found, np.arange(len(found)))


def _sum_of_singular_values(matrix: Floats) -> float:
    """Through the smaller of the two products with the transpose; what is zero but for rounding is left out."""
    product = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    values = np.linalg.eigvalsh(product)
    floor = values[-1] * len(values) * np.finfo(np.float64).eps
    return float(np.sqrt(values[values > max(floor, 0.0)]).sum())


def _kernel(products: Floats, dimensions: int) -> Floats:
    return np.asarray((products / dimensions + 1) ** 3)


def _kernel_of_itself(vectors: Floats) -> Floats:
    return _kernel((vectors**2).sum(1), vectors.shape[1])


def _kernel_blocks(left: Floats, right: Floats) -> Iterator[tuple[int, Floats]]:
    """Kernel of all pairs, a block of rows after the other, each with its first row."""
    for start in range(0, len(left), KERNEL_ROWS):
        yield start, _kernel(left[start : start + KERNEL_ROWS] @ right.T, left.shape[1])


def _times_log(chances: Floats) -> Floats:
    """Each chance times its logarithm; 0 where the chance is 0."""
    return np.asarray(chances * np.log(np.where(chances > 0, chances, 1.0)))
