"""Training by several processes: the job that they share, each of them, and whoever starts and watches them.

<training folder>/checkpoint.safetensors, metrics.jsonl   as of a training in one process; either can go on from the other
<training folder>/processes/job.json                      what is trained
<training folder>/processes/progress.jsonl                what the main process has done, a line per update
<training folder>/processes/memory.txt                    what each of them will need
<training folder>/processes/stop                          somebody wants all of them to save and end
<training folder>/processes/failure-0001.json             why a process could not go on
<training folder>/processes/adapter.safetensors           what came of it
<training folder>/processes/logs/                         what each of them wrote
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import Field

from fashiondpo.clients.problems import error_of_problem
from fashiondpo.contracts import AdapterRef, ArtifactRef, CandidateSet, Frozen, PreferencePair, TrainedAdapter
from fashiondpo.diffusion.lora import AdapterWeights
from fashiondpo.diffusion.model import load_bundle
from fashiondpo.diffusion.trajectory import Trajectory
from fashiondpo.errors import Cancelled, FashionDPOError, InvalidInput, PolicyMismatch, TrainingProcessFailed
from fashiondpo.messages import Problem
from fashiondpo.offline import checked_memory, log_memory, pairs_by_set, trained_adapter
from fashiondpo.storage.adapters import AdapterRegistry
from fashiondpo.storage.artifacts import ArtifactStore, FolderArtifacts
from fashiondpo.telemetry import Progress, no_progress
from fashiondpo.training.config import TrainSettings
from fashiondpo.training.launch import FAILURES_FILE, LOGS_FOLDER
from fashiondpo.training.processes import ANSWER_S, Processes, join_processes, leave_processes
from fashiondpo.training.trainer import PreferenceSet, PreferenceTrainer

PROCESSES_FOLDER, JOB_FILE, PROGRESS_FILE, STOP_FILE = "processes", "job.json", "progress.jsonl", "stop"
ADAPTER_FILE, MEMORY_FILE = "adapter.safetensors", "memory.txt"
SAVE_S = 120.0
"""Processes that were asked to save and end have so long; then they are killed, and the last checkpoint is what is left."""
TAIL_LINES, SHOWN_FAILURES = 15, 3
POLL_S = 0.1


class JobSet(Frozen):
    """An outfit to learn from: its pairs, and where its recorded runs are."""

    set_id: str
    pairs: tuple[tuple[int, int], ...]
    trajectory: ArtifactRef


class TrainingJob(Frozen):
    """What processes need to train together, wherever they run."""

    bundle: str = Field(description="Folder of the base model; every machine has it at the same place.")
    device: str = Field("cpu", description="cpu, or cuda: every process takes one of its machine's devices.")
    artifacts_url: str = Field(description="Where the recorded runs and the parent's weights are.")
    settings: TrainSettings
    parent: AdapterRef = AdapterRef()
    parent_weights: ArtifactRef | None = None
    sets: tuple[JobSet, ...]
    answer_s: float = Field(ANSWER_S, gt=0, description="A process that the others wait for longer is given up.")


def run_process(job_file: Path) -> int:
    """Be one of the processes; returns the exit status."""
    job = TrainingJob.model_validate_json(job_file.read_bytes())
    folder = job_file.parent
    stop = _StopWish(folder / STOP_FILE)
    processes = join_processes(job.device, answer_s=job.answer_s)
    try:
        _train(job, folder, processes, stop)
    except Cancelled:
        pass
    except FashionDPOError as error:
        problem = Problem(title="", status=error.status, detail=str(error), code=error.code)
        (folder / f"failure-{processes.rank:04d}.json").write_text(problem.model_dump_json())
        raise
    leave_processes()
    return 0


def _train(job: TrainingJob, folder: Path, processes: Processes, stop: _StopWish) -> None:
    artifacts = FolderArtifacts(job.artifacts_url)

    def reader(ref: str) -> Callable[[], Trajectory]:
        return lambda: Trajectory.from_bytes(artifacts.get(ref))

    parent = None if job.parent_weights is None else AdapterWeights.from_bytes(artifacts.get(job.parent_weights))
    trainer = PreferenceTrainer(
        load_bundle(Path(job.bundle), device=processes.device),
        [PreferenceSet(s.set_id, s.pairs, reader(s.trajectory)) for s in job.sets],
        job.settings,
        folder.parent,
        parent=parent,
        parent_ref=job.parent,
        processes=processes,
    )

    def tell(done: int, total: int, figures: Mapping[str, float]) -> None:
        if processes.is_main:
            with (folder / PROGRESS_FILE).open("a") as file:
                file.write(json.dumps({"done": done, "total": total, "figures": dict(figures)}) + "\n")

    def tell_memory(needed: str) -> None:
        if processes.is_main:
            (folder / MEMORY_FILE).write_text(needed)

    checked_memory(trainer, tell_memory)
    weights = trainer.run(progress=tell, should_stop=stop)
    if weights is not None and processes.is_main:
        unfinished = folder / f"{ADAPTER_FILE}.unfinished"
        unfinished.write_bytes(weights.to_bytes())
        unfinished.replace(folder / ADAPTER_FILE)


class _StopWish:
    """Whether somebody wants this process to save and end: by a file, or by SIGTERM."""

    def __init__(self, file: Path) -> None:
        self._file, self._is_told = file, False
        signal.signal(signal.SIGTERM, self._told)

    def __call__(self) -> bool:
        return self._is_told or self._file.exists()

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self._is_told = True


@dataclass(frozen=True)
class JointTrainer:
    """Trains by several processes of this machine, with checkpoints under `folder / round_id`; the caller only watches.

    Attributes:
        bundle: folder of the base model.
        base_digest: of that model.
        device: "cpu" or "cuda".
        processes: how many; at most as many as an update has outfits do something.
        artifacts, artifacts_url: the store, and where the processes find it.
        adapters: where the parent's weights are.
        settings, folder, progress, should_stop: as of `LocalTrainer`.
        answer_s: a process that the others wait for longer is given up.
    """

    bundle: Path
    base_digest: str
    device: str
    processes: int
    artifacts: ArtifactStore
    artifacts_url: str
    adapters: AdapterRegistry
    settings: TrainSettings
    folder: Path
    progress: Progress = no_progress
    should_stop: Callable[[], bool] = lambda: False
    answer_s: float = ANSWER_S
    tell_memory: Callable[[str], None] = log_memory

    def train(
        self, round_id: str, sets: Sequence[CandidateSet], pairs: Sequence[PreferencePair], parent: AdapterRef
    ) -> TrainedAdapter:
        """Train to the end, from the last checkpoint if there is one.

        Raises:
            TrainingProcessFailed: if a process dies, or fails in a way that nobody foresaw; shows the end of its log.
            Cancelled: if should_stop said so; the state is saved.
            FashionDPOError: whatever else one of them has raised, as `LocalTrainer.train`.
        """
        job = self._job(sets, pairs, parent)
        if not job.sets:
            raise InvalidInput("there is no preference pair to learn from: score more outfits or lower the margin")
        folder = self.folder / round_id / PROCESSES_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / JOB_FILE).write_text(job.model_dump_json())
        count = min(self.processes, self.settings.outfits_per_update, len(job.sets))
        updates = self._watch(folder, count)
        weights = AdapterWeights.from_bytes((folder / ADAPTER_FILE).read_bytes())
        return trained_adapter(
            weights,
            self.artifacts,
            self.settings,
            {"pairs": len(pairs), "outfits": len(job.sets), "updates": updates, "processes": count},
        )

    def _job(self, sets: Sequence[CandidateSet], pairs: Sequence[PreferencePair], parent: AdapterRef) -> TrainingJob:
        of_set = pairs_by_set(sets, pairs, parent)
        job_sets = []
        for candidate_set in sets:
            if candidate_set.trajectory is None:
                raise InvalidInput(f"{candidate_set.set_id} was generated without recording its trajectory")
            if candidate_set.base_digest != self.base_digest:
                raise PolicyMismatch(
                    f"{candidate_set.set_id} was made by base {candidate_set.base_digest[:12]}, not {self.base_digest[:12]}"
                )
            if of_set[candidate_set.set_id]:
                job_sets.append(
                    JobSet(
                        set_id=candidate_set.set_id,
                        pairs=of_set[candidate_set.set_id],
                        trajectory=candidate_set.trajectory,
                    )
                )
        weights = self.adapters.weights(parent.version) if parent.version else None
        return TrainingJob(
            bundle=str(self.bundle.resolve()),
            device=self.device,
            artifacts_url=self.artifacts_url,
            settings=self.settings,
            parent=parent,
            parent_weights=None if weights is None else self.artifacts.put(weights, "safetensors"),
            sets=tuple(job_sets),
            answer_s=self.answer_s,
        )

    def _watch(self, folder: Path, count: int) -> int:
        """Start the processes and wait for their end; gives the number of updates."""
        done, asked_at, is_memory_told = 0, float("inf"), False
        with _launched(folder, count) as launcher:
            lines = _Lines(folder / PROGRESS_FILE)
            while True:
                is_over = launcher.poll() is not None
                for line in lines.new():
                    if not is_memory_told:
                        self.tell_memory(f"{count} processes, each {(folder / MEMORY_FILE).read_text()}")
                        is_memory_told = True
                    done = int(line["done"])
                    self.progress(done, int(line["total"]), line["figures"])
                if is_over:
                    break
                now = time.monotonic()
                if asked_at == float("inf") and self.should_stop():
                    (folder / STOP_FILE).touch()
                    asked_at = now
                if now - asked_at > SAVE_S:
                    break
                time.sleep(POLL_S)
        if asked_at < float("inf") and not (folder / ADAPTER_FILE).exists():
            raise Cancelled(f"training was stopped after {done} updates")
        if launcher.returncode != 0 or not (folder / ADAPTER_FILE).exists():
            raise _failure(folder, launcher.returncode)
        return done


@contextmanager
def _launched(folder: Path, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher and its processes; none is left afterwards."""
    command = ["-m", "fashiondpo.training.launch", "--processes", str(count), "--parent", str(os.getpid())]
    with (folder / "launcher.log").open("ab") as log:
        launcher = subprocess.Popen(
            [sys.executable, *command, str(folder / JOB_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal is for the caller
        )
    try:
        yield launcher
    finally:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)  # the kernel kills its processes with it
        launcher.wait()


class _Lines:
    """A file that grows, by whole lines."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        with self._file.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


def _failure(folder: Path, status: int) -> FashionDPOError:
    """What went wrong: what a process knows of it, else what it wrote last."""
    for file in sorted(folder.glob("failure-*.json")):
        rank = int(file.stem.removeprefix("failure-"))
        return error_of_problem(Problem.model_validate_json(file.read_bytes()), f"training process {rank}")
    failures = json.loads((folder / FAILURES_FILE).read_text()) if (folder / FAILURES_FILE).exists() else []
    # one that was killed is the cause; those that noticed that it was gone are not
    failures.sort(key=lambda failure: (failure["exit_code"] >= 0, failure["rank"]))
    if not failures:
        tail = _tail(folder / "launcher.log")
        return TrainingProcessFailed(f"the training's processes could not be started (status {status}): {tail}")
    shown = failures[:SHOWN_FAILURES]
    ends = "; ".join(f"training process {failure['rank']} {_end(failure['exit_code'])}" for failure in shown)
    tails = "".join(f"\nThe end of what process {f['rank']} wrote:\n{_tail(Path(f['log']))}" for f in shown)
    return TrainingProcessFailed(f"{ends}. The last checkpoint is kept; all logs are in {folder / LOGS_FOLDER}.{tails}")


def _end(exit_code: int) -> str:
    return f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with {exit_code}"


def _tail(file: Path) -> str:
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return "\n".join(lines[-TAIL_LINES:])


if __name__ == "__main__":
    raise SystemExit(run_process(Path(sys.argv[1])))
