"""Fetches what a profile or a hub's repository needs, once: plan, download into a staging folder, check, move, convert."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiondpo.contracts import SamplerSettings, content_digest
from fashiondpo.errors import Conflict, CorruptArtifact, InvalidInput, NotFound, Unavailable
from fashiondpo.model_cache.digests import files_below, folder_size, locked_files
from fashiondpo.model_cache.hub import Listing, ModelHub
from fashiondpo.model_cache.lock import LockedBundle, LockedFile, LockedSource, ModelLock, read_lock, write_lock
from fashiondpo.model_cache.places import ModelPlaces, hub_bundle_name
from fashiondpo.outfits.model import Category
from fashiondpo.profiles.profile import HubSource, Profile
from fashiondpo.storage.records import exclusive_folder, sync_folder
from fashiondpo.telemetry import Progress, no_progress

STAGING = ".staging"
_MIB = 2**20


@dataclass(frozen=True)
class Conversion:
    """A bundle to be made from what is there.

    Attributes:
        name: of its folder.
        source: the DiFashion weights, or a whole repository.
        base: the Stable Diffusion that brings the other parts; none if the source has them.
        is_legacy: released weights.
        sampler: becomes the bundle's default; none: as the importer has it.
        categories: names by category id; none: as an earlier conversion had them, or not at all.
    """

    name: str
    source: Path
    base: Path | None
    is_legacy: bool
    sampler: SamplerSettings | None
    categories: Mapping[int, Category] | None

    @property
    def categories_digest(self) -> str | None:
        """Of the categories, if they are given."""
        if self.categories is None:
            return None
        named = [(c.category_id, c.name, c.is_paired) for _, c in sorted(self.categories.items())]
        return content_digest(json.dumps(named).encode())

    def recipe(self) -> str:
        """Digest of what it is made from, categories apart; files are told by name, size and time."""
        files = [
            (place.name, path.relative_to(place).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
            for place in (self.source, self.base)
            if place is not None
            for path in files_below(place)
        ]
        sampler = self.sampler.model_dump(mode="json") if self.sampler else None
        return content_digest(json.dumps([files, self.is_legacy, sampler]).encode())


@dataclass(frozen=True)
class FetchPlan:
    """What a fetch would do.

    Attributes:
        place: the profile or repository.
        listings: what has to be downloaded.
        present: sources that are there already, with what the lock says of them.
        moved: sources whose revision is another commit by now than the one that is locked, and which.
        download_bytes: still to be downloaded; parts of an interrupted download are not counted again.
        convert_bytes: what a converted bundle will take, at most.
    """

    place: str
    listings: tuple[Listing, ...]
    present: tuple[tuple[HubSource, LockedSource], ...]
    moved: tuple[tuple[HubSource, str], ...]
    download_bytes: int
    convert_bytes: int

    @property
    def has_downloads(self) -> bool:
        """Whether anything has to come from the hub."""
        return bool(self.listings)


@dataclass(frozen=True)
class Fetched:
    """What a fetch has done: bytes that came from the hub, and the bundle, if one was made now."""

    downloaded_bytes: int
    bundle: Path | None
    is_new_bundle: bool
    warnings: tuple[str, ...] = ()


class ModelFetcher:
    """Fills a model cache from a hub."""

    def __init__(self, places: ModelPlaces, hub: ModelHub, *, free_bytes: Callable[[Path], int] | None = None) -> None:
        """`free_bytes`: of the disk that holds a folder; as the operating system says, unless given."""
        self._places, self._hub = places, hub
        self._free_bytes = free_bytes or (lambda folder: shutil.disk_usage(folder).free)

    def plan(self, place: str, *, pin: bool = False) -> FetchPlan:
        """Find out what has to be done; asks the hub only for what is not there.

        Args:
            place: a profile, or owner/name@revision.
            pin: take the commit of now for a revision that is none and was never locked, and lock it.

        Raises:
            InvalidInput: if the place is neither, or a revision is not pinned and `pin` is not given.
            NotFound: if the hub lacks something, or the operator's weights are not where the profile says.
            Conflict: if the hub has other content under a locked commit.
            Unavailable: if the hub does not answer.
        """
        profile, sources = self._sources(place)
        if profile is not None and profile.weights is not None:
            self._brought_weights(profile)
        lock = read_lock(self._places.cache)
        listings, present, moved = [], [], []
        self._check_pinned(place, sources, pin=pin)
        for source in sources:
            locked = lock.sources.get(source.place)
            if locked is not None and locked.files and self._is_there(source, locked):
                present.append((source, locked))
                continue
            listing = self._hub.listing(source, self._places.commit(source))
            _check_lock(listing, locked)
            listings.append(listing)
        if pin:
            moved = self._moved(sources, lock)
        missing = sum(listing.size - self._staged_bytes(listing) for listing in listings)
        convert = sum(listing.size for listing in listings if _is_converted_from(listing, profile))
        if convert and profile is not None and profile.weights is not None:
            convert += folder_size(self._brought_weights(profile))
        return FetchPlan(place, tuple(listings), tuple(present), tuple(moved), missing, convert)

    def fetch(
        self,
        plan: FetchPlan,
        *,
        categories: Mapping[int, Category] | None = None,
        on_download: Progress = no_progress,
        on_convert: Progress = no_progress,
    ) -> Fetched:
        """Do what the plan says. What was interrupted goes on; what was done before is not done again.

        Args:
            plan: of this cache.
            categories: what a converted bundle can paint, by category id.
            on_download: told in MiB.
            on_convert: told about the networks.

        Raises:
            Unavailable: if the disk has not enough room, before anything is downloaded; or the hub stops answering.
            CorruptArtifact: if a file has another digest than the hub or the lock names.
            InvalidInput: if what was fetched cannot be converted.
        """
        self._places.cache.mkdir(parents=True, exist_ok=True)
        self._check_room(plan)
        with exclusive_folder(self._places.cache / STAGING):
            done = 0
            for listing in plan.listings:
                done = self._download(listing, done, sum(each.size for each in plan.listings), on_download)
            conversion = self._conversion(plan.place, categories)
            if conversion is None:
                return Fetched(plan.download_bytes, None, is_new_bundle=False)
            folder = self._places.cache / "bundles" / conversion.name
            if self._is_converted(conversion, folder):
                return Fetched(plan.download_bytes, folder, is_new_bundle=False)
            warnings = self._convert(conversion, folder, on_convert)
            return Fetched(plan.download_bytes, folder, is_new_bundle=True, warnings=warnings)

    def _sources(self, place: str) -> tuple[Profile | None, Sequence[HubSource]]:
        if source := HubSource.of_place(place):
            return None, (source,)
        if profile := self._places.profile(place):
            return profile, profile.sources
        raise InvalidInput(
            f"{place!r} is neither a profile nor owner/name@revision; `fashiondpo models list` names profiles"
        )

    def _check_pinned(self, place: str, sources: Sequence[HubSource], *, pin: bool) -> None:
        loose = [source.place for source in sources if self._places.commit(source) is None]
        if loose and not pin:
            raise InvalidInput(
                f"{', '.join(loose)} can change under its name: name a commit of 40 digits, or take what it is today with "
                f"`fashiondpo models fetch {place} --cache {self._places.cache} --pin`, which writes it into the lock file"
            )

    def _moved(self, sources: Sequence[HubSource], lock: ModelLock) -> list[tuple[HubSource, str]]:
        """Locked sources whose revision has moved on; the lock stays."""
        found = []
        for source in sources:
            if not source.is_pinned and (locked := lock.sources.get(source.place)):
                now = self._hub.listing(source, None).commit
                if now != locked.commit:
                    found.append((source, now))
        return found

    def _brought_weights(self, profile: Profile) -> Path:
        folder = self._places.cache / (profile.weights or "")
        if not folder.is_dir():
            raise NotFound(
                f"profile {profile.name} needs the DiFashion weights, which are on no hub that is known here: put their "
                f"folder, with unet/ and fashion_encoder/ in it, at {folder} and fetch again"
            )
        return folder

    def _is_there(self, source: HubSource, locked: LockedSource) -> bool:
        folder = self._places.hub_folder(source, locked.commit)
        sizes = {path: (folder / path).stat().st_size for path in locked.files if (folder / path).is_file()}
        return all(sizes.get(path) == file.size for path, file in locked.files.items())

    def _staged(self, listing: Listing) -> Path:
        folder = self._places.hub_folder(listing.source, listing.commit)
        return self._places.cache / STAGING / folder.relative_to(self._places.cache)

    def _staged_bytes(self, listing: Listing) -> int:
        staged = self._staged(listing)
        there = 0
        for file in listing.files:
            for path in (staged / file.path, staged / f"{file.path}.part"):
                if path.is_file():
                    there += min(path.stat().st_size, file.size)
                    break
        return there

    def _check_room(self, plan: FetchPlan) -> None:
        needed = plan.download_bytes + plan.convert_bytes
        free = self._free_bytes(self._places.cache)
        if needed > free:
            raise Unavailable(
                f"{self._places.cache} has {free / _MIB:,.0f} MiB free, {needed / _MIB:,.0f} MiB are needed: "
                f"{plan.download_bytes / _MIB:,.0f} to download, {plan.convert_bytes / _MIB:,.0f} for the converted bundle"
            )

    def _download(self, listing: Listing, done: int, total: int, on_progress: Progress) -> int:
        staged, place = self._staged(listing), listing.source.place
        lock = read_lock(self._places.cache)
        if place not in lock.sources:  # pinned from the first byte on
            write_lock(
                self._places.cache,
                lock.with_source(place, LockedSource(commit=listing.commit, licence=listing.licence)),
            )
        for file in listing.files:
            target, before = staged / file.path, done
            if not (target.is_file() and file.matches(target)):

                def told(length: int, before: int = before) -> None:
                    on_progress((before + length) // _MIB, max(1, total // _MIB), {})

                self._hub.download(listing, file, target, told)
            done += file.size
            on_progress(done // _MIB, max(1, total // _MIB), {})
        files = locked_files(staged, [file.path for file in listing.files])
        self._check_against_lock(listing, files)
        put_in_place(staged, self._places.hub_folder(listing.source, listing.commit))
        entry = LockedSource(commit=listing.commit, licence=listing.licence, files=files)
        write_lock(self._places.cache, read_lock(self._places.cache).with_source(place, entry))
        return done

    def _check_against_lock(self, listing: Listing, files: dict[str, LockedFile]) -> None:
        locked = read_lock(self._places.cache).sources[listing.source.place].files
        if wrong := [path for path, file in locked.items() if files.get(path) != file]:
            raise CorruptArtifact(
                f"{', '.join(wrong[:3])} of {listing.source.place} is not what models.lock.json says; it stays in "
                f"{self._staged(listing)} and is not used"
            )

    def _conversion(self, place: str, categories: Mapping[int, Category] | None) -> Conversion | None:
        profile, sources = self._sources(place)
        if profile is not None:
            if profile.base is None:
                return None
            base = self._fetched_folder(profile.base)
            source = self._brought_weights(profile) if profile.weights else base
            needed = base if profile.weights else None
            return Conversion(profile.name, source, needed, profile.is_legacy, profile.sampler, categories)
        (source_of_hub,) = sources
        folder = self._fetched_folder(source_of_hub)
        is_difashion = (folder / "unet").is_dir() and (folder / "fashion_encoder").is_dir()
        if not is_difashion or (folder / "difashion.json").exists():
            return None
        name = hub_bundle_name(source_of_hub, folder.name)
        return Conversion(name, folder, None, is_legacy=False, sampler=None, categories=categories)

    def _fetched_folder(self, source: HubSource) -> Path:
        return self._places.hub_folder(source, read_lock(self._places.cache).sources[source.place].commit)

    def _is_converted(self, conversion: Conversion, folder: Path) -> bool:
        locked = read_lock(self._places.cache).bundles.get(conversion.name)
        if locked is None or not folder.is_dir() or locked.recipe != conversion.recipe():
            return False
        return conversion.categories_digest in (None, locked.categories)

    def _convert(self, conversion: Conversion, folder: Path, on_progress: Progress) -> tuple[str, ...]:
        """Make the bundle; returns what has to be known of it."""
        from fashiondpo.importing.published import import_folder  # loads torch

        cache = self._places.cache
        staged = cache / STAGING / "bundles" / conversion.name
        shutil.rmtree(staged, ignore_errors=True)
        report = import_folder(
            conversion.source,
            staged,
            base=conversion.base,
            legacy=conversion.is_legacy,
            categories=conversion.categories,
            progress=on_progress,
        )
        if conversion.sampler is not None:
            write_sampler(staged, conversion.sampler)
        files = locked_files(staged, [path.relative_to(staged).as_posix() for path in files_below(staged)])
        put_in_place(staged, folder)
        bundle = LockedBundle(recipe=conversion.recipe(), categories=conversion.categories_digest, files=files)
        write_lock(cache, read_lock(cache).with_bundle(conversion.name, bundle))
        return report.warnings


def _is_converted_from(listing: Listing, profile: Profile | None) -> bool:
    """Whether a bundle is made of these files."""
    if profile is not None:
        return listing.source == profile.base
    return listing.has("unet/config.json") and listing.has("fashion_encoder/config.json")


def _check_lock(listing: Listing, locked: LockedSource | None) -> None:
    """Raise Conflict if the hub names other content than the lock: a commit cannot change."""
    if locked is None or not locked.files:
        return
    named = {file.path: file for file in listing.files}
    for path, was in locked.files.items():
        file = named.get(path)
        if file is None or file.size != was.size or file.sha256 not in (None, was.sha256):
            raise Conflict(
                f"{path} of {listing.source.place} at {listing.commit[:12]} is not what models.lock.json says: the hub has "
                "other content under the same commit. Nothing was fetched"
            )


def write_sampler(bundle: Path, sampler: SamplerSettings) -> None:
    """Make these settings the default of a bundle."""
    path = bundle / "difashion.json"
    own = json.loads(path.read_text()) | {"sampler": sampler.model_dump(mode="json")}
    path.write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n")


def put_in_place(staged: Path, folder: Path) -> None:
    """Move a finished folder to its name; what stood there goes away only then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = staged.with_name(f"{staged.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    os.rename(staged, folder)  # noqa: PTH104 - the same file system, or an error: never a copy
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
