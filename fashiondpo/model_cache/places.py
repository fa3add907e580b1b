"""Where models lie on this machine: what a setting names, as a folder. Nothing here asks a network, or loads a model.

A place is 'mini', the name of a profile, owner/name@revision of a model hub, or a folder. A folder with such a name is
written with ./ before it.

    <cache>/hub/<owner>--<name>/<commit>/   as the hub has it
    <cache>/bundles/<name>/                 converted to our layout: of a profile, or <owner>--<name>@<commit>
    <cache>/models.lock.json                commits and digests
    <cache>/profiles/<name>.toml            the operator's own profiles
    <cache>/…                               what the operator brings: where profiles say
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fashiondpo.errors import InvalidInput, NotFound
from fashiondpo.model_cache.lock import read_lock
from fashiondpo.profiles.profile import MINI, HubSource, Profile, QualityChoice, profile_files, read_profile

DEFAULT_CACHE = Path("runs/models")
"""Relative to where a process is started."""
EMBEDDINGS = "embeddings"
"""Folder beside the judges' models that `fashiondpo embed` made for the data set."""


@dataclass(frozen=True)
class JudgePlaces:
    """Folders of the models of judges that run in one process.

    Attributes:
        quality: none if another server runs that model.
        held_out: there for the mini world only.
        embeddings: of the data set's items; none if nobody has made them.
    """

    clip: Path
    vbpr: Path
    quality: Path | None
    held_out: Path
    embeddings: Path | None


def is_name(place: str, cache: Path) -> bool:
    """Whether a place goes by a name, which means the same from whatever folder one asks."""
    return place == MINI or HubSource.of_place(place) is not None or place in profile_files(cache)


