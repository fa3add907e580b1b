"""Upkeep: rounds that nobody holds are queued again; a round starts by itself when enough traffic has come in."""

from __future__ import annotations

from fashiondpo.errors import InvalidInput, LeaseLost, Unavailable
from fashiondpo.run_settings import TrainRequest
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import log
from services.trainer.basis import Basis
from services.trainer.opening import champions_backlog, open_ordered_round, order_round
from services.trainer.queue import SliceQueue
from services.trainer.round_ends import iso_now, seconds_since


def reconcile(stores: Stores, queue: SliceQueue, *, holder: str, requeue_after_s: float, lease_s: float) -> list[str]:
    """Queue again whatever should be worked on and is not: its worker died, its task got lost, its pause is over.

    Args:
        stores: where rounds are kept.
        queue: where slices wait.
        holder: who asks, for people to read.
        requeue_after_s: how long a slice may wait in the queue before it counts as lost.
        lease_s: for the moment in which a round is changed.

    Returns:
        Ids of the rounds that were queued.
    """
    queued = []
    for job in stores.jobs.unfinished():
        try:
            if _is_due(job, requeue_after_s) and (number := _take(job, stores, holder, lease_s)) is not None:
                queue.put(job.round_id, number)
                queued.append(job.round_id)
                log().info("round queued again", round_id=job.round_id, slice=number)
        except LeaseLost:
            continue  # somebody works on it after all
    return queued


def start_if_due(
    asked: TrainRequest,
    *,
    enough: int,
    stores: Stores,
    queue: SliceQueue,
    basis: Basis,
) -> RoundJob | None:
    """Open a round over traffic if enough scored sets wait and no other round is under way.

    Args:
        asked: what the round is asked for.
        enough: how many sets; 0 never starts one.
        stores, queue, basis: as for a round that somebody asks for.

    Returns:
        The round; None if it was not due.
    """
    backlog = champions_backlog(stores) if enough else None
    if backlog is None or backlog.waiting < enough or stores.jobs.unfinished():
        return None
    newest = stores.jobs.page(limit=1).jobs
    # named after the round before it: of two that look at the same moment, both mean the same round
    key = f"continuous-after-{newest[0].number if newest else 0}"
    try:
        order = order_round(asked, key, stores=stores, basis=basis)
    except InvalidInput as error:
        log().warning("no round started", reason=str(error))
        return None
    job = open_ordered_round(order, stores=stores, queue=queue)
    log().info("round started", round_id=job.round_id, sets=backlog.waiting)
    return job


def _is_due(job: RoundJob, requeue_after_s: float) -> bool:
    if job.is_cancel_requested or job.is_in_slice:
        return True
    if job.not_before is not None and seconds_since(job.not_before) < 0:
        return False
    return job.enqueued_at is None or seconds_since(job.enqueued_at) > requeue_after_s


def _take(job: RoundJob, stores: Stores, holder: str, lease_s: float) -> int | None:
    """Note that the round is queued now, unless somebody works on it; returns the slice that is due."""
    lease = stores.leases.acquire(job.round_id, holder, lease_s)
    if lease is None:
        return None

    def queued(found: RoundJob) -> RoundJob:
        # its lease was free while it was in a slice: whoever worked on it is gone
        died = {"attempts": found.attempts + 1, "is_in_slice": False} if found.is_in_slice else {}
        return found.model_copy(update={"enqueued_at": iso_now(), **died})

    try:
        return stores.fenced(lease).jobs.update(job.round_id, queued).slice_number
    except Unavailable:
        return None
    finally:
        stores.leases.release(lease)
