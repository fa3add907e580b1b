"""`fashiondpo up`, and how the other commands find the services."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fashiondpo.cli.options import (
    BundlePlace,
    DataPlace,
    Device,
    JudgesPlace,
    Quality,
    lasting,
    mini_assets,
    model_cache,
)
from fashiondpo.clients.addresses import read_addresses
from fashiondpo.errors import InvalidInput
from fashiondpo.quality_backend import QualityBackend
from fashiondpo.run_settings import MINI_ASSETS

ServiceUrl = Annotated[str | None, typer.Option("--url", help="Address of the service, e.g. http://127.0.0.1:8000.")]
ServiceKey = Annotated[
    str | None,
    typer.Option("--key", envvar="FASHIONDPO_API_KEY", show_envvar=True, help="API key, if the service wants one."),
]
ServicesRun = Annotated[Path, typer.Option("--run", help="Folder of embedded services, in place of --url.")]
BasePort = Annotated[
    int, typer.Option(min=0, max=65530, help="The generator's port; the others follow. 0: free ones everywhere.")
]


def up(
    run: Annotated[Path, typer.Option("--run", help="Folder of the run: data, artifacts and logs lie there.")] = Path(
        "runs/up"
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback needs API keys.")
    ] = "127.0.0.1",
    base_port: BasePort = 8000,
    data_place: DataPlace = "mini",
    bundle: BundlePlace = "mini",
    judges: JudgesPlace = "mini",
    quality: Quality = None,
    device: Device = "cpu",
) -> None:
    """Start everything on this machine: Valkey, generator, three judges, trainer and worker. Ctrl-C stops it."""
    sys.stdout.flush()
    command = embedded_command(
        run,
        host=host,
        base_port=base_port,
        data_place=data_place,
        bundle=bundle,
        judges=judges,
        quality=quality,
        device=device,
    )
    # it takes this process's place, so that signals and exit code are its own
    os.execv(command[0], command)


def embedded_command(
    run: Path,
    *,
    host: str = "127.0.0.1",
    base_port: int = 8000,
    data_place: str = "mini",
    bundle: str = "mini",
    judges: str = "mini",
    quality: str | None = None,
    device: str = "cpu",
) -> list[str]:
    """The command line of the embedded services; arguments as `fashiondpo up` has them."""
    assets = mini_assets()
    places = {"data-set": (data_place, "catalogue"), "bundle": (bundle, "bundle"), "judges": (judges, "judges")}
    options = {"run": str(run), "host": host, "base-port": str(base_port), "device": device}
    options["model-cache"] = str(model_cache().absolute())
    if quality is not None:
        options["quality"] = QualityBackend.parse(quality).text()
    for name, (place, within) in places.items():
        if place == "mini":
            options[name] = "mini" if assets == MINI_ASSETS else str((assets / within).absolute())
        else:
            options[name] = str(Path(place).absolute()) if name == "data-set" else lasting(place)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "services.embedded", *words]


def service_url(url: str | None, run: Path, name: str) -> str:
    """The address that was given, or that of the embedded services in the folder.

    Raises:
        Unavailable: if none was given, and no services run there.
        InvalidInput: if a service of that name does not exist.
    """
    if url is not None:
        return url
    services = read_addresses(run).services
    if name not in services:
        raise InvalidInput(f"there is no service {name!r}; there are {', '.join(services)}")
    return services[name]
