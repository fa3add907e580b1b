"""`fashiondpo models`: families of models by name, fetched once, checked, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fashiondpo.cli.options import data_folder, mini_assets, model_cache
from fashiondpo.cli.show import console, progress_bars, say
from fashiondpo.errors import CorruptArtifact, FashionDPOError, NotFound
from fashiondpo.model_cache.lock import LOCK_FILE, read_lock
from fashiondpo.model_cache.places import ModelPlaces
from fashiondpo.model_cache.verifying import verify as verify_place
from fashiondpo.outfits.sources import load_data_set
from fashiondpo.profiles.profile import Profile, find_profile, profile_files
from fashiondpo.run_settings import mode_settings, read_bundle_sampler

if TYPE_CHECKING:
    from fashiondpo.cost.estimate import DiskCost, MemoryCost
    from fashiondpo.model_cache.fetching import FetchPlan

app = typer.Typer(no_args_is_help=True, help="Families of models: list, fetch, verify, and what they cost.")

Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder of fetched models; FASHIONDPO_MODEL_CACHE unless given.")
]
ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile; `fashiondpo models list` names them.")]
Place = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile, or owner/name@revision of a model hub.")]
_MB = 10**6
_GIB = 2**30


class NumberType(StrEnum):
    """Types of weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Mode(StrEnum):
    """Of training."""

    default = "default"
    paper = "paper"


@app.command("list")
def list_(cache: Cache = None) -> None:
    """Profiles, and whether what they need is there."""
    places = _places(cache)
    table = Table(title=f"Profiles; fetched models lie in {places.cache}", title_justify="left")
    for column in ("profile", "pixels", "state", "what it is"):
        table.add_column(column, justify="right" if column == "pixels" else "left")
    for name in profile_files(places.cache):
        profile = find_profile(name, places.cache)
        state = "complete" if not _missing(places, profile) else "not complete"
        table.add_row(name, str(profile.image_size), state, profile.description)
    console.print(table)


@app.command()
def show(name: ProfileName, cache: Cache = None) -> None:
    """A profile's file, and what of it is missing."""
    places = _places(cache)
    profile = find_profile(name, places.cache)
    say(profile_files(places.cache)[name].read_text().rstrip())
    lock = read_lock(places.cache)
    say("")
    for source in profile.sources:
        locked = lock.sources.get(source.place)
        say(f"{source.place}: {f'locked at {locked.commit}' if locked else 'not fetched'}")
    missing = _missing(places, profile)
    for problem in missing:
        say(f"missing: {problem}")
    if not missing:
        say("Everything is there.")
    if profile.judges.embeddings is not None and places.embeddings_if_made(name) is None:
        try:
            places.embeddings(name)
        except NotFound as error:
            say(f"note: {error}; without them judges compute the features of all items at every start")


@app.command()
def fetch(
    place: Place,
    cache: Cache = None,
    pin: Annotated[
        bool, typer.Option("--pin", help="Take today's commit for a revision that is none, and lock it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before downloading.")] = False,
    data_place: Annotated[
        str | None, typer.Option("--data", help="Data set whose category names the bundle gets: 'mini', or a folder.")
    ] = None,
) -> None:
    """Download what a profile needs, once, check every digest, and convert it. Interrupted, it goes on where it was."""
    from fashiondpo.model_cache.fetching import ModelFetcher
    from fashiondpo.model_cache.hub import HuggingFaceHub

    places = _places(cache)
    fetcher = ModelFetcher(places, HuggingFaceHub())
    categories = None if data_place is None else load_data_set(data_folder(data_place)).categories
    plan = fetcher.plan(place, pin=pin)
    _show_plan(plan)
    if plan.has_downloads and not yes:
        typer.confirm("Download?", abort=True)
    with progress_bars() as bars:
        done = fetcher.fetch(plan, categories=categories, on_download=bars("download, MiB"), on_convert=bars("convert"))
    if done.bundle is not None:
        say(f"{'Wrote' if done.is_new_bundle else 'Left as it was:'} {done.bundle}")
    for warning in done.warnings:
        say(f"note: {warning}")
    if plan.listings:
        say(f"Commits and digests are in {places.cache / LOCK_FILE}")
    elif done.bundle is None or not done.is_new_bundle:
        say("Nothing had to be fetched.")
    if (profile := places.profile(place)) is not None:
        for problem in _missing(places, profile):
            say(f"still missing: {problem}")


@app.command()
def verify(place: Place, cache: Cache = None) -> None:
    """Compare every fetched file with its digest in the lock file."""
    with progress_bars() as bars:
        found = verify_place(_places(cache), place, bars("verify, MiB"))
    if found.problems:
        raise CorruptArtifact(
            f"{len(found.problems)} of {found.files} files are not as {LOCK_FILE} says; delete their folders and fetch "
            "again:\n" + "\n".join(f"  {problem}" for problem in found.problems)
        )
    say(f"{found.files} files, {found.size / _MB:,.1f} MB: all as {LOCK_FILE} says")


