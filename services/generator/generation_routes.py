"""POST /generate and /generations: translate, call, wait for as long as the caller does. Logic: generations.py."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from fashiondpo.errors import Forbidden, Unavailable
from fashiondpo.messages import GenerateRequest, Generation
from fashiondpo.serving.idempotency import IdempotencyKey, json_response
from fashiondpo.serving.keys import Caller, requires
from fashiondpo.serving.loading import Loading
from fashiondpo.telemetry import log_context
from services.generator.generation import LiveGeneration
from services.generator.negotiation import prefers_async, wants_events
from services.generator.opened import OpenedGenerator
from services.generator.waiting import Exchange

GenerationId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
_DESCRIBED = "Everything, or its progress as events: progress, set, and at the end done or error."


def generation_router(generator: Loading[OpenedGenerator]) -> APIRouter:
    """The routes of generations."""
    router = APIRouter(tags=["generations"])

    @router.post(
        "/generate",
        response_model=Generation,
        responses={
            200: {"content": _EVENTS, "description": _DESCRIBED},
            202: {"model": Generation, "description": "Accepted; `Location` says where to look for it."},
        },
    )
    async def generate(
        body: GenerateRequest,
        request: Request,
        caller: Annotated[Caller, Depends(requires("generate"))],
        key: IdempotencyKey = None,
        prefer: Annotated[str | None, Header(description="respond-async: answer at once with 202.")] = None,
        accept: Annotated[str | None, Header(description="text/event-stream: tell of the progress.")] = None,
    ) -> Response:
        """Complete outfits. Whoever hangs up stops it, unless it was asked for with `Prefer: respond-async`."""
        _check_scopes(body, caller)
        if request.app.state.lifetime.stopping.is_set():
            raise Unavailable("this generator is stopping; ask another one")
        exchange = Exchange(generator.value, request)
        is_async = prefers_async(prefer)
        begin = partial(generator.value.generations.begin, body, caller, key=key, is_detached=is_async)
        with log_context(**({} if body.round_id is None else {"round_id": body.round_id})):
            found = await run_in_threadpool(begin)
            if is_async:
                return _accepted(found)
            if wants_events(accept):
                return exchange.events(found, is_wanted=True)
            return await exchange.result(found, begin)

    @router.get(
        "/generations/{generation_id}",
        response_model=Generation,
        responses={200: {"content": _EVENTS, "description": _DESCRIBED}},
        dependencies=[Depends(requires("read"))],
    )
    async def generation(
        generation_id: GenerationId,
        request: Request,
        accept: Annotated[str | None, Header(description="text/event-stream: tell of the progress.")] = None,
    ) -> Response:
        """What is there of a generation, or, as events, what happens to it until it ends."""
        found = await run_in_threadpool(generator.value.generations.find, generation_id)
        if wants_events(accept):
            return Exchange(generator.value, request).events(found, is_wanted=False)
        return json_response(_view(found))

    @router.delete("/generations/{generation_id}")
    async def cancel(
        generation_id: GenerationId, request: Request, caller: Annotated[Caller, Depends(requires("generate"))]
    ) -> Generation:
        """Stop a generation within two steps; one that has ended stays as it is."""
        found = await run_in_threadpool(generator.value.generations.cancel, generation_id, caller)
        await Exchange(generator.value, request).stopped(found)
        return _view(found)

    return router


def _check_scopes(body: GenerateRequest, caller: Caller) -> None:
    """Versions and rounds are the trainer's."""
    asked = [name for name in ("adapter_version", "round_id") if getattr(body, name) is not None]
    if asked and not caller.may("train"):
        raise Forbidden(f"the key of {caller.name!r} lacks the scope 'train', which {' and '.join(asked)} needs")


def _view(found: LiveGeneration | Generation) -> Generation:
    return found.view() if isinstance(found, LiveGeneration) else found


def _accepted(found: LiveGeneration | Generation) -> Response:
    view = _view(found)
    headers = {"Location": f"/generations/{view.generation_id}", "Preference-Applied": "respond-async"}
    return json_response(view, 202, headers)
