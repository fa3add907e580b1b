"""The tasks of the trainer: ids in, one call. What they do is in slices.py, reconcile.py and traffic_scoring.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import shared_task
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown, worker_shutting_down

from fashiondpo.errors import Unavailable
from fashiondpo.telemetry import log
from services.trainer.queue import ADVANCE, RECONCILE, REMOVE_OLD, SCORE_TRAFFIC, START_IF_DUE
from services.trainer.worker_process import drain_children, worker_process


@shared_task(name=ADVANCE)  # type: ignore[untyped-decorator]
def advance_round(round_id: str, slice_number: int) -> None:
    """Work on a round for one slice. Safe to run twice: the second finds the lease held, or the slice done."""
    _tried(ADVANCE, lambda: worker_process().advance(round_id, slice_number), round_id=round_id)


@shared_task(name=RECONCILE)  # type: ignore[untyped-decorator]
def reconcile_rounds() -> None:
    """Queue rounds that nobody holds."""
    _tried(RECONCILE, lambda: worker_process().reconcile())


@shared_task(name=SCORE_TRAFFIC)  # type: ignore[untyped-decorator]
def score_recorded_traffic() -> None:
    """Have recorded traffic judged."""
    _tried(SCORE_TRAFFIC, lambda: worker_process().score_traffic())


@shared_task(name=START_IF_DUE)  # type: ignore[untyped-decorator]
def start_round_if_due() -> None:
    """Start a round over traffic, if enough has come in."""
    _tried(START_IF_DUE, lambda: worker_process().start_if_due())


@shared_task(name=REMOVE_OLD)  # type: ignore[untyped-decorator]
def remove_old_rounds() -> None:
    """Remove rounds that need not be kept any more."""
    _tried(REMOVE_OLD, lambda: worker_process().remove_old_rounds())


def _tried(task: str, work: Callable[[], object], **ids: str) -> None:
    """A store or service that does not answer is nothing to raise: the reconciler, or the next call, comes back to it."""
    try:
        work()
    except Unavailable as error:
        log().warning("task has to wait", task=task, reason=str(error), **ids)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_our_logging(**_: Any) -> None:
    """Celery leaves logging alone where somebody listens to this."""


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin_process(**_: Any) -> None:
    worker_process().begin()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _end_process(**_: Any) -> None:
    worker_process().end()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _end_slices(**_: Any) -> None:
    drain_children()
