"""Compares a model cache with its lock, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.errors import NotFound
from fashiondpo.model_cache.digests import file_digest
from fashiondpo.model_cache.lock import LockedFile, read_lock
from fashiondpo.model_cache.places import ModelPlaces, hub_bundle_name
from fashiondpo.profiles.profile import HubSource
from fashiondpo.telemetry import Progress, no_progress

_MIB = 2**20


@dataclass(frozen=True)
class Verified:
    """Files that were looked at, and what is wrong with those that are not as the lock says."""

    files: int
    size: int
    problems: tuple[str, ...]


def verify(places: ModelPlaces, place: str, progress: Progress = no_progress) -> Verified:
    """Read every file of a profile, or of a hub's repository, again.

    Raises:
        NotFound: if it was not fetched, or there is no such profile.
    """
    wanted = list(_locked(places, place))
    total, done, problems = sum(file.size for _, file in wanted), 0, []
    for path, file in wanted:
        if problem := _problem(path, file):
            problems.append(f"{path}: {problem}")
        done += file.size
        progress(done // _MIB, max(1, total // _MIB), {})
    return Verified(len(wanted), total, tuple(problems))


def _problem(path: Path, locked: LockedFile) -> str | None:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != locked.size:
        return f"has {size:,} bytes, not {locked.size:,}"
    return None if file_digest(path) == locked.sha256 else "has other content"


def _locked(places: ModelPlaces, place: str) -> Iterator[tuple[Path, LockedFile]]:
    """Everything that the lock says of a place."""
    lock = read_lock(places.cache)
    source = HubSource.of_place(place)
    profile = None if source else places.profile(place)
    if source is None and profile is None:
        raise NotFound(f"there is no profile {place!r}, and it is not owner/name@revision")
    sources = (source,) if source else profile.sources if profile else ()
    names = [profile.name] if profile else []
    for each in sources:
        locked = lock.sources.get(each.place)
        if locked is None or not locked.files:
            raise NotFound(f"{each.place} was not fetched: `fashiondpo models fetch {place} --cache {places.cache}`")
        folder = places.hub_folder(each, locked.commit)
        yield from ((folder / path, file) for path, file in locked.files.items())
        names.append(hub_bundle_name(each, locked.commit))
    for name in names:
        if bundle := lock.bundles.get(name):
            yield from ((places.cache / "bundles" / name / path, file) for path, file in bundle.files.items())
