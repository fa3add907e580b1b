"""`fashiondpo rounds`: start, watch and stop rounds of a trainer service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fashiondpo.cli.options import read_settings
from fashiondpo.cli.services import ServiceKey, ServicesRun, ServiceUrl, service_url
from fashiondpo.cli.show import console, error_console, progress_bars, say, show_verdict
from fashiondpo.clients.problems import error_of_problem
from fashiondpo.errors import Cancelled, InvalidInput
from fashiondpo.messages import RoundProgress, RoundView
from fashiondpo.run_settings import TrainRequest
from fashiondpo.storage.records import first_problem
from fashiondpo.telemetry import Progress

if TYPE_CHECKING:
    from fashiondpo.clients.trainer import TrainerClient

app = typer.Typer(no_args_is_help=True, help="Start, watch and stop rounds of a trainer service.")

RoundId = Annotated[str, typer.Argument(help="Name of the round; `fashiondpo rounds list` shows them.")]
_RUN = Path("runs/up")


@app.command()
def start(
    url: ServiceUrl = None,
    run: ServicesRun = _RUN,
    key: ServiceKey = None,
    source: Annotated[
        Literal["split", "traffic"], typer.Option(help="Outfits of the training split, or what was recorded.")
    ] = "split",
    mode: Annotated[Literal["default", "paper"], typer.Option(help="paper: the published procedure.")] = "default",
    outfits: Annotated[int | None, typer.Option(min=1, help="To learn from.")] = None,
    candidates: Annotated[int | None, typer.Option(min=2, help="Per outfit.")] = None,
    gate_outfits: Annotated[int | None, typer.Option(min=1, help="On which the gate decides.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of outfits, noise and training.")] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="JSON file with the whole request; single options are stronger.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and show how far it is.")] = False,
) -> None:
    """Start a round."""
    options = {
        "source": source if source != "split" else None,
        "mode": mode if mode != "default" else None,
        "outfits": outfits,
        "candidates": candidates,
        "gate_outfits": gate_outfits,
        "seed": seed,
    }
    request = train_request(settings_file, options)
    with _client(url, run, key) as client:
        view = client.train(request)
        say(f"{view.round_id} is {view.state}")
        if watch:
            finish(show_round(client, view.round_id))


@app.command("list")
def list_(
    url: ServiceUrl = None,
    run: ServicesRun = _RUN,
    key: ServiceKey = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
) -> None:
    """The newest rounds."""
    table = Table(
        "round", "state", "stage", "started", "learns from", "verdict", "adapter", box=SIMPLE_HEAD, pad_edge=False
    )
    with _client(url, run, key) as client:
        for view in client.rounds(limit=limit).rounds:
            verdict, published = view.record.verdict, view.record.published
            table.add_row(
                view.round_id,
                view.state,
                view.record.stage,
                view.created_at[:19].replace("T", " "),
                view.source,
                "" if verdict is None else ("promoted" if verdict.is_promoted else "refused"),
                "" if published is None else str(published.version),
            )
    console.print(table)


@app.command()
def show(round_id: RoundId, url: ServiceUrl = None, run: ServicesRun = _RUN, key: ServiceKey = None) -> None:
    """All that is known of a round, as JSON."""
    with _client(url, run, key) as client:
        console.print_json(client.round(round_id).model_dump_json())


@app.command()
def watch(round_id: RoundId, url: ServiceUrl = None, run: ServicesRun = _RUN, key: ServiceKey = None) -> None:
    """Show how far a round is, until its end. Ctrl-C leaves the round alone."""
    with _client(url, run, key) as client:
        finish(show_round(client, round_id))


@app.command()
def cancel(round_id: RoundId, url: ServiceUrl = None, run: ServicesRun = _RUN, key: ServiceKey = None) -> None:
    """Have a round stop; what it made is kept."""
    with _client(url, run, key) as client:
        view = client.cancel(round_id)
    say(f"{round_id} is {view.state}" + ("; its worker was asked to stop" if view.state == "running" else ""))


def train_request(file: Path | None, options: dict[str, Any]) -> TrainRequest:
    """A request from a file and single options; the later the stronger.

    Raises:
        InvalidInput: if it cannot be.
    """
    chosen = read_settings(file) if file is not None else {}
    chosen.update({name: value for name, value in options.items() if value is not None})
    try:
        return TrainRequest.model_validate(chosen)
    except ValidationError as error:
        raise InvalidInput(f"this round cannot be asked for: {first_problem(error)}") from error


def show_round(client: TrainerClient, round_id: str) -> RoundView:
    """Draw a bar per stage until the round ends; returns how it ended."""
    with progress_bars() as bars:
        shown: dict[str, Progress] = {}
        for event in client.events(round_id):
            if event.kind == "progress":
                progress = RoundProgress.model_validate(event.details)
                if progress.stage not in shown:
                    shown[progress.stage] = bars(progress.stage)
                shown[progress.stage](progress.done, progress.total, progress.figures)
            elif event.kind == "problem":
                error_console.print(f"{event.details.get('detail')}", style="yellow", highlight=False, markup=False)
    return client.round(round_id)


def finish(view: RoundView) -> None:
    """Say how a round ended; raises the error that ended it, if one did."""
    if view.record.verdict is not None:
        show_verdict(view.record.verdict)
    if view.problem is not None and view.state == "failed":
        raise error_of_problem(view.problem, view.round_id)
    if view.state != "succeeded":
        raise Cancelled(f"{view.round_id} was {view.state}")
    if view.record.published is not None:
        say(f"{view.round_id} published adapter version {view.record.published.version}")


def _client(url: str | None, run: Path, key: str | None) -> TrainerClient:
    from fashiondpo.clients.trainer import TrainerClient  # loads httpx: not for --help

    return TrainerClient(service_url(url, run, "trainer"), key)
