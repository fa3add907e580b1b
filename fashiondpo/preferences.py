"""From scores to preference pairs: normalise, weigh, pair. Pure Python over contracts.

`default` mode asks within each outfit: every judge's scores become z-scores among the K candidates of the same slot,
are weighed, and every two candidates that differ by more than a margin make a pair. What an outfit's difficulty adds to
all its candidates cancels out, and every outfit on which the judges see a difference teaches something.

`paper` mode follows the published procedure (arXiv:2504.12900): min-max per judge over the whole round, weighted sum,
and one median over the round that parts better from worse. Scores stay floats instead of being rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Literal, Self

from pydantic import Field, model_validator

from fashiondpo.contracts import Criterion, Frozen, PreferencePair, Score, ScoredSet
from fashiondpo.errors import InvalidInput, UnscoredCandidates

JudgeCriterion = Criterion | Literal["votes"]
Opinions = dict[JudgeCriterion, tuple[float, ...]]
"""What the judges say of one outfit: per criterion one score per candidate, in the candidates' order."""

ROUNDING = 1e-6
"""Scores of one outfit that lie closer than this, relatively, are one score: float32 judges round at about 1e-7."""


class PreferenceSettings(Frozen):
    """How scores become preferences."""

    mode: Literal["default", "paper"] = "default"
    weights: dict[JudgeCriterion, float] = Field(
        {"quality": 1 / 3, "compatibility": 1 / 3, "personalization": 1 / 3},
        description="Weight of each judge; only their ratios matter. Human votes count once 'votes' has a weight.",
    )
    min_margin: float = Field(
        0.1,
        ge=0,
        allow_inf_nan=False,
        description="Smaller differences make no pair (default mode; the paper has none).",
    )
    max_pairs_per_outfit: int | None = Field(
        None, ge=1, description="The widest margins are kept; null keeps all pairs."
    )

    @model_validator(mode="after")
    def _somebody_has_a_say(self) -> Self:
        if wrong := {name: w for name, w in self.weights.items() if not (math.isfinite(w) and w >= 0)}:
            raise ValueError(f"weights must be finite and not negative, got {wrong}")
        if not any(self.weights.values()):
            raise ValueError("at least one judge needs a weight above zero")
        return self

    @property
    def criteria(self) -> tuple[JudgeCriterion, ...]:
        """The judges that are asked: those with a weight above zero."""
        return tuple(criterion for criterion, weight in self.weights.items() if weight > 0)


def preference_pairs(scored_sets: Iterable[ScoredSet], settings: PreferenceSettings) -> list[PreferencePair]:
    """The pairs of a round: sets in the order given, within a set the widest margin first.

    Raises:
        UnscoredCandidates: if a judge still owes a score; see `unscored`.
        InvalidInput: if the same set comes twice.
    """
    sets = list(scored_sets)
    scores = preference_scores(sets, settings)
    threshold = _median(scores) if settings.mode == "paper" else None
    pairs: list[PreferencePair] = []
    for scored_set in sets:
        candidate_set = scored_set.candidate_set
        if candidate_set.set_id in scores:
            indices = [candidate.index for candidate in candidate_set.candidates]
            found = _pairs_of(candidate_set.set_id, indices, scores[candidate_set.set_id], settings, threshold)
            pairs.extend(found[: settings.max_pairs_per_outfit])
    return pairs


def preference_scores(scored_sets: Iterable[ScoredSet], settings: PreferenceSettings) -> dict[str, tuple[float, ...]]:
    """One preference score per candidate, by set id, in the candidates' order.

    A judge that has no value for one of an outfit's candidates, for a final reason such as 'no_history', is left out
    for this outfit and the other judges' weights are scaled up to replace it; scoring the gap 0 would be a guess. A set
    on which no judge has anything to say is absent from the result.

    Returns:
        In default mode weighted z-scores, comparable within an outfit only; in paper mode 0…1 over the round.

    Raises:
        UnscoredCandidates: if a judge still owes a score; see `unscored`.
        InvalidInput: if the same set comes twice.
    """
    sets = list(scored_sets)
    if owed := [(s, criteria) for s in sets if (criteria := unscored(s, settings))]:
        names = [scored_set.candidate_set.set_id for scored_set, _ in owed]
        raise UnscoredCandidates(names, sorted({criterion for _, criteria in owed for criterion in criteria}))
    opinions: dict[str, Opinions] = {}
    for scored_set in sets:
        if (set_id := scored_set.candidate_set.set_id) in opinions:
            raise InvalidInput(f"candidate set {set_id!r} was given twice; a round pairs each set once")
        opinions[set_id] = _opinions(scored_set, settings)
    normalised = _within_outfits(opinions) if settings.mode == "default" else _over_the_round(opinions)
    return {set_id: fuse(judges, settings.weights) for set_id, judges in normalised.items() if judges}


