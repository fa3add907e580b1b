"""Stopping a training anywhere changes nothing, and it goes on with nothing but its own data."""

import json
import os
import subprocess
import sys

import pytest
import torch

from fashiondpo.errors import Cancelled, Conflict, DataFileError
from fashiondpo.training.metrics import read_metrics
from fashiondpo.training.trainer import PreferenceTrainer
from tests.tiny_models import saved_tiny_bundle
from tests.tiny_rounds import PAIRS, SETTINGS, changed, preference_sets, same_weights, short_training
from tests.unit.training.small_runs import OBJECTIVES, output, timeless

UPDATES = 8  # of short_training
KILLED_WHILE_IT_READS = """
import os, signal, sys
from pathlib import Path
from tests.tiny_rounds import short_training

reads = 0

def read():
    global reads
    reads += 1
    if reads == 14:
        os.kill(os.getpid(), signal.SIGKILL)

short_training(Path(sys.argv[1]), Path(sys.argv[2]), on_read=read).run()
"""


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    """Saved, so that every process has the same one."""
    folder = tmp_path_factory.mktemp("bundle")
    saved_tiny_bundle(folder)
    return folder


@pytest.fixture
def begin(bundle_folder, tmp_path):
    """Prepares the short training, or picks it up where it was."""
    return lambda: short_training(bundle_folder, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(bundle_folder, tmp_path_factory):
    """The adapter and the metrics of the short training, without any interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    weights = short_training(bundle_folder, folder).run()
    return weights, timeless(folder)


class TestInterruptedRun:
    @pytest.fixture
    def finish(self, begin, tmp_path, uninterrupted):
        """Brings the run to its end, which is to the last bit the one it would have come to at once."""

        def run():
            trainer = begin()
            assert same_weights(trainer.run(), uninterrupted[0])
            assert timeless(tmp_path) == uninterrupted[1]
            assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, UPDATES + 1))

        return run

    @pytest.mark.parametrize("updates", [1, 3, 4])
    def test_goes_on_after_so_many_updates(self, begin, finish, updates):
        trainer = begin()
        assert trainer.run(max_updates=updates) is None
        assert (trainer.updates_done, trainer.is_finished) == (updates, False)
        assert begin().updates_done == updates
        finish()

    def test_goes_on_in_the_same_process(self, begin, uninterrupted):
        trainer = begin()
        found = [trainer.run(max_updates=1) for _ in range(UPDATES)]
        assert found[:-1] == [None] * (UPDATES - 1)
        assert same_weights(found[-1], uninterrupted[0])

    def test_goes_on_after_it_was_told_to_stop(self, begin, finish):
        trainer = begin()
        with pytest.raises(Cancelled, match="stopped after 3 of 8 updates"):
            trainer.run(should_stop=lambda: trainer.updates_done == 3)
        assert begin().updates_done == 3
        finish()

    def test_can_be_stopped_before_its_first_update(self, begin, finish):
        with pytest.raises(Cancelled, match="after 0 of 8"):
            begin().run(should_stop=lambda: True)
        finish()

    def test_goes_on_from_its_checkpoint_after_kill_9(self, repository, bundle_folder, tmp_path, begin, finish):
        # two reads while it is prepared and two per update, so the 14th is the second of the sixth update
        child = subprocess.run(
            [sys.executable, "-c", KILLED_WHILE_IT_READS, str(bundle_folder), str(tmp_path)],
            cwd=repository,
            env=os.environ | {"PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == -9, child.stderr
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
        assert begin().updates_done == 4, "a checkpoint every second update"
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
        finish()

    def test_makes_rows_after_the_checkpoint_again(self, begin, finish, tmp_path):
        begin().run(max_updates=4)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 5, "loss": 0.1}) + "\n" + '{"step": 6, "lo')
        finish()

    def test_makes_no_row_twice_where_earlier_ones_were_lost(self, begin, tmp_path):
        begin().run(max_updates=4)
        rows = read_metrics(tmp_path)
        lost = [rows[0], rows[3], rows[3] | {"step": 5}]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lost))
        begin().run()
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 4, 5, 6, 7, 8]

    def test_gives_its_adapter_again_once_it_is_finished(self, begin, finish):
        begin().run()
        assert begin().is_finished
        finish()


class TestResume:
    @pytest.fixture
    def begun(self, bundle, trajectories, tmp_path):
        """Opens a run in a folder where another one was begun."""
        trainer = PreferenceTrainer(bundle, preference_sets(trajectories), SETTINGS, tmp_path)
        trainer.run(max_updates=2)
        trainer.close()

        def resume(found=trajectories, pairs=PAIRS, settings=SETTINGS):
            return PreferenceTrainer(bundle, preference_sets(found, pairs), settings, tmp_path)

        return resume

    @pytest.mark.parametrize(
        "changes",
        [{"settings": changed(seed=1)}, {"settings": changed(learning_rate=2e-2)}, {"pairs": ((1, 0),)}],
        ids=["seed", "learning rate", "pairs"],
    )
    def test_refuses_the_checkpoint_of_other_data_or_settings(self, begun, changes):
        with pytest.raises(Conflict, match="belongs to a run with other data or settings"):
            begun(**changes)

    def test_refuses_the_checkpoint_of_other_outfits(self, begun, trajectories):
        with pytest.raises(Conflict, match="other data"):
            begun(trajectories[:2])

    def test_may_save_more_often_than_before(self, begun):
        assert begun(settings=changed(checkpoint_every=1)).updates_done == 2

    def test_names_a_damaged_checkpoint(self, begun, tmp_path):
        path = tmp_path / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DataFileError, match=r"checkpoint\.safetensors: the checkpoint is damaged"):
            begun()

    @OBJECTIVES
    def test_leaves_the_base_model_as_it_was_when_it_refuses(
        self, bundle, parent, parent_ref, parent_trajectories, tmp_path, settings
    ):
        before = output(bundle)
        (tmp_path / "checkpoint.safetensors").write_bytes(b"no checkpoint")
        for _ in range(2):
            with pytest.raises(DataFileError):
                PreferenceTrainer(
                    bundle,
                    preference_sets(parent_trajectories),
                    settings,
                    tmp_path,
                    parent=parent,
                    parent_ref=parent_ref,
                )
            assert torch.equal(output(bundle), before)
