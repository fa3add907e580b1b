"""POST /feedback: people's votes, one more judge. Logic: fashiondpo/storage/votes.py."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from fashiondpo.messages import FeedbackRequest, FeedbackResponse
from fashiondpo.serving.idempotency import IdempotencyKey, json_response
from fashiondpo.serving.keys import Caller, requires
from fashiondpo.storage.votes import vote_on_set
from services.trainer.parts import TrainerParts


def feedback_router(parts: TrainerParts) -> APIRouter:
    """The route of votes."""
    router = APIRouter(tags=["feedback"])

    @router.post("/feedback", response_model=FeedbackResponse)
    async def feedback(
        body: FeedbackRequest,
        request: Request,
        caller: Annotated[Caller, Depends(requires("generate"))],
        key: IdempotencyKey = None,
    ) -> Response:
        """Count one person's votes on a candidate set; they replace that person's earlier votes on it."""

        async def work() -> Response:
            stores = parts.stores
            return json_response(await run_in_threadpool(vote_on_set, body, stores.votes, stores.feedback))

        return await parts.once.answer(key, request, caller, body, work)

    return router
