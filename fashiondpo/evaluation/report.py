"""The report of a run: one HTML file to read, the same pictures as PNG, the same figures as JSON.

The HTML file needs nothing beside it and asks nothing of the network; a content security policy inside it makes sure.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, PackageLoader, StrictUndefined

from fashiondpo.contracts import GateVerdict
from fashiondpo.errors import DataFileError
from fashiondpo.evaluation import figures
from fashiondpo.evaluation.charts import CURVES, curve_points, score_histogram, training_curve
from fashiondpo.evaluation.comparison import Comparison, Figure, Measured
from fashiondpo.evaluation.gallery import GalleryRow, best_of, draw_gallery, thumbnail
from fashiondpo.outfits.images import encode_png
from fashiondpo.outfits.model import Image


@dataclass(frozen=True)
class RunReport:
    """Everything the report of one run shows.

    Attributes:
        title: of the page.
        comparison: the figures.
        verdict: of the gate.
        before: raw scores of the policy that served, for the histograms.
        after: of the new one.
        gallery: outfits to show, about a dozen.
        training: rows of the training log, see `read_training_log`.
        seconds: how long each part of the run took.
        facts: what made this run (models, adapter, seeds, settings), in words.
        meanings: what a judge or metric asks, by name; known ones need none.
    """

    title: str
    comparison: Comparison
    verdict: GateVerdict
    before: Measured
    after: Measured
    gallery: Sequence[GalleryRow] = ()
    training: Sequence[Mapping[str, float]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)


def write_report(folder: Path, report: RunReport) -> Path:
    """Write report.html, report.json and the PNG files; what was there under these names is replaced.

    Args:
        folder: made if it is not there.
        report: what to show.

    Returns:
        The path of report.html. It is written last: where it is, the others are too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    histograms = {
        _file_name("scores", name): score_histogram(was, report.after.by_criterion[name])
        for name, was in report.before.by_criterion.items()
        if name in report.comparison.judges
    }
    curves = {
        _file_name("training", name): training_curve(report.training, name)
        for name in CURVES
        if curve_points(report.training, name)[0].size
    }
    sheet = {"gallery.png": draw_gallery(report.gallery)} if report.gallery else {}
    for name, content in (histograms | curves | sheet).items():
        _write(folder / name, content)
    _write(folder / "report.json", to_json(report).encode())
    _write(folder / "report.html", render(report, histograms | curves).encode())
    return folder / "report.html"


def to_json(report: RunReport) -> str:
    """The figures of a run: the comparison's fields at the top, with verdict, seconds and facts beside them."""
    content = {
        **report.comparison.model_dump(mode="json"),
        "title": report.title,
        "verdict": report.verdict.model_dump(mode="json"),
        "seconds": dict(report.seconds),
        "facts": dict(report.facts),
        "training": {"rows": len(report.training), "last": _finite(report.training[-1]) if report.training else {}},
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_training_log(path: Path) -> list[dict[str, float]]:
    """The rows of a training log, one JSON object of numbers per line.

    A last line without its end is what a killed process leaves, and is skipped.

    Raises:
        DataFileError: if a line is something else; names it.
    """
    rows: list[dict[str, float]] = []
    text = path.read_text(encoding="utf-8")
    for line_number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataFileError(path, f"is not a line of JSON: {error}", line=line_number) from error
        if not isinstance(row, dict) or "step" not in row:
            raise DataFileError(path, 'a row of the training log is an object with a "step"', line=line_number)
        rows.append({k: float(v) for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)})
    return rows


def render(report: RunReport, charts: Mapping[str, bytes]) -> str:
    """The HTML page.

    Args:
        report: what to show.
        charts: PNG files by the names under which `write_report` writes them.
    """
    # Everything that comes from data is escaped; nothing is marked as safe.
    environment = Environment(
        loader=PackageLoader("fashiondpo.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(picture=_picture, best_of=best_of, means_of=_means_of, is_nan=math.isnan)
    environment.filters.update(
        percent=figures.percent,
        signed=figures.signed,
        number=figures.number,
        span=figures.span,
        spoken=figures.spoken,
        duration=figures.duration,
    )
    return environment.get_template("report.html.j2").render(**_context(report, charts))


def _context(report: RunReport, charts: Mapping[str, bytes]) -> dict[str, object]:
    comparison = report.comparison
    every = {**comparison.judges, **comparison.held_out}
    reach = figures.ruler_reach(change for figure in every.values() if (change := figures.in_sigma(figure)))
    gain, won = comparison.combined.interval, comparison.win_interval
    gain_reach = figures.ruler_reach([gain])
    total = math.fsum(report.seconds.values())
    total_weight = math.fsum(comparison.weights.values())

    def rows(found: Mapping[str, Figure]) -> list[figures.FigureRow]:
        return [figures.figure_row(name, figure, reach, report.meanings) for name, figure in found.items()]

    return {
        "report": report,
        "comparison": comparison,
        "verdict": report.verdict,
        "gain": gain,
        "gain_bar": figures.bar_of(gain, low=-gain_reach, high=gain_reach),
        "won": won,
        "won_bar": figures.bar_of(won, low=0, high=1, neutral=0.5),
        "ceiling_share": gain.mean / comparison.best_of_k.delta if comparison.best_of_k.delta > 0 else None,
        "reach_said": f"{reach:g}",
        "weights": ", ".join(
            f"{name} {figures.percent(w / total_weight, 0)}" for name, w in comparison.weights.items()
        ),
        "slots": max((max(len(row.given), len(row.history) + 1) for row in report.gallery), default=4),
        "painted": max((max(len(row.before), len(row.after)) for row in report.gallery), default=7),
        "tables": [
            ("judges", rows(comparison.judges)),
            ("held_out", rows(comparison.held_out)),
        ],
        "histograms": [
            (figures.spoken(name), _data_uri(charts[_file_name("scores", name)])) for name in comparison.judges
        ],
        "curves": [
            (curve, _data_uri(charts[_file_name("training", name)]))
            for name, curve in CURVES.items()
            if _file_name("training", name) in charts
        ],
        "parts": [(name, spent, 100 * spent / total if total else 0) for name, spent in report.seconds.items()],
        "total_seconds": total,
    }


def _file_name(kind: str, name: str) -> str:
    """Names come from data: what is not plain must not reach the file system."""
    return f"{kind}-{re.sub('[^a-z0-9_]+', '-', name.lower())}.png"


def _means_of(row: GalleryRow) -> tuple[float, float] | None:
    """Mean combined score before and after; None where a side has none."""
    known = [[score for score in scores if not math.isnan(score)] for scores in (row.before_scores, row.after_scores)]
    return (fmean(known[0]), fmean(known[1])) if all(known) else None


def _picture(image: Image) -> str:
    return _data_uri(encode_png(thumbnail(image)))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _finite(row: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)
