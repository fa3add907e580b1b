"""Several processes that train one adapter: what comes of it is what one process makes, whatever happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.errors import Cancelled, InvalidInput, NotFound, TrainingProcessFailed
from fashiondpo.joint_training import ADAPTER_FILE, JOB_FILE, PROCESSES_FOLDER
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.training.metrics import read_metrics
from tests.joint_rounds import ACCUMULATED_D3PO, DEFAULT, joint_round
from tests.polling import eventually
from tests.redis_server import free_port
from tests.tiny_rounds import same_weights

ROUND = "round-0001"
OF_EACH_RANK = """
import sys
from pathlib import Path
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.joint_training import TrainingJob
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.training.processes import join_processes, leave_processes
from fashiondpo.training.trainer import PreferenceSet, PreferenceTrainer
from tests.tiny_rounds import shaken

job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_bytes())
folder, shakes = Path(sys.argv[2]), sys.argv[3] == "shakes"
artifacts = FolderArtifacts(job.artifacts_url)
processes = join_processes("cpu", answer_s=60)
sets = [
    PreferenceSet(s.set_id, s.pairs, lambda ref=s.trajectory: Trajectory.from_bytes(artifacts.get(ref))) for s in job.sets
]
trainer = PreferenceTrainer(load_bundle(Path(job.bundle)), sets, job.settings, folder, processes=processes)
if shakes and not processes.is_main:
    shaken(trainer.parameters, 1e-6)
weights = trainer.run()
(folder / f"rank-{processes.rank}.safetensors").write_bytes(weights.to_bytes())
leave_processes()
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    return joint_round(folder, FolderArtifacts(folder / "artifacts"))


def difference(one: AdapterWeights, other: AdapterWeights) -> float:
    """Length of the difference, as a share of the adapter's."""
    first, second = (torch.cat([w.tensors[key].flatten() for key in sorted(w.tensors)]) for w in (one, other))
    return float((first - second).norm() / first.norm())


