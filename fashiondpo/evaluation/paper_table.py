"""The metrics of the papers as a table: base, adapter, the difference with its interval, and what the true items reach.

Every row says through what it looked, and stands in one of three groups: judges that made the labels, measures that look
through the same network as such a judge, and measures that had no part in the labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fashiondpo.contracts import Frozen, Interval
from fashiondpo.evaluation.distributions import SetFigure, change_interval
from fashiondpo.evaluation.statistics import Floats, bootstrap_interval

Group = Literal["labels", "shared", "held_out"]
Task = Literal["pfitb", "gor"]

GROUP_TITLES: Mapping[Group, str] = {
    "held_out": "Held out: had no part in the labels",
    "shared": "Through the network of a judge that made labels",
    "labels": "Judges that made the labels",
}
"""In the order of the table: what proves most comes first."""

TASK_TITLES: Mapping[Task, str] = {
    "pfitb": "PFITB: one empty slot, personalised",
    "gor": "GOR: every slot empty, painted together",
}


@dataclass(frozen=True)
class Metric:
    """What is measured, and through what.

    Attributes:
        key: in JSON.
        title: for people, short.
        detail: what exactly, behind the title.
        group: how far it can be trusted.
        source: network or rule, with the hash of its weights.
        digits: after the point; None for as many as show four digits of the figure.
        is_lower_better: whether it improves by falling; None where neither direction is an improvement.
        has_truth: whether the true items have a figure of this kind that says something.
    """

    key: str
    title: str
    detail: str
    group: Group
    source: str
    digits: int | None = 3
    is_lower_better: bool | None = False
    has_truth: bool = True


@dataclass(frozen=True)
class Measured:
    """What one policy, or the true items, reached on the same outfits.

    Attributes:
        means: per metric a value per outfit; NaN = none. Shape (outfits,).
        figures: figures of the whole set of pictures.
    """

    means: Mapping[str, Floats]
    figures: Mapping[str, SetFigure] = field(default_factory=dict)


class MetricRow(Frozen):
    """One line of the table; the interval holds 95 %."""

    key: str
    title: str
    detail: str
    group: Group
    source: str
    truth: float | None
    before: float
    after: float
    delta: float
    ci: tuple[float, float]
    interval: Literal["bootstrap over outfits", "bootstrap over outfits, recentred"]
    outfits: int
    digits: int
    is_lower_better: bool | None

    @property
    def change(self) -> Interval:
        """The difference with its interval."""
        return Interval(mean=self.delta, low=self.ci[0], high=self.ci[1])


class LeftOut(Frozen):
    """A metric of the papers that is not in the table, and why."""

    title: str
    reason: str


class PaperTable(Frozen):
    """Everything about one task."""

    task: Task
    outfits: int
    candidates: int
    pictures: int
    real_pictures: int
    rows: tuple[MetricRow, ...]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()

    def of_group(self, group: Group) -> tuple[MetricRow, ...]:
        """The rows of a group, in their order."""
        return tuple(row for row in self.rows if row.group == group)


class PaperMetrics(Frozen):
    """The content of paper-metrics.json."""

    schema_version: Literal[1] = 1
    title: str
    before: str
    after: str
    facts: dict[str, str]
    tables: tuple[PaperTable, ...]


def metric_row(
    metric: Metric,
    before: Measured,
    after: Measured,
    truth: Measured,
    *,
    outfits: int,
    samples: int = 2000,
    set_samples: int = 500,
    seed: int = 0,
) -> MetricRow | LeftOut:
    """The line of a metric.

    Args:
        metric: its key is in `means` or `figures` of all three.
        before, after: of the two policies.
        truth: of the true items.
        outfits: that were measured.
        samples: resamplings of a mean over outfits.
        set_samples: resamplings of a figure of the whole set.
        seed: of the resampling.

    Returns:
        The row, or the reason why there is none.
    """
    if metric.key in before.figures:
        old, new = before.figures[metric.key], after.figures[metric.key]
        return _row(
            metric,
            truth=truth.figures[metric.key].value() if metric.has_truth else None,
            before=old.value(),
            after=new.value(),
            change=change_interval(old, new, outfits, samples=set_samples, seed=seed),
            interval="bootstrap over outfits, recentred",
            outfits=outfits,
        )
    was, now = before.means[metric.key], after.means[metric.key]
    shared = ~np.isnan(now - was)
    if not shared.any():
        return LeftOut(title=metric.title, reason="no outfit has a value on both sides")
    known = truth.means[metric.key][shared] if metric.has_truth else np.array([])
    known = known[~np.isnan(known)]
    return _row(
        metric,
        truth=float(known.mean()) if known.size else None,
        before=float(was[shared].mean()),
        after=float(now[shared].mean()),
        change=bootstrap_interval((now - was)[shared], samples=samples, seed=seed),
        interval="bootstrap over outfits",
        outfits=int(shared.sum()),
    )


def _row(
    metric: Metric,
    *,
    truth: float | None,
    before: float,
    after: float,
    change: Interval,
    interval: Literal["bootstrap over outfits", "bootstrap over outfits, recentred"],
    outfits: int,
) -> MetricRow:
    return MetricRow(
        key=metric.key,
        title=metric.title,
        detail=metric.detail,
        group=metric.group,
        source=metric.source,
        truth=truth,
        before=before,
        after=after,
        delta=change.mean,
        ci=(change.low, change.high),
        interval=interval,
        outfits=outfits,
        digits=_four_digits(before) if metric.digits is None else metric.digits,
        is_lower_better=metric.is_lower_better,
    )


def _four_digits(value: float) -> int:
    """Digits after the point that show four digits of the value; six at most."""
    size = abs(value)
    return 3 if size == 0 else min(6, max(0, 3 - math.floor(math.log10(size))))
