"""`fashiondpo evaluate --suite paper`: its options, and its table on the console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fashiondpo.cli.show import console, progress_bars, say
from fashiondpo.errors import InvalidInput
from fashiondpo.evaluation.figures import signed
from fashiondpo.run_settings import RunSettings

if TYPE_CHECKING:
    from fashiondpo.evaluation.paper_table import PaperTable, Task
    from fashiondpo.workspace import Workspace

Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="paper: pfitb, one empty slot, or gor, all empty; both unless given.")
]
Clip = Annotated[
    str | None, typer.Option(help="paper: CLIP model for what is measured with CLIP; the judges' own unless given.")
]
Inception = Annotated[
    Path | None, typer.Option(help="paper: weights of the published FID, as torch-fidelity or pytorch-fid have them.")
]
Lpips = Annotated[
    Path | None, typer.Option(help="paper: weights of LPIPS, or of torchvision's AlexNet, VGG16 or SqueezeNet 1.1.")
]
Evaluator = Annotated[
    Path | None, typer.Option(help="paper: VBPR that made no labels, trained on the features of --clip.")
]


def paper_files(clip: str | None, inception: Path | None, lpips: Path | None, evaluator: Path | None) -> dict[str, Any]:
    """What was given, by the names of `SuiteFiles`."""
    return {"clip": clip, "inception": inception, "lpips": lpips, "evaluator": evaluator}


def paper_suite(
    workspace: Workspace,
    settings: RunSettings,
    before: int,
    after: int,
    *,
    tasks: Sequence[str] | None,
    split: str,
    outfits: int | None,
    files: dict[str, Any],
) -> None:
    """Measure, write the three files, and show the tables.

    Raises:
        InvalidInput: if a task is unknown; and what `evaluate_paper` raises.
    """
    from fashiondpo.paper_suite.instruments import SuiteFiles  # loads torch: not for --help
    from fashiondpo.paper_suite.suite import evaluate_paper

    chosen = tuple(dict.fromkeys(_known_task(task) for task in tasks or ("pfitb", "gor")))
    with progress_bars() as bars:
        result = evaluate_paper(
            workspace,
            settings,
            before,
            after,
            tasks=chosen,
            split=split,
            outfits=outfits,
            files=SuiteFiles(**files),
            progress=bars,
        )
    for table in result.metrics.tables:
        _show(table, result.metrics.before, result.metrics.after)
    say(f"The tables lie in {result.path}, and beside it as .md and .json")


def _known_task(task: str) -> Task:
    if task == "pfitb":
        return "pfitb"
    if task == "gor":
        return "gor"
    raise InvalidInput(f"unknown task {task!r}: choose pfitb or gor")


def _show(table: PaperTable, before: str, after: str) -> None:
    from fashiondpo.evaluation.paper_report import shown
    from fashiondpo.evaluation.paper_table import GROUP_TITLES, TASK_TITLES

    say(f"\n{TASK_TITLES[table.task]}. {table.outfits} outfits, {table.candidates} candidates each.")
    for group, title in GROUP_TITLES.items():
        if not (rows := table.of_group(group)):
            continue
        drawn = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        drawn.add_column("")
        for name in ("true", before, after, "change", "95 %"):
            drawn.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            low, high = (signed(end, row.digits) for end in row.ci)
            figures = (shown(value, row) for value in (row.truth, row.before, row.after))
            drawn.add_row(row.title, *figures, signed(row.delta, row.digits), f"{low} … {high}")
        console.print()
        console.print(drawn)
    for warning in table.warnings:
        say(f"Careful: {warning}.")
    for left in table.left_out:
        say(f"Not measured: {left.title}: {left.reason}")
