"""How a figure is said and drawn: numbers with fitting digits, plain words, bars of intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fashiondpo.contracts import Interval
from fashiondpo.evaluation.comparison import BASELINES, MISMATCHED, Figure

Tone = Literal["better", "worse", "unclear"]

MEANINGS: Mapping[str, str] = {
    "quality": "Is it a clean, believable picture of a garment?",
    "compatibility": "Does it go with the other items of the outfit?",
    "personalization": "Does it look like what this user wore before?",
    "votes": "What people answered when they were asked.",
    "clip_score": "Does the picture show the category that was asked for?",
    "clip_image_score": "How close is it to the item that was really there?",
    "realism": "Share of candidates that an independent critic takes for garments and not for painted.",
    "precision": "Share of candidates that lie among real garments, in an independent classifier's features.",
    "category_accuracy": "Share of candidates that an independent classifier puts into the right category.",
    "harmony": "Share of candidates whose colour a harmony rule allows beside the other items.",
    "palette": "Share of candidates in one of the colours that the user wears.",
    "colour_match": "Share of candidates in the colour of the item that was really there.",
    "lpips": "Perceptual distance to the item that was really there.",
    MISMATCHED: "The personalization score with another user's history: what fits everybody. Only to be compared with.",
}
"""What is asked by the judges and metrics that have a name everybody uses."""

ACRONYMS = frozenset({"clip", "fid", "lpips", "psnr", "ssim", "vae", "vbpr"})


@dataclass(frozen=True)
class Bar:
    """An interval on a ruler of 0…100 % width; `zero` is where no change lies."""

    low: float
    mean: float
    high: float
    zero: float
    tone: Tone

    @property
    def width(self) -> float:
        """Length of the interval as drawn; never so short that it cannot be seen."""
        return max(self.high - self.low, 0.8)

    @property
    def start(self) -> float:
        """Where the drawn interval begins."""
        return (self.low + self.high - self.width) / 2


@dataclass(frozen=True)
class FigureRow:
    """One line of the table of figures, ready to be read."""

    name: str
    meaning: str
    before: str
    after: str
    delta: str
    interval: str
    outfits: int
    tone: Tone
    is_lower_better: bool
    bar: Bar | None


def tone_of(change: Interval, *, neutral: float = 0.0, is_lower_better: bool = False) -> Tone:
    """Whether the whole interval lies on the better side of `neutral`, on the worse one, or on both."""
    if change.low > neutral:
        return "worse" if is_lower_better else "better"
    if change.high < neutral:
        return "better" if is_lower_better else "worse"
    return "unclear"


def bar_of(change: Interval, *, low: float, high: float, neutral: float = 0.0, tone: Tone | None = None) -> Bar:
    """The interval on a ruler from `low` to `high`, where it leaves drawn at its end; more is better unless told a tone."""

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    tone = tone or tone_of(change, neutral=neutral)
    return Bar(place(change.low), place(change.mean), place(change.high), place(neutral), tone)


def ruler_reach(changes: Iterable[Interval]) -> float:
    """A round number that no end of an interval exceeds: 1, 2 or 5 times a power of ten."""
    furthest = max((max(abs(change.low), abs(change.high)) for change in changes), default=0.0)
    if furthest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(furthest))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= furthest * (1 - 1e-9))


def figure_row(name: str, figure: Figure, reach: float, meanings: Mapping[str, str]) -> FigureRow:
    """One line of the table; its bar is drawn in σ from -reach to reach, and absent where the figure has no spread."""
    digits, change = decimals(figure), in_sigma(figure)
    is_judged = name not in BASELINES
    tone: Tone = tone_of(figure.interval, is_lower_better=figure.is_lower_better) if is_judged else "unclear"
    return FigureRow(
        name=spoken(name),
        meaning=meanings.get(name) or MEANINGS.get(name, ""),
        before=number(figure.before, digits),
        after=number(figure.after, digits),
        delta=signed(figure.delta, digits),
        interval=span(figure.interval, digits),
        outfits=figure.outfits,
        tone=tone,
        is_lower_better=figure.is_lower_better,
        bar=bar_of(change, low=-reach, high=reach, tone=tone) if change else None,
    )


def in_sigma(figure: Figure) -> Interval | None:
    """The change in units of the figure's spread before; None where there was none."""
    if figure.sigma <= 0:
        return None
    mean, low, high = (value / figure.sigma for value in (figure.delta, *figure.ci))
    return Interval(mean=mean, low=low, high=high)


def decimals(figure: Figure) -> int:
    """Digits after the point at which a hundredth of the figure's spread can be seen."""
    size = figure.sigma or abs(figure.before) or 1.0
    return min(6, max(0, 2 - math.floor(math.log10(size))))


def number(value: float, digits: int = 2) -> str:
    """With a true minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """With its sign, plus as well as minus; zero has none."""
    text = number(value, digits)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def span(interval: Interval, digits: int = 2) -> str:
    """Both ends of a signed interval."""
    return f"{signed(interval.low, digits)} to {signed(interval.high, digits)}"


def percent(value: float, digits: int = 1) -> str:
    """A share of one, in percent."""
    return f"{number(100 * value, digits)}%"


def spoken(name: str) -> str:
    """A name from the data as people write it: "clip_image_score" becomes "CLIP image score"."""
    words = " ".join(word.upper() if word in ACRONYMS else word for word in name.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def duration(seconds: float) -> str:
    """In the two largest units that fit: "52 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
