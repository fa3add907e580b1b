"""A service of a few routes, on which everything that services have in common can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import Field

from fashiondpo.contracts import Frozen
from fashiondpo.errors import Cancelled, Conflict, CorruptArtifact, InvalidInput, NotFound, Overloaded, Unavailable
from fashiondpo.serving.app import create_service
from fashiondpo.serving.idempotency import IdempotencyKey, Once, json_response
from fashiondpo.serving.keys import Caller, requires
from fashiondpo.serving.settings import ServingSettings
from fashiondpo.storage.idempotency import MemoryIdempotency
from fashiondpo.telemetry import log
from tests.polling import eventually

READER, PAINTER, TRAINER, CHIEF = (f"{name}-0123456789abcdef" for name in ("reader", "painter", "trainer", "chief"))
KEYS = f"ann:read:{READER} ben:generate:{PAINTER} cleo:train:{TRAINER} dora:admin:{CHIEF}"

ERRORS = {
    "invalid": InvalidInput("no such colour"),
    "missing": NotFound("no such outfit"),
    "conflict": Conflict("another outfit has that name"),
    "overloaded": Overloaded("too many outfits", retry_after_s=2.2),
    "unavailable": Unavailable("the wardrobe does not answer"),
    "cancelled": Cancelled("the outfit was taken back"),
    "corrupt": CorruptArtifact("/data/artifacts/ab is damaged"),
    "bug": RuntimeError("password=hunter2"),
}


class Order(Frozen):
    """What can be ordered."""

    count: int = Field(ge=1, le=9)


def order_router(worked: list[int]) -> APIRouter:
    """Routes of orders; every order that is worked on leaves its count in `worked`."""
    router, once = APIRouter(), Once(MemoryIdempotency())

    @router.post("/orders", status_code=202)
    async def post_order(
        body: Order, request: Request, caller: Annotated[Caller, Depends(requires("train"))], key: IdempotencyKey = None
    ) -> Response:
        async def work() -> Response:
            worked.append(body.count)
            await asyncio.sleep(0.05)  # so that requests sent together meet
            if body.count == 9:
                raise Unavailable("nine are too many today")
            return json_response(Order(count=len(worked)), 202, {"Location": f"/orders/{len(worked)}"})

        return await once.answer(key, request, caller, body, work)

    @router.get("/orders/{number}")
    def get_order(number: int, caller: Annotated[Caller, Depends(requires("read"))]) -> dict[str, str]:
        log().info("order_read", number=number)
        return {"number": str(number), "caller": caller.name}

    @router.post("/paint", dependencies=[Depends(requires("generate"))])
    def paint() -> dict[str, str]:
        return {}

    @router.get("/fails/{name}")
    def fails(name: str) -> None:
        raise ERRORS[name]

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0.001)

        return StreamingResponse(pieces())

    @router.get("/breaks-off")
    async def breaks_off() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"the first half"
            raise RuntimeError("password=hunter2")

        return StreamingResponse(pieces())

    return router


def small_app(worked: list[int] | None = None, **settings: object) -> FastAPI:
    """The service; `settings` of ServingSettings."""
    return create_service(
        title="Orders",
        description="Takes orders.",
        settings=ServingSettings(**settings),  # type: ignore[arg-type]
        routers=[order_router([] if worked is None else worked)],
        readiness={"wardrobe": lambda: None},
    )


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def wait_until_ready(client: TestClient, *, deadline_s: float = 60.0) -> None:
    """Until /readyz says 200."""
    eventually(lambda: client.get("/readyz").status_code == 200, within_s=deadline_s)
