"""Rounds are opened here: checked first, then recorded, then queued. No queue needs to answer for that."""

from __future__ import annotations

from collections.abc import Iterator

from fashiondpo.errors import Conflict, InvalidInput, Unavailable
from fashiondpo.pipeline import open_round
from fashiondpo.run_settings import TrainRequest
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from fashiondpo.storage.traffic import Backlog
from fashiondpo.telemetry import log
from services.trainer.basis import Basis
from services.trainer.orders import RoundOrder, first_record
from services.trainer.queue import SliceQueue
from services.trainer.round_ends import iso_now
from services.trainer.stores import champion_of

MOST_COLLISIONS = 100
"""So many rounds may be opened by others while this one looks for its number."""


def order_round(asked: TrainRequest, key: str, *, stores: Stores, basis: Basis) -> RoundOrder:
    """Check a request against what there is, and say what it means now.

    Args:
        asked: the request.
        key: the same when a client repeats a request, different otherwise.
        stores: champion and recorded traffic.
        basis: held-out outfits and those to learn from, and how the bundle samples.

    Raises:
        InvalidInput: if the round could never be finished.
    """
    settings, sent = asked.run_settings(basis.sampler), asked.model_dump(mode="json", exclude_unset=True)
    basis.data_set.blanks_of("valid", settings.gate_outfits)
    if asked.source == "split":
        basis.data_set.blanks_of("train", settings.outfits)
        return RoundOrder(asked=sent, settings=settings, adapter=champion_of(stores), key=key)
    backlog = champions_backlog(stores)
    waiting = backlog.waiting if backlog is not None else 0
    if backlog is None or waiting < (asked.outfits or 1):
        raise InvalidInput(
            f"{asked.outfits or 'some'} scored sets of the serving adapter were asked for, but {waiting} wait: have "
            "the generator record more (`record`), or learn from the data set (`source`: 'split')"
        )
    settings = settings.model_copy(update={"outfits": min(settings.outfits, waiting)})
    return RoundOrder(asked=sent, settings=settings, adapter=champion_of(stores), made_by=backlog.made_by, key=key)


def champions_backlog(stores: Stores) -> Backlog | None:
    """The largest pile of scored traffic that the champion made with one kind of settings; None if there is none."""
    champion = champion_of(stores)
    return next((b for b in stores.traffic.backlogs() if b.made_by.adapter == champion and b.waiting), None)


def open_ordered_round(order: RoundOrder, *, stores: Stores, queue: SliceQueue) -> RoundJob:
    """Record the round under the next number, then queue its first slice. The same order is opened once.

    If the queue does not answer, the round is found by the reconciler: it counts as opened all the same.

    Raises:
        Unavailable: if the stores do not answer.
    """
    if (found := _found(order, stores)) is not None:
        # whoever opened it has queued it, or died before that: then the reconciler does
        open_round(stores.feedback, first_record(found))
        return found
    job = _numbered(order, stores)
    open_round(stores.feedback, first_record(job))
    stores.jobs.append_event(job.round_id, "state", {"state": job.state})
    try:
        queue.put(job.round_id, job.slice_number)
    except Unavailable as error:
        log().warning("round not queued", round_id=job.round_id, reason=str(error))
    return job


def all_jobs(stores: Stores) -> Iterator[RoundJob]:
    """Every round, newest first."""
    page = stores.jobs.page(limit=1000)
    yield from page.jobs
    while page.next_cursor is not None:
        page = stores.jobs.page(page.next_cursor, 1000)
        yield from page.jobs


def _found(order: RoundOrder, stores: Stores) -> RoundJob | None:
    """The round that an earlier, interrupted attempt has opened for this order."""
    return next((job for job in all_jobs(stores) if job.request.get("key") == order.key), None)


def _numbered(order: RoundOrder, stores: Stores) -> RoundJob:
    newest = stores.jobs.page(limit=1).jobs
    number = newest[0].number + 1 if newest else 1
    for taken in range(MOST_COLLISIONS):
        job = RoundJob(
            round_id=round_name(number + taken),
            source=order.source,
            request=order.model_dump(mode="json"),
            created_at=iso_now(),
            enqueued_at=iso_now(),
        )
        try:
            return stores.jobs.open(job)
        except Conflict:
            continue  # somebody else has opened a round at this moment
    raise Unavailable(f"{MOST_COLLISIONS} rounds were opened by others meanwhile; try again")


def round_name(number: int) -> str:
    """The name of the n-th round, as offline: the number is part of every seed."""
    return f"round-{number:04d}"
