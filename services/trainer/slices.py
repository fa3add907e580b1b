"""A slice: a worker brings a round forward for a limited time, saves, and lets others have it. No queue in here.

Whoever holds the round's lease works on it, and every write carries the lease: what a late holder writes is refused.
Whatever ends a slice, the next one goes on from what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fashiondpo.errors import LeaseLost
from fashiondpo.pipeline import Stop
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import log, log_context
from services.trainer.heartbeat import Heartbeat
from services.trainer.round_ends import end_round, seconds_since
from services.trainer.round_slice import RoundSlice
from services.trainer.slice_contract import OpenWork, SliceEnd, SliceLimits


def advance(
    round_id: str,
    slice_number: int,
    *,
    stores: Stores,
    open_work: OpenWork,
    limits: SliceLimits,
    holder: str,
    is_draining: Stop = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> SliceEnd:
    """Work on a round for one slice.

    Args:
        round_id: which.
        slice_number: the slice that is due; for another one nothing is done.
        stores: where everything is kept.
        open_work: gives the parts that do the work.
        limits: how long and how often.
        holder: who works, for people to read.
        is_draining: whether the worker is to end; the slice then ends at the next step.
        clock: seconds.

    Raises:
        Unavailable: if the stores do not answer; somebody has to come back later.
    """
    with log_context(round_id=round_id):
        if (end := _nothing_to_do(stores.jobs.get(round_id), slice_number)) is not None:
            return end
        lease = stores.leases.acquire(round_id, holder, limits.lease_s)
        if lease is None:
            return SliceEnd("busy")
        try:
            with Heartbeat(stores.leases, lease, ttl_s=limits.lease_s, clock=clock) as heartbeat:
                # read again: somebody may have worked on it until the lease was ours
                if (end := _nothing_to_do(stores.jobs.get(round_id), slice_number)) is not None:
                    return end
                return RoundSlice(round_id, stores.fenced(lease), heartbeat, limits, is_draining, clock).run(open_work)
        except LeaseLost as error:
            log().warning("slice lost its lease", reason=str(error))
            return SliceEnd("lost")


def cancel(round_id: str, stores: Stores, *, holder: str, lease_s: float) -> RoundJob:
    """Have a round stop: at once if nobody works on it, else at its worker's next step.

    Raises:
        NotFound: if there is no such round.
    """
    job = stores.jobs.request_cancel(round_id)
    lease = None if job.is_finished else stores.leases.acquire(round_id, holder, lease_s)
    if lease is None:
        return job
    try:
        fenced = stores.fenced(lease)
        if not fenced.jobs.get(round_id).is_finished:
            end_round(round_id, fenced, "cancelled")
        return fenced.jobs.get(round_id)
    finally:
        stores.leases.release(lease)


def _nothing_to_do(job: RoundJob, slice_number: int) -> SliceEnd | None:
    if job.is_finished or job.slice_number != slice_number:
        return SliceEnd("stale")
    if job.not_before is not None and seconds_since(job.not_before) < 0 and not job.is_cancel_requested:
        return SliceEnd("wait")
    return None
