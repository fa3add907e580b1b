"""/livez and /readyz: whether the process lives, and whether everything it needs is there.

A readiness check is a function without arguments that returns None if all is well, or what is wrong:

    readiness={"model": loading.problem, "redis": lambda: None if client.ping() else "does not answer"}

What it raises counts as what is wrong; one that takes longer than CHECK_TIMEOUT_S is not ready. Plain functions run in a
worker thread, coroutines on the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool

from fashiondpo.errors import FashionDPOError
from fashiondpo.messages import Readiness
from fashiondpo.telemetry import log

ReadinessCheck = Callable[[], str | None] | Callable[[], Awaitable[str | None]]
CHECK_TIMEOUT_S = 5.0
OK = "ok"


def health_router(checks: Mapping[str, ReadinessCheck]) -> APIRouter:
    """The two routes; `checks` by the name of what is checked, read at every request."""
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": OK}

    @router.get("/readyz", responses={503: {"model": Readiness, "description": "What is missing, by name"}})
    async def readyz(response: Response) -> Readiness:
        """Whether the service can work, and what is missing if it cannot."""
        answers = await asyncio.gather(*(_answer(name, check) for name, check in checks.items()))
        readiness = Readiness(
            is_ready=all(answer == OK for answer in answers), checks=dict(zip(checks, answers, strict=True))
        )
        response.headers["Cache-Control"] = "no-store"
        response.status_code = 200 if readiness.is_ready else 503
        return readiness

    return router


async def _answer(name: str, check: ReadinessCheck) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            wrong = await check() if inspect.iscoroutinefunction(check) else await run_in_threadpool(check)
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except FashionDPOError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding, not a failure of the service
        log().warning("readiness_check_failed", check=name, exc_info=error)
        return f"the check failed: {type(error).__name__}"
    return OK if wrong is None else str(wrong)
