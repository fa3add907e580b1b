"""A whole deployment in processes: Valkey, generator, judges, the trainer's API, beat and workers. All of it tiny."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from fashiondpo.clients.trainer import TrainerClient
from fashiondpo.messages import RoundView
from fashiondpo.run_settings import TrainRequest
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.redis_connection import connect
from fashiondpo.storage.redis_stores import redis_stores
from fashiondpo.storage.stores import Stores
from tests.embedded_run import save_tiny_assets
from tests.polling import eventually
from tests.redis_server import ValkeyServer, free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 400.0
"""For a machine that is busy with something else; on a quiet one a round takes a few seconds."""

SMALL = TrainRequest(
    outfits=12,
    candidates=3,
    gate_outfits=8,
    training={"passes": 2, "outfits_per_update": 2, "steps_per_outfit": 2, "checkpoint_every": 1},
    gate={"min_outfits": 2, "min_win_rate_low": 0.0, "min_diversity_ratio": 0.0, "max_fall": None},
)


class ModuleProcess:
    """`python -m <module> <role>` with its log in a file; a context manager that leaves nothing behind."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
        self.command, self.environment, self.log_file = tuple(command), dict(environment), log_file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def main(self) -> psutil.Process:
        assert self._process is not None, f"{self.command} does not run"
        return psutil.Process(self._process.pid)

    @property
    def is_started(self) -> bool:
        """Whether it was started and its end was not waited for."""
        return self._process is not None

    def kill9(self) -> None:
        """Kill it; the kernel kills a worker's child with it."""
        self.main.send_signal(signal.SIGKILL)
        self.ended()

    def terminate(self) -> None:
        self.main.send_signal(signal.SIGTERM)

    def ended(self, *, within_s: float = PATIENCE_S) -> int:
        """Its exit status, once it has one."""
        assert self._process is not None, f"{self.command} does not run"
        status = self._process.wait(within_s)
        self._process = None
        return status

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            for process in [*self.main.children(recursive=True), self.main]:
                with suppress(psutil.Error):
                    process.kill()
            self.ended()


class HttpProcess(ModuleProcess):
    """A service on a port that stays its own when it is started again."""

    def __init__(self, name: str, settings: Mapping[str, object], log_file: Path) -> None:
        port = free_port()
        known = {"port": port, "log_form": "json"} | dict(settings)
        environment = {f"{name.upper()}_{key.upper()}": str(value) for key, value in known.items()}
        super().__init__([f"services.{name}"], environment, log_file)
        self.url = f"http://127.0.0.1:{port}"

    def wait_until_ready(self) -> None:
        eventually(self._is_ready, within_s=PATIENCE_S)

    def _is_ready(self) -> bool:
        assert self.main.is_running() and self.main.status() != psutil.STATUS_ZOMBIE, self.log()[-3000:]
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False


class WorkerProcess(ModuleProcess):
    """A worker of the trainer."""

    def child(self) -> psutil.Process:
        """The process that does the work."""
        return eventually(self._child, within_s=PATIENCE_S)

    def _child(self) -> psutil.Process | None:
        for found in self.main.children():
            with suppress(psutil.Error):
                if "billiard.spawn" in " ".join(found.cmdline()) and found.status() != psutil.STATUS_ZOMBIE:
                    return found
        return None


