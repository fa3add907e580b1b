"""`Idempotency-Key`: a request that is sent again because its answer was lost is answered again, and not done again.

    @router.post("/train", status_code=202)
    async def train(body: TrainRequest, request: Request, key: IdempotencyKey = None,
                    caller: Caller = Depends(requires("train"))) -> RoundView:
        async def work() -> Response:
            return json_response(await run_in_threadpool(start, body), 202, {"Location": …})

        return await once.answer(key, request, caller, body, work)

`once` is an `Once` over a store of `fashiondpo.storage.idempotency`; in Redis it holds over all replicas.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import Header, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from fashiondpo.errors import Unavailable
from fashiondpo.serving.keys import Caller
from fashiondpo.storage.idempotency import Done, Idempotency, New

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Made up by the client, once per request: whoever sends it again gets the first answer again.",
    ),
]

REPLAYED = "Idempotency-Replayed"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


class Once:
    """Does what is asked under a key once, however often and however concurrently it is asked."""

    def __init__(self, store: Idempotency, *, ttl_s: float = 86_400.0, wait_s: float = 60.0) -> None:
        """Compose.

        Args:
            store: keeps keys and answers.
            ttl_s: how long an answer is kept.
            wait_s: how long a repetition waits for the first to be answered.
        """
        self._store, self._ttl_s, self._wait_s = store, ttl_s, wait_s

    async def answer(
        self,
        key: str | None,
        request: Request,
        caller: Caller,
        body: BaseModel | None,
        work: Callable[[], Awaitable[Response]],
    ) -> Response:
        """The answer to this request: of `work`, or the one that was given before under the same key.

        Args:
            key: None: every request counts by itself.
            request: method and path keep endpoints apart.
            caller: keeps clients apart.
            body: what is asked; the same key for something else is refused.
            work: makes a whole answer. What it raises, and a 5xx, is not kept: the request may be tried again.

        Raises:
            Conflict: if the key was used for something else.
            Unavailable: if the store does not answer, or the first request is still being worked on after `wait_s`.
        """
        if key is None:
            return await work()
        place = f"{request.method} {request.url.path}"
        asked = "" if body is None else body.model_dump_json()
        fingerprint = hashlib.sha256(f"{place}\n{asked}".encode()).hexdigest()
        began = await self._begin(f"{caller.name} {place} {key}", fingerprint)
        if isinstance(began, Done):
            headers = {**began.headers, REPLAYED: "true"}
            return Response(began.body, began.status, headers, media_type=None)
        return await self._work(began, work)

    async def _begin(self, key: str, fingerprint: str) -> New | Done:
        until, pause_s = time.monotonic() + self._wait_s, _FIRST_PAUSE_S
        while True:
            began = await run_in_threadpool(self._store.begin, key, fingerprint, self._ttl_s)
            if isinstance(began, New | Done):
                return began
            if time.monotonic() > until:
                raise Unavailable("the same request is still being worked on; ask again for its answer")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _work(self, new: New, work: Callable[[], Awaitable[Response]]) -> Response:
        is_kept = False
        try:
            response = await work()
            if response.status_code < 500:
                headers = {name: value for name, value in response.headers.items() if name != "content-length"}
                text = bytes(response.body).decode()
                await run_in_threadpool(self._store.finish, new, response.status_code, text, headers)
                is_kept = True
            return response
        finally:
            if not is_kept:
                # shielded, since a client that hangs up cancels us and must not leave the key claimed
                await asyncio.shield(run_in_threadpool(self._store.forget, new))


def json_response(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A message as a whole answer."""
    return Response(body.model_dump_json(), status, dict(headers or {}), media_type="application/json")
