"""Options that commands share, and how they become settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from fashiondpo.contracts import RoundRecord, SamplerSettings
from fashiondpo.errors import DataFileError, InvalidInput, NotFound
from fashiondpo.model_cache.places import DEFAULT_CACHE, ModelPlaces, is_name
from fashiondpo.preferences import PreferenceSettings
from fashiondpo.quality_backend import QualityBackend
from fashiondpo.run_settings import MINI_ASSETS, RunSettings
from fashiondpo.storage.records import first_problem, replace_file
from fashiondpo.training.config import paper_settings

if TYPE_CHECKING:
    from fashiondpo.workspace import Workspace

RunFolder = Annotated[Path, typer.Option("--run", "--out", help="Folder of the run: everything it makes lies there.")]
DataPlace = Annotated[str, typer.Option("--data", help="'mini', or a folder: imported, published index files, mini.")]
BundlePlace = Annotated[
    str, typer.Option("--bundle", help="DiFashion bundle: 'mini', a profile, owner/name@revision, or a folder.")
]
JudgesPlace = Annotated[
    str, typer.Option("--judges", help="'mini', a profile, or a folder with clip/, vbpr/ and quality/.")
]
Quality = Annotated[
    str | None,
    typer.Option(
        help="What judges quality: mini, local:FOLDER, or remote:URL?dialect=…&model=…; see docs/judges.md. Unless given, "
        "as the profile of --judges has it, else mini."
    ),
]
_OWN = "for a folder without a round, such as that of an imported adapter; 'mini' unless given."
OwnData = Annotated[str | None, typer.Option("--data", help=f"Data set, {_OWN}")]
OwnBundle = Annotated[str | None, typer.Option("--bundle", help=f"DiFashion bundle, {_OWN}")]
OwnJudges = Annotated[str | None, typer.Option("--judges", help=f"Judges, {_OWN}")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Outfits = Annotated[int | None, typer.Option(help="Training outfits of a round.")]
Candidates = Annotated[int | None, typer.Option(min=1, help="Candidates per outfit.")]
Processes = Annotated[
    int, typer.Option(min=1, help="That train together, one per device with --device cuda: docs/training-at-scale.md.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of outfits, noise and training.")]
Mode = Annotated[str | None, typer.Option(help="'default', or 'paper' for the published procedure.")]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="JSON file of run settings; see docs/configuration.md.")
]

_RUN_FILE = "run.json"
_GIVEN_WHOLE = ("weights",)
"""Tables that a settings file replaces: to name one judge means that judge alone."""


def mini_assets() -> Path:
    """Where the mini models lie: FASHIONDPO_ASSETS, or the checkout's own."""
    return Path(os.environ.get("FASHIONDPO_ASSETS", MINI_ASSETS))


def model_cache() -> Path:
    """Where fetched models lie: FASHIONDPO_MODEL_CACHE, or a folder of the runs."""
    return Path(os.environ.get("FASHIONDPO_MODEL_CACHE", DEFAULT_CACHE))


def model_places() -> ModelPlaces:
    """Where models lie that go by a name."""
    return ModelPlaces(model_cache(), mini_assets())


def new_workspace(
    folder: Path, data_place: str, bundle: str, judges: str, device: str, *, quality: str | None = None
) -> Workspace:
    """Open a run's folder, and remember its places for the later stages.

    Raises:
        InvalidInput: if the folder belongs to a run with other places, or `quality` is no backend.
        NotFound: if a place is not there.
    """
    places = {"data": data_place if data_place == "mini" else str(Path(data_place).absolute())}
    places |= {"bundle": lasting(bundle), "judges": lasting(judges)}
    path = folder / _RUN_FILE
    found = _read_run(path)["places"] if path.exists() else None
    if quality is not None:
        places["quality"] = QualityBackend.parse(quality).text()
    elif found is not None:
        places["quality"] = found["quality"]
    else:
        places["quality"] = QualityBackend.of_judges(judges, model_places()).text()
    if found is not None and found != places:
        raise InvalidInput(f"{folder} belongs to a run with {found}; choose another folder for {places}")
    workspace = _opened(folder, places, device)
    replace_file(path, json.dumps({"places": places}, indent=2).encode() + b"\n")
    return workspace


def opened_workspace(folder: Path, device: str) -> tuple[Workspace, RoundRecord]:
    """Open the folder of a run that `generate` or `round` has begun; the record is that of its last round.

    Raises:
        NotFound: if there is none.
    """
    path = folder / _RUN_FILE
    workspace = _opened(folder, _read_run(path)["places"], device) if path.exists() else None
    record = workspace.last_round() if workspace is not None else None
    if workspace is None or record is None:
        raise NotFound(f"there is no run in {folder}: begin one with `fashiondpo generate --run {folder}`")
    return workspace, record