@dataclass(frozen=True)
class ModelPlaces:
    """Answers where things lie.

    Attributes:
        cache: folder of fetched models; need not exist while nothing of it is asked for.
        assets: folder of the mini models.
    """

    cache: Path
    assets: Path

    def bundle(self, place: str) -> Path:
        """The folder of a DiFashion bundle.

        Raises:
            NotFound: if it was not fetched; names the command that does.
        """
        if place == MINI:
            return self.assets / "bundle"
        if source := HubSource.of_place(place):
            return self._hub_bundle(source)
        if profile := self.profile(place):
            return self._fetched(self.cache / "bundles" / profile.name, place, profile.sources)
        return Path(place)

    def clip(self, place: str) -> str:
        """The folder of a CLIP model, or the name by which open_clip knows a published one; raises NotFound."""
        if place == MINI:
            return str(self.assets / "judges/clip")
        if source := HubSource.of_place(place):
            return str(self._hub_folder(source))
        if profile := self.profile(place):
            if profile.judges.clip is None:
                return str(self.assets / "judges/clip")
            return str(self._of_profile(profile, profile.judges.clip.source))
        return place

    def vbpr(self, place: str) -> Path:
        """VBPR weights: a folder, or a published file.

        Raises:
            NotFound: if a profile is named and the operator has not put them where it says.
        """
        if place == MINI:
            return self.assets / "judges/vbpr"
        if (profile := self.profile(place)) and profile.judges.vbpr is not None:
            embeddings = self.cache / (profile.judges.embeddings or f"embeddings/{place}")
            return self._brought(
                self.cache / profile.judges.vbpr,
                "VBPR weights",
                f"`fashiondpo train-vbpr --data DATA --embeddings {embeddings} --out {self.cache / profile.judges.vbpr}`",
            )
        return Path(place)

    def embeddings(self, place: str) -> Path:
        """Features of a data set's items that were computed before.

        Raises:
            NotFound: if a profile is named and the operator has not put them where it says.
            InvalidInput: if a profile is named that has no place for them.
        """
        if (profile := self.profile(place)) is None:
            return Path(place)
        if profile.judges.embeddings is None:
            raise InvalidInput(f"profile {place} names no embeddings: leave them out, or name their folder")
        folder = self.cache / profile.judges.embeddings
        return self._brought(folder, "embeddings", f"`fashiondpo embed --data DATA --clip {place} --out {folder}`")

    def embeddings_if_made(self, judges: str) -> Path | None:
        """The same for a place of all judges, and none if there are none: a folder has them below `embeddings`."""
        profile = None if judges == MINI else self.profile(judges)
        if profile is None:
            folder = (self.assets / "judges" if judges == MINI else Path(judges)) / EMBEDDINGS
        elif profile.judges.embeddings is None:
            return None
        else:
            folder = self.cache / profile.judges.embeddings
        return folder if folder.is_dir() else None

    def quality(self, place: str) -> Path:
        """The folder of a quality model that runs in the judge's own process.

        Raises:
            NotFound: if it was not fetched.
            InvalidInput: if a profile is named whose quality model another server runs.
        """
        if place == MINI:
            return self.assets / "judges/quality"
        if source := HubSource.of_place(place):
            return self._hub_folder(source)
        if profile := self.profile(place):
            quality = profile.judges.quality
            if quality.source is not None:
                return self._of_profile(profile, quality.source)
            if quality.backend == "remote":
                raise InvalidInput(
                    f"profile {place} has quality judged by {quality.model}, which a server of yours runs: it is no folder"
                )
            return self.assets / "judges/quality"
        return Path(place)

    def quality_choice(self, place: str) -> QualityChoice:
        """What judges quality where all judges are at this place: a profile's own choice, else the mini network."""
        profile = None if place == MINI else self.profile(place)
        return QualityChoice() if profile is None else profile.judges.quality

    def judges(self, place: str) -> JudgePlaces:
        """The judges' models, where one place stands for all: 'mini', a profile, or a folder with a folder for each.

        Raises:
            NotFound: if a profile lacks one of them.
        """
        folder = self.assets / "judges" if place == MINI else Path(place)
        embeddings = self.embeddings_if_made(place)
        parts = JudgePlaces(folder / "clip", folder / "vbpr", folder / "quality", folder / "held_out", embeddings)
        profile = None if place == MINI else self.profile(place)
        if profile is None:
            return parts
        quality = None if profile.judges.quality.backend == "remote" else self.quality(place)
        return replace(parts, clip=Path(self.clip(place)), vbpr=self.vbpr(place), quality=quality)

    def profile(self, name: str) -> Profile | None:
        """The profile of that name; None if it is another kind of place."""
        file = profile_files(self.cache).get(name)
        return read_profile(file) if file is not None else None

    def commit(self, source: HubSource) -> str | None:
        """The commit that a source stands for; None while nothing says which."""
        if source.is_pinned:
            return source.revision
        locked = read_lock(self.cache).sources.get(source.place)
        return locked.commit if locked else None

    def hub_folder(self, source: HubSource, commit: str) -> Path:
        """Where a source's files lie, or will."""
        return self.cache / "hub" / source.repo.replace("/", "--") / commit

    def hub_folder_of(self, place: str) -> Path:
        """Where the files of owner/name@revision lie.

        Raises:
            InvalidInput: if the place has another form.
            NotFound: if nothing says which commit it is.
        """
        source = HubSource.of_place(place)
        if source is None:
            raise InvalidInput(f"{place!r} is not owner/name@revision")
        commit = self.commit(source)
        if commit is None:
            raise self._not_fetched(place, (source,))
        return self.hub_folder(source, commit)

    def _hub_folder(self, source: HubSource) -> Path:
        commit = self.commit(source)
        if commit is None:
            raise self._not_fetched(source.place, (source,))
        return self._fetched(self.hub_folder(source, commit), source.place, (source,))

    def _of_profile(self, profile: Profile, source: HubSource) -> Path:
        commit = self.commit(source)
        if commit is None:
            raise self._not_fetched(profile.name, profile.sources)
        return self._fetched(self.hub_folder(source, commit), profile.name, profile.sources)

    def _hub_bundle(self, source: HubSource) -> Path:
        folder = self._hub_folder(source)
        if (folder / "difashion.json").exists():  # it came in our layout
            return folder
        return self._fetched(self.cache / "bundles" / hub_bundle_name(source, folder.name), source.place, (source,))

    def _fetched(self, folder: Path, place: str, sources: Sequence[HubSource]) -> Path:
        if not folder.is_dir():
            raise self._not_fetched(place, sources)
        return folder

    def _not_fetched(self, place: str, sources: Sequence[HubSource]) -> NotFound:
        pin = " --pin" if any(self.commit(source) is None for source in sources) else ""
        return NotFound(
            f"{place} is not in the model cache {self.cache}: fetch it once with "
            f"`fashiondpo models fetch {place} --cache {self.cache}{pin}`"
        )

    def _brought(self, path: Path, what: str, made_by: str) -> Path:
        if not path.exists():
            raise NotFound(f"there are no {what} at {path}: put them there; they are made by {made_by}")
        return path


def hub_bundle_name(source: HubSource, commit: str) -> str:
    """Name of the folder of a bundle that was converted from a hub's repository."""
    return f"{source.repo.replace('/', '--')}@{commit}"
