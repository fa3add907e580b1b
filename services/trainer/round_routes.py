"""POST /train and /rounds: translate, call, return. Logic: opening.py, slices.py."""

from __future__ import annotations

import hashlib
import socket
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fashiondpo.messages import RoundPage, RoundView
from fashiondpo.run_settings import TrainRequest
from fashiondpo.serving.idempotency import IdempotencyKey, json_response
from fashiondpo.serving.keys import Caller, requires
from fashiondpo.storage.jobs import RoundJob, event_place
from fashiondpo.telemetry import log
from services.trainer.opening import open_ordered_round, order_round
from services.trainer.parts import TrainerParts
from services.trainer.round_events import RoundEvents
from services.trainer.round_views import page_of_views, view_of
from services.trainer.slices import cancel

RoundId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "RoundEvent objects."}
}


def round_router(parts: TrainerParts) -> APIRouter:
    """The routes of rounds."""
    router = APIRouter(tags=["rounds"])

    @router.post(
        "/train",
        status_code=202,
        response_model=RoundView,
        responses={202: {"model": RoundView, "description": "Accepted; `Location` says where to look for the round."}},
    )
    async def train(
        body: TrainRequest,
        request: Request,
        caller: Annotated[Caller, Depends(requires("train"))],
        key: IdempotencyKey = None,
    ) -> Response:
        """Start a round. It is checked against what there is, recorded, and queued for a worker."""

        async def work() -> Response:
            view = await run_in_threadpool(_opened, parts, body, caller, key)
            return json_response(view, 202, {"Location": f"/rounds/{view.round_id}"})

        return await parts.once.answer(key, request, caller, body, work)

    @router.get("/rounds", dependencies=[Depends(requires("read"))])
    def rounds(
        cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Rounds on the page.")] = 20,
    ) -> RoundPage:
        """Rounds, newest first, a page at a time."""
        return page_of_views(parts.stores, cursor, limit)

    @router.get("/rounds/{round_id}", dependencies=[Depends(requires("read"))])
    def round_(round_id: RoundId) -> RoundView:
        """State, progress, record and metrics of a round."""
        return view_of(parts.stores.jobs.get(round_id), parts.stores)

    @router.get(
        "/rounds/{round_id}/events",
        response_class=StreamingResponse,
        responses=_STREAM,
        dependencies=[Depends(requires("read"))],
    )
    def events(
        round_id: RoundId,
        request: Request,
        after: Annotated[
            str,
            Header(alias="Last-Event-ID", max_length=64, description="Only what happened behind this event."),
        ] = "0",
    ) -> StreamingResponse:
        """What happens in the round, as server-sent events: state, stage, progress, verdict and problem, until it ends."""
        parts.stores.jobs.get(round_id)
        event_place(after)
        stream = RoundEvents(
            round_id, after, parts.stores, request.app.state.lifetime.stopping, parts.settings.keepalive_s
        )
        return StreamingResponse(
            aiter(stream),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @router.delete("/rounds/{round_id}", dependencies=[Depends(requires("train"))])
    def cancel_round(round_id: RoundId) -> RoundView:
        """Have a round stop: at once if nobody works on it, else at the next step. What it made is kept."""
        job = cancel(round_id, parts.stores, holder=f"{socket.gethostname()}/api", lease_s=parts.settings.lease_s)
        return view_of(job, parts.stores)

    return router


def _opened(parts: TrainerParts, asked: TrainRequest, caller: Caller, key: str | None) -> RoundView:
    order = order_round(asked, _order_key(caller, key), stores=parts.stores, basis=parts.basis.value)
    job: RoundJob = open_ordered_round(order, stores=parts.stores, queue=parts.queue)
    log().info("round opened", round_id=job.round_id, source=job.source, by=caller.name)
    return view_of(job, parts.stores)


def _order_key(caller: Caller, key: str | None) -> str:
    """Tells one order from another; the same for a request that is repeated after its first answer got lost."""
    return uuid4().hex if key is None else hashlib.sha256(f"{caller.name}/{key}".encode()).hexdigest()