def settings_of(record: RoundRecord) -> RunSettings:
    """The settings with which a round was begun.

    Raises:
        InvalidInput: if something else than this command line began it.
    """
    try:
        return RunSettings.model_validate(record.settings)
    except ValidationError as error:
        raise InvalidInput(f"the settings of {record.round_id} are none of a run: {first_problem(error)}") from error


def lasting(place: str) -> str:
    """The place of a model under a name that means the same in whatever folder the next stage is started."""
    return place if is_name(place, model_cache()) else str(Path(place).absolute())


def _opened(folder: Path, places: dict[str, str], device: str) -> Workspace:
    from fashiondpo.workspace import Workspace  # loads torch: not for --help

    return Workspace(
        folder,
        data_place=places["data"],
        bundle_place=places["bundle"],
        judges_place=places["judges"],
        quality=QualityBackend.parse(places["quality"]),
        quality_key=os.environ.get("FASHIONDPO_VLM_API_KEY"),
        mini_assets=mini_assets(),
        model_cache=model_cache(),
        device=device,
    )


def opened_places(folder: Path, data_place: str, bundle: str, device: str) -> Workspace:
    """A folder with data and models, for work that is no round; the run's own places if it has begun one."""
    path = folder / _RUN_FILE
    places = {"data": data_place, "bundle": bundle, "judges": "mini", "quality": "mini"}
    workspace = _opened(folder, _read_run(path)["places"] if path.exists() else places, device)
    folder.mkdir(parents=True, exist_ok=True)
    return workspace


def data_folder(place: str) -> Path:
    """The folder that --data means."""
    return mini_assets() / "catalogue" if place == "mini" else Path(place)


def _read_run(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        # runs of before there was a choice had the mini network
        content["places"] = {"quality": "mini", **content["places"]}
        if set(content["places"]) != {"data", "bundle", "judges", "quality"}:
            raise ValueError("it does not name data, bundle and judges")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataFileError(path, f"is not a run's file: {error}; choose another folder, or delete it") from error
    return dict(content)


def run_settings(
    *,
    file: Path | None = None,
    mode: str | None = None,
    outfits: int | None = None,
    candidates: int | None = None,
    seed: int | None = None,
    report_outfits: int | None = None,
    bundle: str = "mini",
) -> RunSettings:
    """Settings from the mode's defaults, a file, and single options; the later the stronger.

    What a file's `sampler` does not name stays as the bundle has it.

    Raises:
        InvalidInput: if the mode is unknown, or file or options hold a value that cannot be.
    """
    chosen: dict[str, Any] = _mode_settings(mode or "default").model_dump(mode="json")
    if file is not None:
        from_file = read_settings(file)
        if isinstance(from_file.get("sampler"), dict):
            chosen["sampler"] = _bundle_sampler(bundle)
        _merge(chosen, from_file)
    options = {"outfits": outfits, "candidates": candidates, "seed": seed, "report_outfits": report_outfits}
    chosen.update({name: value for name, value in options.items() if value is not None})
    if seed is not None:
        _merge(chosen, {"training": {"seed": seed}})
    try:
        return RunSettings.model_validate(chosen)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise InvalidInput(f"these settings cannot be: {problems}") from error


def _mode_settings(mode: str) -> RunSettings:
    if mode == "paper":
        return RunSettings(training=paper_settings(), preferences=PreferenceSettings(mode="paper"))
    if mode != "default":
        raise InvalidInput(f"unknown mode {mode!r}: choose 'default' or 'paper'")
    return RunSettings()


def read_settings(file: Path) -> dict[str, Any]:
    """The object in a JSON file of settings; raises InvalidInput if there is none."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--settings {file}: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"--settings {file}: expected an object of settings, got {type(content).__name__}")
    return content


def _bundle_sampler(bundle: str) -> dict[str, Any]:
    """Sampler settings of a bundle; the general defaults where it names none, which opening it will find out."""
    path = model_places().bundle(bundle) / "difashion.json"
    own = read_settings(path).get("sampler") if path.exists() else None
    return dict(own) if isinstance(own, dict) else SamplerSettings().model_dump(mode="json")


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key not in _GIVEN_WHOLE:
            _merge(into[key], value)
        else:
            into[key] = value