def running_processes(folder) -> list[psutil.Process]:
    """Launcher and processes that work on this training."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ()) and process.pid != os.getpid()
    ]


def ranks(folder) -> list[psutil.Process]:
    return [p for p in running_processes(folder) if "--is-process" in (p.info["cmdline"] or ())]


@pytest.mark.slow
class TestTwoProcesses:
    @pytest.mark.parametrize("settings", [DEFAULT, ACCUMULATED_D3PO], ids=["default", "accumulated d3po"])
    def test_make_the_adapter_of_one_and_tell_the_same_figures(self, small, tmp_path, settings):
        alone, told = small.alone(settings, tmp_path / "alone"), []
        together = small.together(
            settings, tmp_path / "together", progress=lambda done, total, figures: told.append((done, total))
        )
        # the same gradients, added up in another order: float32 rounding, which Adam carries through four updates
        assert difference(small.weights(alone), small.weights(together)) < 1e-4
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
        rows = [read_metrics(tmp_path / place / ROUND) for place in ("alone", "together")]
        for one, other in zip(*rows, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
            assert other["implicit_accuracy"] == pytest.approx(one["implicit_accuracy"])
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
        assert together.figures == alone.figures | {"processes": 2}
        assert running_processes(tmp_path) == []

    def test_that_any_launcher_has_started_end_with_the_same_bits(self, small, tmp_path, repository):
        assert self._launched(small, tmp_path, repository, "agrees") == [0, 0]
        one, other = ((tmp_path / f"rank-{rank}.safetensors").read_bytes() for rank in (0, 1))
        assert one == other
        assert (
            difference(small.weights(small.alone(DEFAULT, tmp_path / "alone")), AdapterWeights.from_bytes(one)) < 1e-4
        )

    def test_that_accelerate_launch_has_started_make_the_same_adapter(self, small, tmp_path, repository):
        """The command of docs/training-at-scale.md on one machine, whose processes find no GPU and take the CPU."""
        folder = tmp_path / "launched" / PROCESSES_FOLDER
        folder.mkdir(parents=True)
        job = small.trainer(DEFAULT, tmp_path)._job(small.sets, small.pairs, small.sets[0].adapter)
        (folder / JOB_FILE).write_text(job.model_dump_json())
        ended = subprocess.run(
            [
                Path(sys.executable).parent / "accelerate", "launch", "--multi_gpu", "--num_processes", "2",
                "--main_process_port", str(free_port()), "-m", "fashiondpo.joint_training", folder / JOB_FILE,
            ],
            cwd=repository,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        launched = AdapterWeights.from_bytes((folder / ADAPTER_FILE).read_bytes())
        together = small.together(DEFAULT, tmp_path / "together")
        # to the last bit; one process alone adds up in another order
        assert same_weights(launched, small.weights(together))
        assert not same_weights(launched, small.weights(small.alone(DEFAULT, tmp_path / "alone")))

    def test_that_come_to_different_weights_are_found_out(self, small, tmp_path, repository):
        assert 0 not in self._launched(small, tmp_path, repository, "shakes")
        assert "the processes have come to different weights" in (tmp_path / "rank-0.log").read_text()

    def _launched(self, small, folder, repository, mode):
        """Two processes with what `accelerate launch` and `torchrun` put into the environment."""
        job = folder / "job.json"
        trainer = small.trainer(DEFAULT, folder)
        job.write_text(trainer._job(small.sets, small.pairs, small.sets[0].adapter).model_dump_json())
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
        }
        started = []
        for rank in (0, 1):
            with (folder / f"rank-{rank}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-c", OF_EACH_RANK, str(job), str(folder), mode],
                        cwd=repository,
                        env=os.environ
                        | shared
                        | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(repository)},
                        stdout=log,
                        stderr=log,
                    )
                )
        return [process.wait(300) for process in started]

    def test_go_on_from_a_checkpoint_exactly_whoever_made_it(self, small, tmp_path):
        whole = small.weights(small.together(DEFAULT, tmp_path / "whole"))
        done = []
        with pytest.raises(Cancelled, match="stopped after"):
            small.together(
                DEFAULT,
                tmp_path / "halves",
                progress=lambda *told: done.append(told[0]),
                should_stop=lambda: bool(done),
            )
        left = read_metrics(tmp_path / "halves" / ROUND)
        assert 1 <= len(left) < 4
        assert same_weights(small.weights(small.together(DEFAULT, tmp_path / "halves")), whole)
        assert read_metrics(tmp_path / "halves" / ROUND)[: len(left)] == left
        # and one process alone goes on from it as well: it finds the end of the training
        assert same_weights(small.weights(small.alone(DEFAULT, tmp_path / "halves")), whole)


@pytest.mark.slow
class TestTrouble:
    def test_a_process_that_is_killed_ends_the_others_and_the_training_goes_on_from_its_checkpoint(
        self, small, tmp_path
    ):
        killed = []

        def kill_one(done, _total, _figures):
            if not killed:
                killed.extend(ranks(tmp_path))
                killed[-1].send_signal(signal.SIGKILL)

        with pytest.raises(TrainingProcessFailed, match=r"training process \d was ended by signal 9") as caught:
            small.together(DEFAULT.model_copy(update={"passes": 40}), tmp_path, progress=kill_one)
        assert "checkpoint is kept" in str(caught.value) and len(killed) == 2
        eventually(lambda: running_processes(tmp_path) == [])
        before = len(read_metrics(tmp_path / ROUND))
        steps = []
        settings = DEFAULT.model_copy(update={"passes": 40})
        small.together(settings, tmp_path, progress=lambda *told: steps.append(told[0]))
        assert steps[0] in (before, before + 1) and steps[-1] == 80

    def test_a_process_that_hangs_is_given_up_after_its_time(self, small, tmp_path):
        hung = []

        def hang_one(done, _total, _figures):
            if not hung:
                hung.append(ranks(tmp_path)[-1])
                hung[0].suspend()

        with pytest.raises(TrainingProcessFailed, match=r"(?s)training process \d .*(imed out|imeout)"):
            small.together(DEFAULT.model_copy(update={"passes": 40}), tmp_path, progress=hang_one, answer_s=5.0)
        assert running_processes(tmp_path) == []

    def test_what_a_process_finds_wrong_is_raised_as_it_is(self, small, tmp_path):
        broken = small.sets[1].model_copy(update={"trajectory": "0" * 64 + ".safetensors"})
        sets = [small.sets[0], broken, *small.sets[2:]]
        with pytest.raises(NotFound, match=r"training process \d: artifact 000"):
            small.trainer(DEFAULT, tmp_path).train(ROUND, sets, small.pairs, small.sets[0].adapter)

    def test_the_death_of_whoever_watches_is_the_death_of_all(self, small, tmp_path, repository):
        watches = (
            "import sys\n"
            "from pathlib import Path\n"
            "from fashiondpo.joint_training import _launched\n"
            "with _launched(Path(sys.argv[1]), 2) as launcher: launcher.wait()\n"
        )
        folder = tmp_path / ROUND / PROCESSES_FOLDER
        folder.mkdir(parents=True)
        job = small.trainer(DEFAULT.model_copy(update={"passes": 1000}), tmp_path)._job(
            small.sets, small.pairs, small.sets[0].adapter
        )
        (folder / "job.json").write_text(job.model_dump_json())
        watcher = subprocess.Popen(
            [sys.executable, "-c", watches, str(folder)],
            cwd=repository,
            env=os.environ | {"PYTHONPATH": str(repository)},
        )
        eventually((folder / "progress.jsonl").exists, within_s=300)
        assert len(ranks(tmp_path)) == 2
        watcher.kill()
        watcher.wait(20)
        eventually(lambda: running_processes(tmp_path) == [])


class TestJob:
    def test_without_any_pair_starts_nothing(self, small, tmp_path):
        with pytest.raises(InvalidInput, match="no preference pair to learn from"):
            small.trainer(DEFAULT, tmp_path).train(ROUND, small.sets, [], small.sets[0].adapter)
        assert list(tmp_path.iterdir()) == []

    def test_needs_recorded_runs(self, small, tmp_path):
        unrecorded = [s.model_copy(update={"trajectory": None}) for s in small.sets]
        with pytest.raises(InvalidInput, match="without recording its trajectory"):
            small.trainer(DEFAULT, tmp_path).train(ROUND, unrecorded, small.pairs, small.sets[0].adapter)
