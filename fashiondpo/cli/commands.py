"""All commands, put together."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fashiondpo.cli import adapters, data, models, rounds, stages
from fashiondpo.cli.complete import complete
from fashiondpo.cli.demo import demo
from fashiondpo.cli.embed import embed
from fashiondpo.cli.experiment import curve, experiment
from fashiondpo.cli.importing import export, import_
from fashiondpo.cli.pretrain import pretrain
from fashiondpo.cli.services import up
from fashiondpo.cli.train_vbpr import train_vbpr
from fashiondpo.telemetry import configure_logging

app = typer.Typer(
    name="fashiondpo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Complete outfits with generated garments, and teach the generator what people like.",
)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(adapters.app, name="adapters")
app.add_typer(rounds.app, name="rounds")
app.command()(pretrain)
app.command()(embed)
app.command()(train_vbpr)
app.command("import")(import_)
app.command()(export)
app.command()(complete)
app.command()(stages.generate)
app.command()(stages.score)
app.command()(stages.pairs)
app.command()(stages.train)
app.command()(stages.gate)
app.command()(stages.evaluate)
app.command("round")(stages.round_)
app.command()(curve)
app.command()(experiment)
app.command()(up)
app.command()(demo)


@app.callback()
def prepare(
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores unless given.")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least important lines to show.")
    ] = "warning",
) -> None:
    """Set up what every command needs."""
    configure_logging(level=log_level)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
