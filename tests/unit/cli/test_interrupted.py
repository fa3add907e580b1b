"""Rounds whose process is killed, and that go on."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from fashiondpo.contracts import RoundRecord
from fashiondpo.storage.adapters import FolderAdapters
from fashiondpo.storage.feedback import FolderFeedback
from fashiondpo.training.metrics import read_metrics
from tests.smoke_assets import SMALL_RUN
from tests.unit.cli.command_line import Finished, settings_file

OUTFITS = 27
"""Painted in four batches, so that a kill after the first finds work undone."""

ROUND = "round-0001"


@dataclass(frozen=True)
class Interrupted:
    """What was there after each interruption, and in the end.

    Attributes:
        folder: of the run.
        stopped: what Ctrl-C made the process say.
        sets: candidate sets that were there after Ctrl-C, and after the kill while collecting.
        stages: at which the round was after each interruption.
        trained: updates that were done when the process was killed while training.
        untouched: a copy of the folder as it was then, without the training.
        last: what the command said that brought the round to its end.
    """

    folder: Path
    stopped: Finished
    sets: tuple[tuple[str, ...], tuple[str, ...]]
    stages: tuple[str, ...]
    trained: int
    untouched: Path
    last: Finished


@pytest.fixture(scope="module")
def interrupted(fashiondpo, tmp_path_factory) -> Interrupted:
    base = tmp_path_factory.mktemp("interrupted")
    folder, untouched = base / "run", base / "untouched"
    settings = settings_file(base / "settings.json", SMALL_RUN.model_copy(update={"outfits": OUTFITS}))
    command = ("round", "--run", folder, "--settings", settings)
    feedback, metrics = FolderFeedback(folder / "feedback"), folder / "training" / ROUND

    def sets() -> tuple[str, ...]:
        return feedback.set_ids(ROUND) if (folder / "feedback" / "sets").exists() else ()

    stopped = fashiondpo.stopped(*command, when=lambda: len(sets()) > 0, by=signal.SIGINT)
    first, stage_after_stop = sets(), feedback.round(ROUND).stage
    fashiondpo.stopped(*command, when=lambda: len(sets()) > len(first), by=signal.SIGKILL)
    second, stage_after_kill = sets(), feedback.round(ROUND).stage
    fashiondpo.stopped(*command, when=lambda: len(read_metrics(metrics)) > 2, by=signal.SIGKILL)
    stages = (stage_after_stop, stage_after_kill, feedback.round(ROUND).stage)
    trained = len(read_metrics(metrics))
    shutil.copytree(folder, untouched)
    shutil.rmtree(untouched / "training")
    return Interrupted(folder, stopped, (first, second), stages, trained, untouched, fashiondpo(*command))


class TestInterruptedRound:
    def test_was_stopped_where_this_test_wants_it(self, interrupted):
        first, second = interrupted.sets
        assert interrupted.stages == ("collect", "collect", "train")
        assert 0 < len(first) < len(second) < OUTFITS
        assert 2 < interrupted.trained < OUTFITS // SMALL_RUN.training.outfits_per_update

    def test_says_how_to_go_on_when_it_is_stopped_by_hand(self, interrupted):
        assert interrupted.stopped.code == 130
        assert "stopped; run the same command again to go on" in interrupted.stopped.err
        assert "Traceback" not in interrupted.stopped.err

    def test_ends_with_exactly_one_adapter(self, interrupted):
        assert interrupted.last.code == 0, interrupted.last.err
        assert FolderAdapters(interrupted.folder / "adapters").versions() == (1,)
        assert record_of(interrupted.folder).stage == "done"

    def test_loses_no_candidate_and_makes_none_twice(self, interrupted):
        kept = FolderFeedback(interrupted.folder / "feedback").set_ids(ROUND)
        assert set(interrupted.sets[0]) < set(interrupted.sets[1]) < set(kept)
        assert len(kept) == len(set(kept)) == OUTFITS

    def test_logs_every_update_once(self, interrupted):
        steps = [row["step"] for row in read_metrics(interrupted.folder / "training" / ROUND)]
        assert steps == list(range(1, len(steps) + 1))

    def test_learns_what_an_undisturbed_training_learns(self, fashiondpo, interrupted):
        fashiondpo.well("train", "--run", interrupted.untouched)
        assert record_of(interrupted.untouched).trained.weights == record_of(interrupted.folder).trained.weights


def record_of(folder: Path) -> RoundRecord:
    return FolderFeedback(folder / "feedback").round(ROUND)
