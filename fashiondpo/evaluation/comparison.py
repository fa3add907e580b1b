"""Before and after: what an adapter changed on held-out outfits, judge by judge and all together.

Both policies complete the same outfits with the same seeds, so every figure is a difference within outfits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fashiondpo.contracts import Frozen, Interval
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.statistics import Floats, bootstrap_interval, mean_of_present, ratio_where_possible, win_rate

MISMATCHED = "mismatched_personalization"
"""Personalization with a stranger's history."""
BASELINES = frozenset({MISMATCHED})
"""Figures that others are held against: to rise is not better, to fall is not worse."""


@dataclass(frozen=True)
class Measured:
    """What one policy achieved on the held-out outfits; NaN = there is no value, for instance no history.

    Attributes:
        criteria: the judges, in the order of the last axis of `scores`.
        scores: raw scores, larger is better. Shape (outfits, K, judges).
        diversity: how different the K candidates of an outfit are. Shape (outfits,).
        held_out: metrics that made no preference label, by name. Shape (outfits,) each.
    """

    criteria: tuple[str, ...]
    scores: Floats
    diversity: Floats
    held_out: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores.ndim != 3 or self.scores.shape[2] != len(self.criteria) or 0 in self.scores.shape:
            raise InvalidInput(
                f"scores must have shape (outfits, K, {len(self.criteria)} judges), none of them 0, "
                f"got {self.scores.shape}"
            )
        for name, values in {"diversity": self.diversity, **self.held_out}.items():
            if values.shape != self.scores.shape[:1]:
                raise InvalidInput(f"{name} needs one value for each of {len(self.scores)} outfits, got {values.shape}")
        for name, values in {"scores": self.scores, "diversity": self.diversity, **self.held_out}.items():
            if np.isinf(values).any():
                raise InvalidInput(f"{name} has infinite values; a figure that is not known must be NaN")

    @property
    def by_criterion(self) -> dict[str, Floats]:
        """The raw scores of each judge, shape (outfits, K)."""
        return {name: self.scores[:, :, judge] for judge, name in enumerate(self.criteria)}


class Change(Frozen):
    """A mean difference over outfits, after minus before, with its 95 % interval."""

    delta: float
    ci: tuple[float, float]

    @property
    def interval(self) -> Interval:
        """The same as an interval."""
        return Interval(mean=self.delta, low=self.ci[0], high=self.ci[1])


class Figure(Change):
    """A figure before and after, in its own unit.

    `sigma` is its spread before: over candidates for judges, over outfits for metrics that have one value per outfit.
    """

    before: float
    after: float
    sigma: float
    outfits: int
    is_lower_better: bool = False


class Comparison(Frozen):
    """Everything that is said of an adapter against the one before it.

    Attributes:
        combined: gain in the weighted sum of all judges, each in units of its own spread before (σ).
        win_rate: share of outfits whose mean combined score is higher after; ties count half.
        win_rate_ci: its 95 % interval.
        judges: raw scores of the judges that also made the labels; a judge without any value is absent.
        held_out: metrics that did not make the labels, likewise.
        best_of_k: gain if before, the best of the K candidates had been chosen: what the judges could see and reach.
        diversity: distance between the candidates of an outfit.
        diversity_ratio: its mean after over its mean before.
        outfits: how many have a combined score on both sides.
        candidates: K.
        weights: of the judges in the combined score.
    """

    schema_version: Literal[1] = 1
    combined: Change
    win_rate: float
    win_rate_ci: tuple[float, float]
    judges: dict[str, Figure]
    held_out: dict[str, Figure]
    best_of_k: Change
    diversity: Figure
    diversity_ratio: float
    outfits: int
    candidates: int
    weights: dict[str, float]

    @property
    def win_interval(self) -> Interval:
        """The win rate as an interval."""
        return Interval(mean=self.win_rate, low=self.win_rate_ci[0], high=self.win_rate_ci[1])


