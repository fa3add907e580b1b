"""What the command line shows: progress bars, tables, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from fashiondpo.contracts import GateVerdict
from fashiondpo.evaluation.comparison import Comparison, Figure
from fashiondpo.telemetry import Progress

console = Console()
error_console = Console(stderr=True)


def say(text: str) -> None:
    """A line for people, as it is: paths are neither wrapped nor read as markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Progress]]:
    """Gives a progress callback for every named piece of work; each draws a bar of its own."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        # takes what is left of the line, and no more
        TextColumn("[dim]{task.fields[figures]}", table_column=Column(ratio=1, no_wrap=True, overflow="crop")),
    )
    with Bars(*columns, console=error_console, expand=True) as bars:

        def bar_of(name: str) -> Progress:
            tasks: list[int] = []

            def show(done: int, total: int, figures: Mapping[str, float]) -> None:
                if not tasks:
                    tasks.append(bars.add_task(name, total=total, figures=""))
                text = "  ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:3])
                bars.update(tasks[0], completed=done, total=total, figures=text)  # type: ignore[arg-type]

            return show

        yield bar_of


def show_comparison(comparison: Comparison) -> None:
    """The before/after table."""
    table = Table(title=f"Before and after on {comparison.outfits} held-out outfits", title_justify="left")
    for name, justify in (
        ("", "left"),
        ("before", "right"),
        ("after", "right"),
        ("change", "right"),
        ("95 %", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    combined = comparison.combined
    table.add_row("combined score (σ)", "", "", f"{combined.delta:+.4f}", _interval(*combined.ci), style="bold")
    low, high = comparison.win_rate_ci
    table.add_row("win rate per outfit", "", f"{comparison.win_rate:.1%}", "", f"{low:.1%} … {high:.1%}", style="bold")
    _add_section(table, "judges", comparison.judges)
    _add_section(table, "held out", comparison.held_out)
    _add_section(table, "candidates", {"diversity": comparison.diversity})
    best = comparison.best_of_k
    table.add_section()
    table.add_row(
        f"best of {comparison.candidates} instead", "", "", f"{best.delta:+.4f}", _interval(*best.ci), style="dim"
    )
    console.print(table)


def _add_section(table: Table, title: str, figures: Mapping[str, Figure]) -> None:
    table.add_section()
    for name, figure in figures.items():
        table.add_row(
            f"{title}: {name.replace('_', ' ')}",
            f"{figure.before:.4f}",
            f"{figure.after:.4f}",
            f"{figure.delta:+.4f}",
            _interval(*figure.ci),
        )


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} … {high:+.4f}"


def show_verdict(verdict: GateVerdict) -> None:
    """The gate's word and its reasons."""
    word = "[green]promoted[/green]" if verdict.is_promoted else "[yellow]refused[/yellow]"
    console.print(f"The gate {word} the adapter, on {verdict.outfits} validation outfits:")
    for reason in verdict.reasons:
        console.print(f"  · {reason}", highlight=False)
