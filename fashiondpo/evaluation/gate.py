"""The gate: whether a new adapter may serve. It decides on held-out outfits, and says why."""

from __future__ import annotations

from pydantic import Field

from fashiondpo.contracts import Frozen, GateVerdict
from fashiondpo.evaluation.comparison import Comparison


class GateSettings(Frozen):
    """What a new adapter has to show."""

    min_win_rate_low: float = Field(
        0.5, ge=0, lt=1, description="The win rate's lower confidence bound must lie above this."
    )
    min_diversity_ratio: float = Field(
        0.9, ge=0, description="Diversity within the candidates, after over before, must not fall below this."
    )
    min_outfits: int = Field(30, ge=1, description="Fewer held-out outfits prove nothing.")


def decide(comparison: Comparison, settings: GateSettings | None = None) -> GateVerdict:
    """Judge an adapter by its comparison with the one before it.

    It is promoted only if enough outfits were compared, its win rate is above the threshold beyond doubt, and its
    candidates have not become alike. Each reason is a sentence; a refusal lists what failed first.
    """
    asked = settings or GateSettings()
    checks = (_wins(comparison, asked), _stays_diverse(comparison, asked), _is_shown_on_enough(comparison, asked))
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
