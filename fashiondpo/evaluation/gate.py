"""The gate: whether a new adapter may serve. It decides on held-out outfits, and says why."""

from __future__ import annotations

from pydantic import Field

from fashiondpo.contracts import Frozen, GateVerdict
from fashiondpo.evaluation.comparison import BASELINES, Comparison, Figure
from fashiondpo.evaluation.figures import decimals, span


class GateSettings(Frozen):
    """What a new adapter has to show."""

    min_win_rate_low: float = Field(
        0.5, ge=0, lt=1, description="The win rate's lower confidence bound must lie above this."
    )
    min_diversity_ratio: float = Field(
        0.9, ge=0, description="Diversity within the candidates, after over before, must not fall below this."
    )
    min_outfits: int = Field(30, ge=1, description="Fewer held-out outfits prove nothing.")
    max_fall: float | None = Field(
        0.1,
        ge=0,
        allow_inf_nan=False,
        description="No judge and no held-out figure may be shown to fall by more than so many of its standard deviations; "
        "null: whatever they do.",
    )


def decide(comparison: Comparison, settings: GateSettings | None = None) -> GateVerdict:
    """Judge an adapter by its comparison with the one before it.

    It is promoted only if enough outfits were compared, its win rate is above the threshold beyond doubt, its candidates
    have not become alike, and no single judge or held-out figure pays for the gain. Each reason is a sentence; a refusal
    lists what failed first.
    """
    asked = settings or GateSettings()
    checks = [_wins(comparison, asked), _stays_diverse(comparison, asked), _is_shown_on_enough(comparison, asked)]
    if asked.max_fall is not None:
        checks.append(_costs_nothing_else(comparison, asked.max_fall))
    return GateVerdict(
        is_promoted=all(is_met for is_met, _ in checks),
        reasons=tuple(reason for _, reason in sorted(checks, key=lambda check: check[0])),
        win_rate=comparison.win_interval,
        combined_delta=comparison.combined.interval,
        diversity_ratio=comparison.diversity_ratio,
        outfits=comparison.outfits,
    )


def _wins(comparison: Comparison, asked: GateSettings) -> tuple[bool, str]:
    low = comparison.win_interval.low
    is_met = low > asked.min_win_rate_low
    rest = "above" if is_met else "not above"
    return is_met, (
        f"It wins on {comparison.win_rate:.1%} of the outfits; the lower confidence bound, {low:.1%}, "
        f"is {rest} {asked.min_win_rate_low:.1%}."
    )


def _stays_diverse(comparison: Comparison, asked: GateSettings) -> tuple[bool, str]:
    is_met = comparison.diversity_ratio >= asked.min_diversity_ratio
    rest = "at least" if is_met else "less than"
    return is_met, (
        f"Its candidates differ from each other {comparison.diversity_ratio:.1%} as much as before, "
        f"{rest} the {asked.min_diversity_ratio:.1%} asked for."
    )


def _is_shown_on_enough(comparison: Comparison, asked: GateSettings) -> tuple[bool, str]:
    is_met = comparison.outfits >= asked.min_outfits
    rest = "at least" if is_met else "fewer than"
    return (
        is_met,
        f"It was compared on {comparison.outfits} held-out outfits, {rest} the {asked.min_outfits} asked for.",
    )


def _costs_nothing_else(comparison: Comparison, allowed: float) -> tuple[bool, str]:
    """A judge without a weight counts, too: what nobody asked to improve must not be ruined either."""
    figures = {n: f for n, f in {**comparison.judges, **comparison.held_out}.items() if n not in BASELINES}
    fallen = {name: figure for name, figure in figures.items() if _least_fall(figure) > allowed * figure.sigma}
    if not fallen:
        held_out = len(figures) - len(comparison.judges)
        measured = f"{len(comparison.judges)} judges" + (f" and {held_out} held-out figures" if held_out else "")
        return True, f"None of {measured} is shown to fall by more than the {allowed:g} σ allowed."
    told = ", ".join(f"{name} by {span(figure.interval, decimals(figure))}" for name, figure in fallen.items())
    return False, f"It pays with what it was not to touch, by more than the {allowed:g} σ allowed: {told}."


def _least_fall(figure: Figure) -> float:
    """How much the figure got worse at least, at the better end of its interval; negative if it may have got better."""
    low, high = figure.ci
    return low if figure.is_lower_better else -high