def compare(
    before: Measured,
    after: Measured,
    weights: Mapping[str, float],
    *,
    lower_is_better: Collection[str] = (),
    samples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two policies on the same outfits.

    Args:
        before: what the policy that serves now achieved.
        after: what the new one achieved on the same outfits, in the same order.
        weights: of the judges in the combined score; only their ratios matter, a judge not named weighs nothing.
        lower_is_better: names of held-out metrics that improve by falling, such as a distance to the true item.
        samples: resamplings behind every interval.
        seed: of the resampling.

    Raises:
        InvalidInput: if the two do not belong together, or no outfit has a combined score on both sides.
    """
    _check_same_outfits(before, after)
    old, new = combined_scores(before, after, weights)
    old_means, new_means = mean_of_present(old, axis=1), mean_of_present(new, axis=1)
    outfits = int((~np.isnan(new_means - old_means)).sum())
    if outfits == 0:
        raise InvalidInput("no outfit has a score of a weighted judge both before and after: nothing can be compared")
    won = win_rate(old_means, new_means, samples=samples, seed=seed)

    figures = _Figures(lower_is_better, samples, seed)
    diversity = figures.of("diversity", before.diversity, after.diversity)
    if diversity is None:
        raise InvalidInput("no outfit has a diversity both before and after; the gate cannot do without")
    return Comparison(
        combined=_change(new_means - old_means, samples, seed),
        win_rate=won.mean,
        win_rate_ci=(won.low, won.high),
        judges=figures.of_all(before.by_criterion, after.by_criterion),
        held_out=figures.of_all(before.held_out, after.held_out),
        best_of_k=_change(np.where(np.isnan(old), -np.inf, old).max(axis=1) - old_means, samples, seed),
        diversity=diversity,
        diversity_ratio=diversity.after / diversity.before if diversity.before > 0 else 1.0,
        outfits=outfits,
        candidates=before.scores.shape[1],
        weights={name: float(weights.get(name, 0.0)) for name in before.criteria},
    )


def combined_scores(before: Measured, after: Measured, weights: Mapping[str, float]) -> tuple[Floats, Floats]:
    """The weighted sum of the judges, in σ: each judge is centred and scaled by its scores before, over all candidates.

    A judge takes part in an outfit only if it has a value on both sides; the weights of those that take part are scaled
    to 1. A judge that gave every candidate before the same score has no spread to count in: its spread over both sides
    is used, and if there is none either, it has nothing to say.

    Returns:
        Before and after, shape (outfits, K) each; NaN where no judge has a value.

    Raises:
        InvalidInput: if no judge has a weight above zero, or a weight is negative or not finite.
    """
    weight = np.array([weights.get(name, 0.0) for name in before.criteria], dtype=np.float64)
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        raise InvalidInput(
            f"weights of {', '.join(before.criteria)} must not be negative nor all zero, got {dict(weights)}"
        )
    takes_part = ~np.isnan(mean_of_present(before.scores, 1)) & ~np.isnan(mean_of_present(after.scores, 1))
    both = [np.where(takes_part[:, None, :], side.scores, np.nan) for side in (before, after)]
    flat = [side.reshape(-1, len(weight)) for side in both]
    centre = mean_of_present(flat[0], axis=0)
    alone, together = (np.array([_spread(column) for column in side.T]) for side in (flat[0], np.concatenate(flat)))
    unit = np.where(alone > 0, alone, np.where(together > 0, together, 1.0))
    old, new = (_weighted((side - centre) / unit, weight) for side in both)
    return old, new


def _weighted(scores: Floats, weight: Floats) -> Floats:
    there = ~np.isnan(scores) & (weight > 0)
    total = np.where(there, weight, 0.0).sum(axis=2)
    summed = np.where(there, scores * weight, 0.0).sum(axis=2)
    return ratio_where_possible(summed, total)


def _spread(values: Floats) -> float:
    """Population standard deviation of what is not NaN; exactly 0 where only rounding differs."""
    present = values[~np.isnan(values)]
    if present.size == 0 or np.ptp(present) <= 1e-9 * np.abs(present).max():
        return 0.0
    return float(present.std())


def _change(differences: Floats, samples: int, seed: int) -> Change:
    found = bootstrap_interval(differences, samples=samples, seed=seed)
    return Change(delta=found.mean, ci=(found.low, found.high))


@dataclass(frozen=True)
class _Figures:
    """How figures are made in one comparison."""

    lower_is_better: Collection[str]
    samples: int
    seed: int

    def of_all(self, before: Mapping[str, Floats], after: Mapping[str, Floats]) -> dict[str, Figure]:
        found = {name: self.of(name, was, after[name]) for name, was in before.items()}
        return {name: figure for name, figure in found.items() if figure is not None}

    def of(self, name: str, before: Floats, after: Floats) -> Figure | None:
        """From values per candidate, shape (outfits, K), or per outfit; None where no outfit has both sides."""
        was, now = (mean_of_present(side, axis=1) if side.ndim == 2 else side for side in (before, after))
        shared = ~np.isnan(now - was)
        if not shared.any():
            return None
        change = _change((now - was)[shared], self.samples, self.seed)
        return Figure(
            delta=change.delta,
            ci=change.ci,
            before=float(was[shared].mean()),
            after=float(now[shared].mean()),
            sigma=_spread(before),
            outfits=int(shared.sum()),
            is_lower_better=name in self.lower_is_better,
        )


def _check_same_outfits(before: Measured, after: Measured) -> None:
    if before.criteria != after.criteria or set(before.held_out) != set(after.held_out):
        raise InvalidInput(
            f"before and after were measured by different judges or metrics: "
            f"{[*before.criteria, *before.held_out]} and {[*after.criteria, *after.held_out]}"
        )
    if before.scores.shape != after.scores.shape:
        raise InvalidInput(
            f"before and after must hold the same outfits and candidates, got {before.scores.shape} "
            f"and {after.scores.shape}"
        )
