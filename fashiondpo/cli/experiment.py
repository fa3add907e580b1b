"""Compare ways of training, and follow a generator over its rounds: `fashiondpo experiment` and `fashiondpo curve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fashiondpo.cli.options import (
    BundlePlace,
    DataPlace,
    Device,
    JudgesPlace,
    Quality,
    RunFolder,
    new_workspace,
    opened_workspace,
    settings_of,
)
from fashiondpo.cli.show import console, progress_bars, say
from fashiondpo.contracts import Interval

if TYPE_CHECKING:
    from fashiondpo.experiment import Row


def experiment(
    file: Annotated[Path, typer.Argument(help="JSON file: run, configurations, seeds; see docs/learning.md.")],
    folder: Annotated[Path, typer.Option("--run", "--out", help="Results and candidates lie there.")] = Path(
        "runs/experiment"
    ),
    data_place: DataPlace = "mini",
    bundle: BundlePlace = "mini",
    judges: JudgesPlace = "mini",
    quality: Quality = None,
    device: Device = "cpu",
) -> None:
    """Train several configurations on the same candidates with several seeds, and compare them. Goes on if stopped."""
    from fashiondpo.experiment import read_experiment, run_experiment, table  # loads torch: not for --help

    asked = read_experiment(file)
    with progress_bars() as bars:
        results = run_experiment(
            asked,
            lambda run: new_workspace(run, data_place, bundle, judges, device, quality=quality),
            folder,
            progress=bars,
        )
    _show(table(results))
    say(f"Every result is a line of {folder / 'results.jsonl'}")


def curve(
    run: RunFolder = Path("runs/default"),
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    device: Device = "cpu",
) -> None:
    """Compare the adapter of every round with the base model on the same held-out outfits, and draw the curves."""
    from fashiondpo.round_curve import measure_rounds  # loads torch: not for --help

    workspace, record = opened_workspace(run, device)
    with progress_bars() as bars:
        found = measure_rounds(workspace, settings_of(record), split=split, progress=bars)
    shown = Table(title=f"Against the base model, on {split} outfits", title_justify="left")
    for name in ("round", "gate", "combined (σ)", "win rate", *found.points[0].comparison.held_out, "diversity"):
        shown.add_column(name.replace("_", " "), justify="right")
    for point in found.points:
        of = point.comparison
        shown.add_row(
            point.round_id,
            "promoted" if point.is_promoted else "refused",
            _spoken(of.combined.interval),
            f"{of.win_rate:.1%}",
            *(f"{figure.delta:+.3f}" for figure in of.held_out.values()),
            f"{of.diversity_ratio:.3f}",
        )
    console.print(shown)
    say(f"The figures with their intervals are in {run / 'rounds.json'}, the charts beside it")


def _show(rows: list[Row]) -> None:
    """A column per configuration."""
    shown = Table(title="Means over seeds, on held-out outfits", title_justify="left")
    shown.add_column("")
    for row in rows:
        shown.add_column(row.configuration, justify="right")
    shown.add_row("seeds", *(str(row.seeds) for row in rows))
    shown.add_row("combined (σ)", *(_spoken(row.combined) for row in rows), style="bold")
    shown.add_row("against the first", *(_spoken(row.against_first) for row in rows))
    shown.add_row("win rate", *(f"{row.win_rate:.1%}" for row in rows))
    shown.add_section()
    for name in rows[0].judges:
        shown.add_row(f"judges: {name} (σ)", *(f"{row.judges[name]:+.3f}" for row in rows))
    for name in rows[0].held_out:
        shown.add_row(f"held out: {name.replace('_', ' ')}", *(f"{row.held_out[name]:+.3f}" for row in rows))
    shown.add_row("diversity, ratio", *(f"{row.diversity_ratio:.3f}" for row in rows))
    shown.add_row("training (s)", *(f"{row.train_seconds:.0f}" for row in rows), style="dim")
    console.print(shown)


def _spoken(interval: Interval) -> str:
    return f"{interval.mean:+.3f} ({interval.low:+.3f} … {interval.high:+.3f})"
