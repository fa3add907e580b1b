"""A whole deployment in processes: Valkey, generator, judges, the trainer's API, beat and workers. All of it tiny."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
from tests.redis_server import ValkeyServer
from tests.service_process import ROOT, ServiceProcess

JUDGES = ("judge_quality", "judge_compat", "judge_personal")
PATIENCE_S = 240.0
"""For a machine that is busy with something else; on a quiet one a round takes a few seconds."""

SMALL = TrainRequest(
    outfits=12,
    candidates=3,
    gate_outfits=8,
    training={"passes": 2, "outfits_per_update": 2, "steps_per_outfit": 2, "checkpoint_every": 1},
    gate={"min_outfits": 2, "min_win_rate_low": 0.0, "min_diversity_ratio": 0.0},
)


class CeleryProcess:
    """`python -m services.trainer worker` or `beat`; a context manager that leaves nothing behind."""

    def __init__(self, role: str, environment: dict[str, str], log_file: Path) -> None:
        self.role, self.environment, self.log_file = role, environment, log_file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer", self.role],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def main(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def child(self) -> psutil.Process:
        """The process that does the work."""
        return eventually(self._child, within_s=PATIENCE_S)

    def _child(self) -> psutil.Process | None:
        for found in self.main.children():
            with suppress(psutil.Error):
                if "billiard.spawn" in " ".join(found.cmdline()) and found.status() != psutil.STATUS_ZOMBIE:
                    return found
        return None

    def kill9(self) -> None:
        """Kill the main process; the kernel kills its child with it."""
        self.main.send_signal(signal.SIGKILL)
        self.ended()

    def terminate(self) -> None:
        self.main.send_signal(signal.SIGTERM)

    def ended(self, *, within_s: float = PATIENCE_S) -> int:
        assert self._process is not None
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


@dataclass
class Deployment:
    """Its parts; a context manager."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)
    workers_started: int = 0

    def __enter__(self) -> Self:
        self.assets = save_tiny_assets(self.folder / "assets")
        self.valkey = self.stack.enter_context(ValkeyServer(self.folder / "valkey"))
        self.generator = self._service("generator", redis_url=self.valkey.url, poll_adapters_s=0.2)
        self.judges = [self._service(name, features_cache=self.folder / "features") for name in JUDGES]
        for service in (self.generator, *self.judges):
            service.start(is_ready=False)
            self.stack.callback(service.stop)
        for service in (self.generator, *self.judges):
            eventually(service.is_ready, within_s=PATIENCE_S)
        self.api = ServiceProcess("trainer", self.trainer_environment(), self.folder / "trainer.log").start()
        self.stack.callback(lambda: self.api.stop())
        self.stack.enter_context(CeleryProcess("beat", self.trainer_environment(), self.folder / "beat.log"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stack.close()

    def _service(self, name: str, **settings: object) -> ServiceProcess:
        known = {"assets": self.assets, "artifacts_url": self.folder / "artifacts"} | settings
        if name == "judge_quality":
            known.pop("features_cache")
        environment = {f"{name.upper()}_{key.upper()}": value for key, value in known.items()}
        return ServiceProcess(name, environment, self.folder / f"{name}.log")

    def trainer_environment(self, *, redis_port: int | None = None, **settings: object) -> dict[str, str]:
        """For API, beat and workers."""
        port = redis_port or self.valkey.port
        known: dict[str, object] = {
            "assets": self.assets,
            "artifacts_url": self.folder / "artifacts",
            "training_folder": self.folder / "training",
            "redis_url": f"redis://127.0.0.1:{port}/0",
            "generator_url": self.generator.url,
            "judge_urls": json.dumps([judge.url for judge in self.judges]),
            "lease_s": 2,
            "reconcile_s": 0.5,
            "requeue_after_s": 3,
            "retry_first_s": 0.3,
            "retry_longest_s": 1,
            "score_traffic_s": 1,
            "sets_per_call": 2,
            "log_form": "json",
            "port": 0,
        }
        own = {f"TRAINER_{name.upper()}": str(value) for name, value in (known | settings).items()}
        return own | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def worker(self, *, redis_port: int | None = None, **settings: object) -> CeleryProcess:
        """A worker that is not started yet."""
        self.workers_started += 1
        environment = self.trainer_environment(redis_port=redis_port, **settings)
        return CeleryProcess("worker", environment, self.folder / f"worker-{self.workers_started}.log")

    @property
    def client(self) -> TrainerClient:
        return TrainerClient(self.api.url)

    @property
    def stores(self) -> Stores:
        return redis_stores(connect(self.valkey.url), FolderArtifacts(self.folder / "artifacts"))

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
