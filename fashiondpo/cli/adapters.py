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
from fashiondpo.contracts import AdapterManifest, AdapterRef, content_digest
from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.messages import AdapterRegistration, AdapterState
from fashiondpo.storage.adapters import FolderAdapters, TrainingFigures
from fashiondpo.storage.records import replace_file

if TYPE_CHECKING:
    from fashiondpo.clients.generator import GeneratorClient

app = typer.Typer(no_args_is_help=True, help="Look at, activate, roll back, give and fetch adapter versions.")

Version = Annotated[int, typer.Argument(help="Adapter version; 0 is the base model.")]
DEFAULT_URL = "http://127.0.0.1:8000"
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
            manifest = _published(client, version)
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
    with _client(url or DEFAULT_URL, key) as client:
        manifest = client.register(registration)
    say(f"{weights} is version {manifest.version}; `fashiondpo adapters activate` makes it the champion")


@app.command()
def fetch(
    version: Annotated[int, typer.Argument(min=1, help="Adapter version of the service.")],
    url: ServiceUrl = None,
    key: ServiceKey = None,
    run: Annotated[
        Path | None, typer.Option(help="Register it in this run's folder, for `evaluate`; it does not serve yet.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="New file for the weights, for `register` and `export`.")] = None,
) -> None:
    """Bring a generator service's version here: its weights as a file, or a version of a run's folder, or both."""
    if run is None and to is None:
        raise InvalidInput("name a run's folder with --run, or a file with --to")
    if to is not None and to.exists():
        raise InvalidInput(f"{to} already exists: choose another name, or move it away")
    with _client(url or DEFAULT_URL, key) as client:
        manifest = _published(client, version)
        content = client.weights(manifest.ref)
    if to is not None:
        replace_file(to, content)
        say(f"Wrote version {version} to {to}, digest {manifest.digest[:12]}")
    if run is not None:
        kept = _keep_fetched(manifest, content, run)
        say(
            f"Version {version} is version {kept.version} in {run}, digest {kept.digest[:12]}: `fashiondpo evaluate "
            f"--run {run} --after {kept.version}` compares it with the base model"
        )


def keep_in_run(
    run: Path, content: bytes, name: str, training: TrainingFigures, *, parent: AdapterRef | None = None
) -> AdapterManifest:
    """Register an adapter of elsewhere in a run's folder, as a version that this run's gate has not seen.

    Args:
        run: made if it is not there.
        content: the adapter's file.
        name: under which it is registered once.
        training: what is known of how it was made.
        parent: the version of this run from which it was trained, if it is one of this run.

    Raises:
        InvalidAdapter: if it is no adapter of this repository.
    """
    from fashiondpo.diffusion.lora import AdapterWeights  # loads torch: not for --help

    weights = AdapterWeights.from_bytes(content)
    return FolderAdapters(run / "adapters").publish(
        content,
        round_id=name,
        base_digest=weights.base_digest,
        parent=parent or AdapterRef(),
        rank=weights.rank,
        targets=weights.targets,
        training=training,
        verdict=None,
    )


def _keep_fetched(manifest: AdapterManifest, content: bytes, run: Path) -> AdapterManifest:
    """The run's version with these weights; made now unless it has them already."""
    registry = FolderAdapters(run / "adapters")
    # by their weights: numbers and rounds' names mean something else at the service
    own = {m.digest: m for m in map(registry.manifest, registry.versions())}
    if manifest.digest in own:
        return own[manifest.digest]
    parent = own.get(manifest.parent.digest or "")
    training = dict(manifest.training) | {
        "fetched_version": manifest.version,
        "fetched_round": manifest.round_id,
        "fetched_parent_version": manifest.parent.version,
    }
    name = f"fetched-{manifest.digest[:12]}"
    return keep_in_run(run, content, name, training, parent=None if parent is None else parent.ref)


def _published(client: GeneratorClient, version: int) -> AdapterManifest:
    found = {m.version: m for m in client.adapters().versions}
    if version not in found:
        there = ", ".join(map(str, found)) or "none"
        raise NotFound(f"there is no adapter version {version}; published: {there}")
    return found[version]


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
