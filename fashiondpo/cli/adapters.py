"""`fashiondpo adapters`: the registered adapter versions of a run, or of a generator service."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fashiondpo.cli.options import RunFolder
from fashiondpo.cli.services import ServiceKey, ServiceUrl
from fashiondpo.cli.show import console, say
from fashiondpo.contracts import AdapterManifest, content_digest
from fashiondpo.errors import NotFound
from fashiondpo.messages import AdapterRegistration, AdapterState
from fashiondpo.storage.adapters import FolderAdapters

if TYPE_CHECKING:
    from fashiondpo.clients.generator import GeneratorClient

app = typer.Typer(no_args_is_help=True, help="Look at, activate and roll back adapter versions.")

Version = Annotated[int, typer.Argument(help="Adapter version; 0 is the base model.")]
GeneratorUrl = Annotated[str | None, typer.Option("--url", help="Of a generator service, in place of a run's folder.")]


def _registry(run: Path) -> FolderAdapters:
    if not run.is_dir():
        raise NotFound(f"there is no run in {run}: begin one with `fashiondpo round --run {run}`")
    return FolderAdapters(run / "adapters")


@app.command("list")
def list_(run: RunFolder = Path("runs/default"), url: GeneratorUrl = None, key: ServiceKey = None) -> None:
    """Every version, with its parent and the gate's verdict."""
    if url is not None:
        with _client(url, key) as client:
            state = client.adapters()
        _print_versions(state.versions, state.champion)
        _say_what_serves(state)
        return
    registry = _registry(run)
    _print_versions(map(registry.manifest, registry.versions()), registry.alias("champion"))


@app.command()
def show(
    version: Version, run: RunFolder = Path("runs/default"), url: GeneratorUrl = None, key: ServiceKey = None
) -> None:
    """All that is known of one version."""
    if url is None:
        manifest = _registry(run).manifest(version)
    else:
        with _client(url, key) as client:
            found = {m.version: m for m in client.adapters().versions}
        if version not in found:
            there = ", ".join(map(str, found)) or "none"
            raise NotFound(f"there is no adapter version {version}; published: {there}")
        manifest = found[version]
    console.print_json(manifest.model_dump_json())


@app.command()
def activate(
    version: Version,
    run: RunFolder = Path("runs/default"),
    force: Annotated[bool, typer.Option("--force", help="Even if the gate refused it.")] = False,
    url: GeneratorUrl = None,
    key: ServiceKey = None,
) -> None:
    """Make a version the champion."""
    if url is not None:
        with _client(url, key) as client:
            client.activate(version, is_forced=force)
    else:
        _registry(run).activate(version, is_forced=force)
    say(f"The champion is version {version}")


@app.command()
def rollback(run: RunFolder = Path("runs/default"), url: GeneratorUrl = None, key: ServiceKey = None) -> None:
    """Make the previous champion the champion again."""
    if url is not None:
        with _client(url, key) as client:
            champion = client.rollback().champion
    else:
        champion = _registry(run).rollback()
    say(f"The champion is version {champion}")


@app.command()
def register(
    weights: Annotated[Path, typer.Argument(help="The adapter's safetensors file.", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option(help="Under which the version is registered once.")],
    url: ServiceUrl = None,
    key: ServiceKey = None,
    parent: Annotated[int, typer.Option(min=0, help="The version from which it was trained.")] = 0,
) -> None:
    """Give a generator service a new version; it is verified and kept, but does not serve yet."""
    content = weights.read_bytes()
    registration = AdapterRegistration(
        weights=base64.b64encode(content).decode(),
        digest=content_digest(content),
        round_id=name,
        parent_version=parent,
    )
    with _client(url or "http://127.0.0.1:8000", key) as client:
        manifest = client.register(registration)
    say(f"{weights} is version {manifest.version}; `fashiondpo adapters activate` makes it the champion")


def _print_versions(manifests: Iterable[AdapterManifest], champion: int | None) -> None:
    # without rules between the columns all of it fits into 80
    table = Table(
        "version", "parent", "round", "rank", "verdict", "wins", "digest", "", box=SIMPLE_HEAD, pad_edge=False
    )
    for manifest in manifests:
        verdict = manifest.verdict
        table.add_row(
            str(manifest.version),
            str(manifest.parent.version),
            manifest.round_id,
            str(manifest.rank),
            "none" if verdict is None else ("promoted" if verdict.is_promoted else "refused"),
            "" if verdict is None else f"{verdict.win_rate.mean:.1%}",
            manifest.digest[:8],
            "champion" if manifest.version == champion else "",
        )
    console.print(table)


def _say_what_serves(state: AdapterState) -> None:
    say(f"This generator paints with version {state.active.version}")
    if state.problem is not None:
        say(f"It does not serve the champion: {state.problem}")


def _client(url: str, key: str | None) -> GeneratorClient:
    from fashiondpo.clients.generator import GeneratorClient  # loads httpx: not for --help

    return GeneratorClient(url, key)