@dataclass
class Deployment:
    """Its parts; a context manager. Artifacts are in its folder unless a URL is given."""

    folder: Path
    artifacts_url: str = ""
    stack: ExitStack = field(default_factory=ExitStack)
    workers_started: int = 0
    shared: WorkerProcess | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def _start(self) -> None:
        self.assets = save_tiny_assets(self.folder / "assets")
        self.valkey = self.stack.enter_context(ValkeyServer(self.folder / "valkey"))
        shared = {"assets": self.assets, "artifacts_url": self.artifacts}
        redis = {"redis_url": self.valkey.url, "poll_adapters_s": 0.2}
        features = {"features_cache": self.folder / "features"}
        self.generator = self._service("generator", shared | redis)
        self.judges = [
            self._service("judge_quality", shared),
            self._service("judge_compat", shared | features),
            self._service("judge_personal", shared | features),
        ]
        self.api = self._service("trainer", self.trainer_settings())
        self.beat = ModuleProcess(["services.trainer", "beat"], self.trainer_environment(), self.folder / "beat.log")
        self.stack.enter_context(self.beat)
        for service in (self.generator, *self.judges, self.api):
            service.wait_until_ready()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stack.close()

    def _service(self, name: str, settings: Mapping[str, object]) -> HttpProcess:
        return self.stack.enter_context(HttpProcess(name, settings, self.folder / f"{name}.log"))

    def trainer_settings(self, **settings: object) -> dict[str, object]:
        """For API, beat and workers."""
        known: dict[str, object] = {
            "assets": self.assets,
            "artifacts_url": self.artifacts,
            "training_folder": self.folder / "training",
            "redis_url": self.valkey.url,
            "generator_url": self.generator.url,
            "judge_urls": json.dumps([judge.url for judge in self.judges]),
            "lease_s": 3,
            "reconcile_s": 0.5,
            "requeue_after_s": 3,
            "retry_first_s": 0.3,
            "retry_longest_s": 1,
            "score_traffic_s": 1,
            "sets_per_call": 2,
            "log_form": "json",
        }
        return known | settings

    def worker(self, *, redis_port: int | None = None, **settings: object) -> WorkerProcess:
        """A worker that is not started yet."""
        self.workers_started += 1
        if redis_port is not None:
            settings["redis_url"] = f"redis://127.0.0.1:{redis_port}/0"
        log_file = self.folder / f"worker-{self.workers_started}.log"
        return WorkerProcess(["services.trainer", "worker"], self.trainer_environment(**settings), log_file)

    def shared_worker(self, redis_port: int) -> WorkerProcess:
        """A worker that goes on after a test; started when it is first needed."""
        if self.shared is None:
            self.shared = self.worker(redis_port=redis_port, max_attempts=3).start()
            self.stack.push(self.shared.__exit__)
        return self.shared

    def end_shared_worker(self) -> None:
        """Let it finish what it does, and end."""
        if self.shared is not None:
            self.shared.terminate()
            assert self.shared.ended() == 0
            self.shared = None

    def trainer_environment(self, **settings: object) -> dict[str, str]:
        return {f"TRAINER_{name.upper()}": str(value) for name, value in self.trainer_settings(**settings).items()}

    @property
    def client(self) -> TrainerClient:
        return TrainerClient(self.api.url)

    @property
    def artifacts(self) -> str:
        """Where they are."""
        return self.artifacts_url or str(self.folder / "artifacts")

    @property
    def stores(self) -> Stores:
        return redis_stores(connect(self.valkey.url), FolderArtifacts(self.artifacts))

    @contextmanager
    def artifacts_away(self) -> Iterator[None]:
        """Their folder is somewhere else, as if its disk were no longer mounted; nobody may write beside it."""
        folder, aside = self.folder / "artifacts", self.folder / "artifacts-aside"
        folder.rename(aside)
        try:
            yield
            assert not folder.exists(), "something was written beside what was there"
        finally:
            aside.rename(folder)

    def train(self, **changes: Any) -> str:
        """Start a small round."""
        with self.client as client:
            return client.train(SMALL.model_copy(update=changes)).round_id

    def round(self, round_id: str) -> RoundView:
        with self.client as client:
            return client.round(round_id)

    def ended(self, round_id: str, *, within_s: float = PATIENCE_S) -> RoundView:
        """The round, once nothing more happens in it."""
        eventually(lambda: self.stores.jobs.get(round_id).is_finished, within_s=within_s)
        return self.round(round_id)

    def versions_of(self, round_id: str) -> list[int]:
        """Adapter versions that the round has published."""
        adapters = self.stores.adapters
        return [version for version in adapters.versions() if adapters.manifest(version).round_id == round_id]
