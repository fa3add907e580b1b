"""`fashiondpo demo`: everything on one machine, once through: before, a round, the gate's verdict, the swap, after."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fashiondpo.cli.options import Candidates, Device, Outfits, Quality, Seed
from fashiondpo.cli.rounds import train_request
from fashiondpo.cli.services import BasePort, embedded_command
from fashiondpo.cli.show import say
from fashiondpo.clients.addresses import Addresses, read_addresses
from fashiondpo.errors import Unavailable

REPORT = "report.html"
_START_S, _STOP_S, _PAUSE_S = 600.0, 180.0, 0.2


def demo(
    run: Annotated[Path, typer.Option("--run", help="Folder of the demo: everything it makes lies there.")] = Path(
        "runs/demo"
    ),
    shown: Annotated[int, typer.Option(min=1, max=24, help="Outfits completed before and after.")] = 6,
    outfits: Outfits = None,
    candidates: Candidates = None,
    gate_outfits: Annotated[int | None, typer.Option(min=1, help="On which the gate decides.")] = None,
    report_outfits: Annotated[int, typer.Option(min=1, help="Test outfits of the report.")] = 120,
    seed: Seed = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="JSON file of the round, like POST /train; options are stronger.")
    ] = None,
    base_port: BasePort = 0,
    quality: Quality = None,
    device: Device = "cpu",
) -> None:
    """Complete outfits, teach the generator over HTTP, let the gate decide, and complete the same outfits again."""
    started = time.perf_counter()
    if (run / REPORT).exists() and (run / "valkey").exists():
        say(f"This demo is finished; its report lies in {run / REPORT}")
        say(f"`fashiondpo up --run {run}` serves what it has learned; delete {run} for a new one.")
        return
    options = {"outfits": outfits, "candidates": candidates, "gate_outfits": gate_outfits, "seed": seed}
    request = train_request(settings_file, options)
    with embedded(run, base_port, device, quality) as addresses:
        from fashiondpo.cli.demonstration import Demonstration  # loads torch: not for --help, nor to refuse a setting

        with Demonstration(run, addresses, request, shown=shown, report_outfits=report_outfits) as demonstration:
            path = demonstration.play()
    say(f"Took {time.perf_counter() - started:.0f} s. The report lies in {path}")


@contextmanager
def embedded(run: Path, base_port: int, device: str, quality: str | None = None) -> Iterator[Addresses]:
    """Inside, the services run on this folder.

    Raises:
        Unavailable: if they do not start; they have said why.
    """
    command = embedded_command(run, base_port=base_port, quality=quality, device=device)
    command += ["--parent", str(os.getpid())]
    # in a session of its own, so that Ctrl-C reaches us alone and we can stop it in peace
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield _once_ready(run, process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _once_ready(run: Path, process: subprocess.Popen[bytes]) -> Addresses:
    limit = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < limit:
        try:
            addresses = read_addresses(run)
        except Unavailable:
            time.sleep(_PAUSE_S)
        else:
            if addresses.pid == process.pid:
                return addresses
            time.sleep(_PAUSE_S)
    raise Unavailable(f"the services did not start; their logs are in {run}/logs")