@app.command()
def cost(
    name: ProfileName,
    cache: Cache = None,
    outfits: Annotated[int, typer.Option(min=1, help="Of a round.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="That are kept.")] = 5,
    candidates: Annotated[int, typer.Option(min=2, help="Per outfit.")] = 7,
    rows_per_forward: Annotated[int, typer.Option(min=1, help="Candidates that the generator denoises together.")] = 7,
    dtype: Annotated[NumberType, typer.Option(help="Of weights and activations.")] = NumberType.float16,
    mode: Annotated[Mode, typer.Option(help="Of training.")] = Mode.default,
    visits_per_forward: Annotated[
        int | None,
        typer.Option(min=1, help="Of training: outfit-steps in one forward; as the mode has it unless given."),
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", min=0.1, help="Memory of a GPU in GiB, to see what fits.")
    ] = None,
) -> None:
    """What a profile takes in memory and on disk, counted from its shapes; no weights are needed."""
    import torch

    from fashiondpo.cost.architecture import of_bundle, stable_diffusion_2
    from fashiondpo.cost.estimate import disk_cost, memory_cost

    places = _places(cache)
    profile, settings = find_profile(name, places.cache), mode_settings(mode.value).training
    if visits_per_forward is not None:
        settings = settings.model_copy(update={"visits_per_forward": visits_per_forward})
    try:
        architecture = of_bundle(places.bundle(name))
    except NotFound:
        architecture = stable_diffusion_2(image_size=profile.image_size)
    sampler = profile.sampler or read_bundle_sampler(places.bundle(name))
    number: torch.dtype = getattr(torch, dtype.value)
    memory = memory_cost(
        architecture, sampler, settings, dtype=number, rows_per_forward=rows_per_forward, candidates=candidates
    )
    disk = disk_cost(architecture, sampler, dtype=number, candidates=candidates, adapter_numbers=memory.trained_numbers)
    _show_memory(memory, f"{name} in {dtype.value}, mode {mode.value}", gpu_memory)
    _show_disk(disk, outfits, rounds)


def _places(cache: Path | None) -> ModelPlaces:
    return ModelPlaces(cache or model_cache(), mini_assets())


def _missing(places: ModelPlaces, profile: Profile) -> list[str]:
    """What a profile's parts say why they cannot be used; nothing if all are there."""
    found = []
    parts: dict[str, Callable[[str], Path | str]] = {"bundle": places.bundle, "clip": places.clip, "vbpr": places.vbpr}
    if profile.judges.quality.backend != "remote":
        parts["quality"] = places.quality
    for name, find in parts.items():
        try:
            folder = Path(find(profile.name))
            if not folder.exists():
                raise NotFound(f"there is no {folder}")
        except FashionDPOError as error:
            found.append(f"{name}: {error}")
    return found


def _show_plan(plan: FetchPlan) -> None:
    """What comes from where, how large it is, and under which licence."""
    for source, commit in plan.moved:
        say(
            f"note: {source.place} is {commit} by now; {LOCK_FILE} keeps it where it was locked. To take the new one, "
            "delete its entry there"
        )
    if not plan.has_downloads:
        return
    table = Table(title=f"To fetch for {plan.place}", title_justify="left")
    for column in ("repository", "commit", "files", "size, MB", "licence"):
        table.add_column(column, justify="right" if column in ("files", "size, MB") else "left")
    for listing in plan.listings:
        table.add_row(
            listing.source.repo,
            listing.commit[:12],
            str(len(listing.files)),
            f"{listing.size / _MB:,.1f}",
            listing.licence or "not stated",
        )
    console.print(table)
    say(
        f"{plan.download_bytes / _MB:,.1f} MB to download, and at most {plan.convert_bytes / _MB:,.1f} MB for a converted "
        "bundle"
    )


def _show_memory(memory: MemoryCost, title: str, gpu_memory: float | None) -> None:
    table = Table(title=f"Memory of a device: {title}", title_justify="left")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    for name, size in memory.weights.items():
        table.add_row(f"weights: {name.replace('_', ' ')}", _gib(size))
    table.add_section()
    table.add_row(f"a forward of {memory.sampling_rows} rows", _gib(memory.sampling))
    table.add_row("decoding their pictures", _gib(memory.decoding))
    table.add_row("to sample", _told(memory.to_sample, gpu_memory), style="bold")
    table.add_section()
    table.add_row(f"adapter of {memory.trained_numbers:,} numbers, gradient, AdamW", _gib(memory.trained))
    table.add_row(f"forward and backward of {memory.training_rows} rows", _gib(memory.training))
    table.add_row("the same with gradient checkpointing", _gib(memory.checkpointed))
    table.add_row("to train", _told(memory.to_train, gpu_memory), style="bold")
    table.add_row("to train with gradient checkpointing", _told(memory.to_train_checkpointed, gpu_memory), style="bold")
    console.print(table)
    say("Counted tensor by tensor; what CUDA, its libraries and its allocator take comes on top.")
    say(
        "A generator service on a GPU computes in float16 unless told otherwise, training and offline rounds in float32."
    )


def _show_disk(disk: DiskCost, outfits: int, rounds: int) -> None:
    table = Table(title="Disk", title_justify="left")
    table.add_column("what")
    table.add_column("MB", justify="right")
    for what, size in (
        ("the bundle in this type", disk.bundle),
        ("an outfit's trajectory", disk.trajectory),
        ("an outfit's pictures, at most", disk.pictures),
        ("an adapter", disk.adapter),
        ("a training's checkpoint", disk.checkpoint),
        (f"{rounds} rounds of {outfits:,} outfits, at most", disk.of_rounds(outfits, rounds)),
    ):
        table.add_row(what, f"{size / _MB:,.2f}")
    console.print(table)


def _gib(size: int) -> str:
    return f"{size / _GIB:,.3f}"


def _told(size: int, gpu_memory: float | None) -> str:
    if gpu_memory is None:
        return _gib(size)
    return f"{_gib(size)} {'fits' if size <= gpu_memory * _GIB else 'does not fit'}"