def unscored(scored_set: ScoredSet, settings: PreferenceSettings) -> tuple[JudgeCriterion, ...]:
    """The criteria under which a later attempt may still give some candidate of this set its score; empty once ready.

    A judge owes a score until it gives a value or a final reason. People owe nothing: votes that nobody cast are not
    waited for.
    """
    found = _by_candidate(scored_set)

    def is_owed(candidate_id: str, criterion: JudgeCriterion) -> bool:
        score = found.get((candidate_id, criterion))
        return criterion != "votes" if score is None else score.value is None and not score.is_final

    ids = [candidate.candidate_id for candidate in scored_set.candidate_set.candidates]
    return tuple(c for c in settings.criteria if any(is_owed(candidate_id, c) for candidate_id in ids))


def z_scores(values: Sequence[float]) -> tuple[float, ...]:
    """Distance from the mean in (population) standard deviations; all 0 where the values agree."""
    if not any(scaled := min_max(values)):
        return scaled
    # Scaled to 0…1 first, so that squares of very small differences do not vanish.
    mean = math.fsum(scaled) / len(scaled)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in scaled) / len(scaled))
    return tuple((value - mean) / std for value in scaled)


def min_max(values: Sequence[float]) -> tuple[float, ...]:
    """Position between the smallest (0) and the largest value (1); all 0 where the values agree."""
    if not values or _agree(low := min(values), high := max(values)):
        return (0.0,) * len(values)
    return tuple((value - low) / (high - low) for value in values)


def fuse(
    normalised: Mapping[JudgeCriterion, Sequence[float]], weights: Mapping[JudgeCriterion, float]
) -> tuple[float, ...]:
    """Weighted mean over the judges that are there, one value per candidate.

    Args:
        normalised: per criterion the normalised scores of the same candidates.
        weights: per criterion; scaled so that those of the judges present add up to 1.
    """
    total = math.fsum(weights[criterion] for criterion in normalised)
    return tuple(
        math.fsum(weights[criterion] * score for criterion, score in zip(normalised, scores, strict=True)) / total
        for scores in zip(*normalised.values(), strict=True)
    )


def _agree(low: float, high: float) -> bool:
    return math.isclose(low, high, rel_tol=ROUNDING)


def _by_candidate(scored_set: ScoredSet) -> dict[tuple[str, JudgeCriterion], Score]:
    # The first of several scores counts, as in ScoredSet.value.
    return {(score.candidate_id, score.criterion): score for score in reversed(scored_set.scores)}


def _opinions(scored_set: ScoredSet, settings: PreferenceSettings) -> Opinions:
    """Raw scores of the judges that have a value for every candidate of the set."""
    opinions: Opinions = {}
    for criterion in settings.criteria:
        candidates = scored_set.candidate_set.candidates
        values = [scored_set.value(candidate.candidate_id, criterion) for candidate in candidates]
        present = tuple(value for value in values if value is not None)
        if len(present) == len(values):
            opinions[criterion] = present
    return opinions


def _within_outfits(opinions: Mapping[str, Opinions]) -> dict[str, Opinions]:
    return {
        set_id: {criterion: z_scores(values) for criterion, values in judges.items()}
        for set_id, judges in opinions.items()
    }


def _over_the_round(opinions: Mapping[str, Opinions]) -> dict[str, Opinions]:
    normalised: dict[str, Opinions] = {set_id: {} for set_id in opinions}
    for criterion in dict.fromkeys(criterion for judges in opinions.values() for criterion in judges):
        owners = [(set_id, judges[criterion]) for set_id, judges in opinions.items() if criterion in judges]
        scaled = iter(min_max([value for _, values in owners for value in values]))
        for set_id, values in owners:
            normalised[set_id][criterion] = tuple(next(scaled) for _ in values)
    return normalised


def _median(scores: Mapping[str, Sequence[float]]) -> float | None:
    every = [score for of_set in scores.values() for score in of_set]
    return median(every) if every else None


def _pairs_of(
    set_id: str,
    indices: Sequence[int],
    scores: Sequence[float],
    settings: PreferenceSettings,
    threshold: float | None,
) -> list[PreferencePair]:
    def is_pair(better: float, worse: float) -> bool:
        if threshold is not None:
            return better > threshold >= worse
        return better - worse > settings.min_margin

    ranked = list(zip(indices, scores, strict=True))
    pairs = [
        PreferencePair(set_id=set_id, chosen=i, rejected=j, margin=better - worse)
        for i, better in ranked
        for j, worse in ranked
        if is_pair(better, worse)
    ]
    return sorted(pairs, key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))
