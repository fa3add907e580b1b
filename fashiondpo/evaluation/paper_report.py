"""The metrics of the papers as files: Markdown to paste, JSON to compute with, HTML to look at."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fashiondpo.evaluation.figures import number, signed, spoken, tone_of
from fashiondpo.evaluation.paper_table import GROUP_TITLES, TASK_TITLES, MetricRow, PaperMetrics, PaperTable, Task

NAME = "paper-metrics"

READING = (
    "Every figure is a mean over outfits, candidates averaged first; FID, KID and IS belong to all pictures together. The "
    "difference is the adapter's figure minus the base's on the same outfits with the same seeds, with a 95 % interval from "
    "drawing outfits anew. An interval that includes 0 may be chance. True items: what the garments that were really there "
    "reach on the same measure."
)


def write_paper_report(folder: Path, metrics: PaperMetrics, galleries: Mapping[Task, bytes]) -> Path:
    """Write paper-metrics.json, .md and .html; what was there under these names is replaced.

    Args:
        folder: made if it is not there.
        metrics: what to show.
        galleries: a PNG per task.

    Returns:
        The path of the HTML file. It is written last: where it is, the others are too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "json": metrics.model_dump_json(indent=2) + "\n",
        "md": to_markdown(metrics),
        "html": to_html(metrics, galleries),
    }
    for suffix, content in contents.items():
        path = folder / f"{NAME}.{suffix}"
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(path)
    return folder / f"{NAME}.html"


def to_markdown(metrics: PaperMetrics) -> str:
    """Tables for a paper, an issue or a notebook."""
    lines = [f"# {metrics.title}", "", READING]
    for table in metrics.tables:
        lines += ["", f"## {TASK_TITLES[table.task]}", "", counted(table)]
        for group, title in GROUP_TITLES.items():
            if rows := table.of_group(group):
                lines += ["", f"### {title}", "", *_markdown_rows(rows, metrics)]
        lines += [f"\n> **Careful:** {warning}." for warning in table.warnings]
        if table.left_out:
            lines += ["", "Not measured:", "", *(f"- {left.title}: {left.reason}" for left in table.left_out)]
    lines += ["", "## What was measured", "", *(f"- {spoken(name)}: {fact}" for name, fact in metrics.facts.items())]
    return "\n".join(lines) + "\n"


def to_html(metrics: PaperMetrics, galleries: Mapping[Task, bytes]) -> str:
    """A page that needs nothing beside it and asks nothing of the network."""
    environment = Environment(
        loader=PackageLoader("fashiondpo.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(counted=counted, tone=row_tone, verdict=verdict, shown=shown, change=change)
    environment.filters.update(spoken=spoken)
    return environment.get_template("paper.html.j2").render(
        metrics=metrics,
        reading=READING,
        groups=GROUP_TITLES,
        tasks=TASK_TITLES,
        pictures={task: base64.b64encode(png).decode("ascii") for task, png in galleries.items()},
    )


def counted(table: PaperTable) -> str:
    """How much was looked at, in words."""
    return (
        f"{table.outfits} outfits, {table.candidates} candidates each, {table.pictures} pictures painted by either; "
        f"{table.real_pictures} real pictures for FID and KID."
    )


def row_tone(row: MetricRow) -> str:
    """better, worse, or unclear where the interval includes 0; neutral where neither direction is an improvement."""
    return "neutral" if row.is_lower_better is None else tone_of(row.change, is_lower_better=row.is_lower_better)


def verdict(row: MetricRow) -> str:
    """What the difference means, in words."""
    return {"unclear": "may be chance", "neutral": "–"}.get(row_tone(row), row_tone(row))


def shown(value: float | None, row: MetricRow) -> str:
    """A figure with the digits of its row; a dash where there is none."""
    return "–" if value is None else number(value, row.digits)


def change(row: MetricRow) -> str:
    """The difference, and its interval behind it."""
    low, high = (signed(end, row.digits) for end in row.ci)
    return f"{signed(row.delta, row.digits)} ({low} to {high})"


def _markdown_rows(rows: tuple[MetricRow, ...], metrics: PaperMetrics) -> list[str]:
    lines = [
        f"| metric | true items | {metrics.before} | {metrics.after} | difference (95 %) | | outfits | seen through |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    for row in rows:
        arrow = {True: " ↓", False: " ↑", None: ""}[row.is_lower_better]
        cells = (
            f"{row.title}{arrow} ({row.detail})",
            shown(row.truth, row),
            shown(row.before, row),
            shown(row.after, row),
            change(row),
            verdict(row),
            str(row.outfits),
            f"`{row.source}`",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines
