"""Charts of a run as PNG: how scores are distributed before and after, and how training went.

Drawn with matplotlib's objects and not its global state, so that several reports can be made side by side. What a chart
means stands beside it in the report; inside there are only lines and numbers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from fashiondpo.contracts import Interval
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.statistics import Floats

INK, MUTED, HAIRLINE = "#1f2124", "#77736b", "#e4e0d8"
BEFORE, AFTER = "#a8a297", "#0e6b66"
SIZE_IN, DPI = (3.7, 2.15), 210


@dataclass(frozen=True)
class Curve:
    """A figure of training: its title, what it means, and its value for an adapter that has learned nothing."""

    title: str
    meaning: str
    neutral: float


CURVES: Mapping[str, Curve] = {
    "loss": Curve(
        "Loss",
        "Of pairwise objectives: starts at 0.693, where an adapter stays that learns nothing (dotted); a small β keeps it "
        "near there even when training works. Of diffusion_nft: a denoising error, which the noise drawn decides more than "
        "anything learned. So look at the other curves too.",
        math.log(2),
    ),
    "implicit_accuracy": Curve(
        "Implicit accuracy",
        "In how many pairs the preferred candidate has gained more likelihood than the other one. One half (dotted) is "
        "guessing.",
        0.5,
    ),
    "margin": Curve(
        "Margin",
        "How much more likelihood the preferred candidates have gained, in log-ratio. It should rise above zero "
        "(dotted).",
        0.0,
    ),
    "clipped_fraction": Curve(
        "Clipped fraction",
        "Share of likelihood ratios held at their bound, where they teach nothing more. Near one, training has "
        "stopped.",
        0.0,
    ),
    "kl": Curve(
        "KL to the reference",
        "How far the adapter has moved from where the round began. A sudden rise warns of collapse.",
        0.0,
    ),
}
"""The training figures that are drawn, by their name in the log."""


def score_histogram(before: Floats, after: Floats, *, bins: int = 28) -> bytes:
    """One judge's raw scores over all candidates, before (filled) and after (outlined), with their means.

    Args:
        before: raw scores of any shape; NaN is left out.
        after: the same for the new adapter.
        bins: how many, over the common range of both.

    Returns:
        A PNG file.

    Raises:
        InvalidInput: if one side has no score.
    """
    sides = [side[np.isfinite(side)] for side in (np.ravel(before), np.ravel(after))]
    if any(side.size == 0 for side in sides):
        raise InvalidInput("a histogram needs scores before and after, one side has none")
    edges = np.histogram_bin_edges(np.concatenate(sides), bins=bins)
    shares = [np.histogram(side, bins=edges)[0] / side.size for side in sides]
    canvas, axes = _chart()
    axes.stairs(shares[0], edges, fill=True, color=BEFORE, alpha=0.45, linewidth=0)
    axes.stairs(shares[1], edges, color=AFTER, linewidth=1.6)
    top = 1.28 * max(share.max() for share in shares)
    means = [float(side.mean()) for side in sides]
    for name, mean, is_left, colour in zip(
        ("before", "after"), means, (means[0] <= means[1], means[0] > means[1]), (MUTED, AFTER), strict=True
    ):
        axes.plot([mean, mean], [0, 0.86 * top], color=colour, linewidth=1.1, linestyle=(0, (4, 2)))
        axes.annotate(
            f"{name} {mean:.3g}",
            (mean, 0.9 * top),
            xytext=(-4 if is_left else 4, 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            color=colour,
            fontsize=8.5,
            fontweight="bold",
        )
    axes.set_ylim(0, top)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return _png(canvas)


def training_curve(rows: Sequence[Mapping[str, float]], name: str) -> bytes:
    """One figure of training over the optimiser's steps: every value faint, their running mean strong.

    Args:
        rows: the training log, each row with its "step"; rows without this figure are skipped.
        name: which figure, e.g. "loss".

    Returns:
        A PNG file; the dotted line is where an adapter that has learned nothing stays.

    Raises:
        InvalidInput: if no row has it.
    """
    steps, values = curve_points(rows, name)
    if steps.size == 0:
        raise InvalidInput(f"the training log has no finite value of {name!r}")
    canvas, axes = _chart()
    if name in CURVES and _is_in_reach(CURVES[name].neutral, values):
        axes.axhline(CURVES[name].neutral, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.plot(steps, values, color=AFTER, linewidth=0.8, alpha=0.28)
    axes.plot(steps, running_mean(values, max(1, values.size // 12)), color=AFTER, linewidth=1.9)
    axes.set_xlabel("step", color=MUTED, fontsize=8, loc="right")
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.7)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.01, y=0.12)
    return _png(canvas)


def _is_in_reach(neutral: float, values: Floats) -> bool:
    """Whether the line can be drawn without squeezing the values; another objective's loss lies elsewhere."""
    return neutral == 0 or bool(values.min() <= 2 * neutral and values.max() >= neutral / 2)


def round_curve(changes: Sequence[Interval], *, unit: str) -> bytes:
    """A figure's change against the first policy after 1, 2, … rounds, with its intervals, as a PNG file.

    Args:
        changes: one per round.
        unit: what the vertical axis counts.

    Raises:
        InvalidInput: if there is no round.
    """
    if not changes:
        raise InvalidInput("a curve over rounds needs at least one round")
    canvas, axes = _chart()
    rounds = np.arange(len(changes) + 1)
    means, lows, highs = (
        np.array([0.0, *(getattr(change, name) for change in changes)]) for name in ("mean", "low", "high")
    )
    axes.axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.fill_between(rounds, lows, highs, color=AFTER, alpha=0.18, linewidth=0)
    axes.plot(rounds, means, color=AFTER, linewidth=1.9, marker="o", markersize=3.5)
    axes.xaxis.set_major_locator(MaxNLocator(len(changes), integer=True))
    axes.set_xlabel("rounds", color=MUTED, fontsize=8, loc="right")
    axes.set_ylabel(unit, color=MUTED, fontsize=8)
    axes.grid(axis="y", color=HAIRLINE, linewidth=0.7)
    axes.spines["left"].set_visible(False)
    return _png(canvas)


def curve_points(rows: Sequence[Mapping[str, float]], name: str) -> tuple[Floats, Floats]:
    """Steps and values of the rows in which this figure is there and finite. Shape (rows,) each."""
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None and row.get("step") is not None]
    points = np.array(found, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def running_mean(values: Floats, reach: int) -> Floats:
    """Mean over `reach` neighbours on either side, fewer at the ends. Shape as given."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(values.size)
    first, last = np.maximum(positions - reach, 0), np.minimum(positions + reach + 1, values.size)
    return np.asarray((sums[last] - sums[first]) / (last - first), dtype=np.float64)


def _chart() -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=SIZE_IN, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(HAIRLINE)
    axes.tick_params(colors=MUTED, labelsize=8, length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return canvas, axes


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
