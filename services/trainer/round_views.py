"""Rounds as their readers see them: the job and the record put together."""

from __future__ import annotations

from fashiondpo.errors import NotFound
from fashiondpo.messages import RoundPage, RoundView
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from services.trainer.orders import first_record


def view_of(job: RoundJob, stores: Stores, *, has_metrics: bool = True) -> RoundView:
    """Everything there is to say of a round.

    Args:
        job: as stored.
        stores: where its record is.
        has_metrics: with the figures of the training's updates.
    """
    try:
        record = stores.feedback.round(job.round_id)
    except NotFound:
        record = first_record(job)  # opened just now; its record is the next thing to be written
    return RoundView(
        round_id=job.round_id,
        state=job.state,
        source=job.source,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        attempts=job.attempts,
        is_cancel_requested=job.is_cancel_requested,
        problem=job.problem,
        progress=job.progress,
        record=record,
        metrics=job.metrics if has_metrics else (),
    )


def page_of_views(stores: Stores, cursor: str | None, limit: int) -> RoundPage:
    """A page of rounds, newest first, without the figures of their trainings."""
    page = stores.jobs.page(cursor, limit)
    views = tuple(view_of(job, stores, has_metrics=False) for job in page.jobs)
    return RoundPage(rounds=views, next_cursor=page.next_cursor)
