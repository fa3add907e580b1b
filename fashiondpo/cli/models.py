"""`fashiondpo models`: families of models by name, fetched once, checked, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
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

if TYPE_CHECKING:
    from fashiondpo.model_cache.fetching import FetchPlan

app = typer.Typer(no_args_is_help=True, help="Families of models: list, fetch, verify, and what they cost.")

Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder of fetched models; FASHIONDPO_MODEL_CACHE unless given.")
]
ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile; `fashiondpo models list` names them.")]
Place = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile, or owner/name@revision of a model hub.")]
_MB = 10**6


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
