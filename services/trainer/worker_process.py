"""What a worker's child process keeps between tasks. Made when the first task needs it, never at import."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from functools import cache, cached_property
from threading import Event
from types import FrameType

import billiard  # type: ignore[import-untyped]
from celery import Celery

from fashiondpo.serving.tracing import Tracing
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import capture_standard_logging, configure_logging
from services.trainer.basis import Basis, load_basis
from services.trainer.peers import Peers
from services.trainer.queue import ADVANCE, CeleryQueue
from services.trainer.reconcile import reconcile, start_if_due
from services.trainer.retention import Retention, remove_old_rounds
from services.trainer.settings import TrainerSettings
from services.trainer.slice_contract import OpenWork, SliceEnd, SliceLimits
from services.trainer.slices import advance
from services.trainer.stores import open_stores
from services.trainer.traffic_scoring import SCORER, discard_stale_traffic, score_traffic
from services.trainer.worker import celery_app
from services.trainer.worker_metrics import WorkerMetrics

DRAIN = signal.SIGUSR2
"""With this a worker tells its child to save and end the slice; Celery itself only waits for it."""


class WorkerProcess:
    """Settings, stores and models of this process, and the work that tasks ask for."""

    def __init__(self, settings: TrainerSettings) -> None:
        """Nothing is opened yet."""
        self.settings = settings
        self.draining = Event()
        self.metrics = WorkerMetrics()
        self.holder = f"{socket.gethostname()}/{os.getpid()}"
        self._tracing = Tracing("FashionDPO trainer worker", settings.otel_endpoint)
        self._open = ExitStack()

    @cached_property
    def stores(self) -> Stores:
        """Where everything is kept."""
        return open_stores(self.settings)

    @cached_property
    def basis(self) -> Basis:
        """What rounds are checked against."""
        return load_basis(self.settings)

    @cached_property
    def celery(self) -> Celery:
        """The app, to send tasks."""
        return celery_app(self.settings)

    @cached_property
    def queue(self) -> CeleryQueue:
        """Where slices wait."""
        return CeleryQueue(self.celery)

    @cached_property
    def open_work(self) -> OpenWork:
        """The work of rounds, with this process's models."""
        from services.trainer.models import WorkerModels  # loads torch: only where rounds are worked on
        from services.trainer.round_work import RoundWorker

        models = WorkerModels(self.settings)
        models.load()
        worker = RoundWorker(
            models,
            Peers.of(self.settings),
            self.settings.training_folder,
            self.settings.sets_per_call,
            self.settings.artifacts_url,
        )
        return worker.open_work

    def advance(self, round_id: str, slice_number: int) -> SliceEnd:
        """Work on a round for a slice, and queue the next one."""
        open_work = self.open_work  # loaded before there is a lease: that takes long, and lets no other thread run
        started = time.perf_counter()
        ids: dict[str, str | int] = {"round_id": round_id, "slice": slice_number}
        with self._tracing.tracer.start_as_current_span(ADVANCE, attributes=ids):
            end = advance(
                round_id,
                slice_number,
                stores=self.stores,
                open_work=open_work,
                limits=slice_limits(self.settings),
                holder=self.holder,
                is_draining=self.draining.is_set,
            )
        self.metrics.ended(end.kind, time.perf_counter() - started)
        if end.next_slice is not None:
            self.queue.put(round_id, end.next_slice)
        return end

    def reconcile(self) -> list[str]:
        """Queue rounds that nobody holds."""
        settings = self.settings
        return reconcile(
            self.stores,
            self.queue,
            holder=self.holder,
            requeue_after_s=settings.requeue_after_s,
            lease_s=settings.lease_s,
        )

    def score_traffic(self) -> int:
        """Have recorded traffic judged."""
        self.metrics.dropped_sets.inc(discard_stale_traffic(self.stores))
        if not self.stores.traffic.waiting() and not self.stores.traffic.pending(SCORER):
            return 0
        with Peers.of(self.settings).opened() as (_, judges):
            scored = score_traffic(
                self.stores,
                judges,
                holder=self.holder,
                count=self.settings.score_traffic_sets,
                sets_per_call=self.settings.sets_per_call,
                lease_s=self.settings.lease_s,
            )
        self.metrics.scored_sets.inc(scored)
        return scored

    def start_if_due(self) -> str | None:
        """Start a round over traffic, if enough has come in."""
        job = start_if_due(
            self.settings.continuous_request,
            enough=self.settings.continuous_sets,
            stores=self.stores,
            queue=self.queue,
            basis=self.basis,
        )
        return None if job is None else job.round_id

    def remove_old_rounds(self) -> list[str]:
        """Remove rounds that need not be kept any more."""
        settings = self.settings
        return remove_old_rounds(
            self.stores,
            settings.training_folder,
            Retention(settings.keep_rounds, settings.keep_rounds_days),
            holder=self.holder,
            lease_s=settings.lease_s,
        )

    def begin(self) -> None:
        """Once per process, before its first task: logs, traces, the signal to end, figures."""
        configure_logging(level=self.settings.log_level, form=self.settings.log_form)
        capture_standard_logging(level=self.settings.log_level, form=self.settings.log_form)
        signal.signal(DRAIN, self._drain)
        self._open.enter_context(self._tracing.exporting())
        if self.settings.worker_metrics_port is not None:
            self.metrics.serve(self.settings.worker_metrics_port, self.settings.host)

    def end(self) -> None:
        """Once per process, after its last task: what is left of traces is sent."""
        self._open.close()

    def _drain(self, _number: int, _frame: FrameType | None) -> None:
        self.draining.set()


@cache
def worker_process() -> WorkerProcess:
    """The one of this process, with settings from the environment."""
    return WorkerProcess(TrainerSettings())


def drain_children() -> None:
    """In the worker's main process: have the children save and end their slices."""
    for child in billiard.active_children():
        os.kill(child.pid, DRAIN)


def slice_limits(settings: TrainerSettings) -> SliceLimits:
    """Those that the settings name."""
    return SliceLimits(
        slice_s=settings.slice_s,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        retry_first_s=settings.retry_first_s,
        retry_longest_s=settings.retry_longest_s,
        give_up_after_s=settings.give_up_after_s,
    )
