"""Rounds that were run once and are looked at by many tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from fashiondpo.contracts import RoundRecord
from fashiondpo.storage.adapters import FolderAdapters
from fashiondpo.storage.feedback import FolderFeedback
from tests.smoke_assets import SMALL_RUN, UNSEEN_CHANGE
from tests.unit.cli.command_line import CommandLine, Finished, settings_file


@dataclass(frozen=True)
class Run:
    """A run's folder and what each command said, by the name the fixture gave it."""

    folder: Path
    said: dict[str, Finished]

    @property
    def feedback(self) -> FolderFeedback:
        return FolderFeedback(self.folder / "feedback")

    @property
    def adapters(self) -> FolderAdapters:
        return FolderAdapters(self.folder / "adapters")

    def copied(self, folder: Path) -> Run:
        """A copy to change."""
        shutil.copytree(self.folder, folder)
        return Run(folder, {})

    def record(self, index: int = 1) -> RoundRecord:
        return self.feedback.round(f"round-{index:04d}")


@pytest.fixture(scope="session")
def fashiondpo(smoke_assets) -> CommandLine:
    """The command line over the smoke assets."""
    return CommandLine(smoke_assets)


@pytest.fixture(scope="session")
def small_settings(tmp_path_factory) -> Path:
    """A settings file for a round of seconds."""
    return settings_file(tmp_path_factory.mktemp("settings") / "small.json", SMALL_RUN)


@pytest.fixture(scope="session")
def staged(fashiondpo, small_settings, tmp_path_factory) -> Run:
    """A round stage by stage, with commands out of order and repeated ones among them."""
    folder = tmp_path_factory.mktemp("staged")
    in_run = ("--run", folder)
    begin = ("generate", *in_run, "--settings", small_settings)
    commands = {
        "score before anything": ("score", *in_run),
        "generate": begin,
        "generate with another seed": (*begin, "--seed", 5),
        "generate again": begin,
        "pairs too early": ("pairs", *in_run),
        "evaluate too early": ("evaluate", *in_run),
        "score": ("score", *in_run),
        "score again": ("score", *in_run),
        "pairs": ("pairs", *in_run),
        "train": ("train", *in_run),
        "train again": ("train", *in_run),
        "gate": ("gate", *in_run),
        "gate again": ("gate", *in_run),
        "score at the end": ("score", *in_run),
        "evaluate": ("evaluate", *in_run),
    }
    return Run(folder, {name: fashiondpo(*command) for name, command in commands.items()})


@pytest.fixture(scope="session")
def whole(fashiondpo, small_settings, tmp_path_factory) -> Run:
    """The same round by one command."""
    folder = tmp_path_factory.mktemp("whole")
    return Run(folder, {"round": fashiondpo("round", "--run", folder, "--settings", small_settings)})


@pytest.fixture(scope="session")
def two_rounds(fashiondpo, tmp_path_factory) -> Run:
    """Two rounds in one go, both promoted."""
    folder = tmp_path_factory.mktemp("two")
    settings = settings_file(folder / "settings.json", UNSEEN_CHANGE)
    run = folder / "run"
    return Run(run, {"round": fashiondpo("round", "--run", run, "--settings", settings, "--rounds", 2)})
