"""`fashiondpo adapters`: the registered adapter versions of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fashiondpo.cli.options import RunFolder
from fashiondpo.cli.show import console, say
from fashiondpo.errors import NotFound
from fashiondpo.storage.adapters import FolderAdapters

app = typer.Typer(no_args_is_help=True, help="Look at, activate and roll back adapter versions.")

Version = Annotated[int, typer.Argument(help="Adapter version; 0 is the base model.")]


def _registry(run: Path) -> FolderAdapters:
    if not run.is_dir():
        raise NotFound(f"there is no run in {run}: begin one with `fashiondpo round --run {run}`")
    return FolderAdapters(run / "adapters")


@app.command("list")
def list_(run: RunFolder = Path("runs/default")) -> None:
    """Every version, with its parent and the gate's verdict."""
    registry = _registry(run)
    table = Table("version", "parent", "round", "rank", "verdict", "win rate", "digest", "")
    champion = registry.alias("champion")
    for version in registry.versions():
        manifest = registry.manifest(version)
        verdict = manifest.verdict
        table.add_row(
            str(version),
            str(manifest.parent.version),
            manifest.round_id,
            str(manifest.rank),
            "none" if verdict is None else ("promoted" if verdict.is_promoted else "refused"),
            "" if verdict is None else f"{verdict.win_rate.mean:.1%}",
            manifest.digest[:12],
            "champion" if version == champion else "",
        )
    console.print(table)


@app.command()
def show(version: Version, run: RunFolder = Path("runs/default")) -> None:
    """All that is known of one version."""
    console.print_json(_registry(run).manifest(version).model_dump_json())


@app.command()
def activate(
    version: Version,
    run: RunFolder = Path("runs/default"),
    force: Annotated[bool, typer.Option("--force", help="Even if the gate refused it.")] = False,
) -> None:
    """Make a version the champion."""
    _registry(run).activate(version, is_forced=force)
    say(f"The champion is version {version}")


@app.command()
def rollback(run: RunFolder = Path("runs/default")) -> None:
    """Make the previous champion the champion again."""
    say(f"The champion is version {_registry(run).rollback()}")
