"""The app factory of all services: ids, problems, health, figures, keys, limits, logs and traces around a few routes.

    def create_app(settings: JudgeCompatSettings | None = None) -> FastAPI:
        settings = settings or JudgeCompatSettings()
        parts = Parts(settings)                        # opens nothing yet

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            with parts.open():                         # threads, connections
                yield

        return create_service(
            title="FashionDPO compatibility judge",
            description="…",
            settings=settings,
            routers=[judge_router(parts)],
            lifespan=lifespan,
            readiness={"model": parts.problem, "redis": parts.redis_problem},
        )

What takes long, such as loading a model, belongs in a thread (`fashiondpo.serving.loading`), so that /livez answers and
/readyz says what is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI

from fashiondpo.serving.documentation import documentation_router
from fashiondpo.serving.health import ReadinessCheck, health_router
from fashiondpo.serving.lifetime import Lifetime
from fashiondpo.serving.limits import RateLimits
from fashiondpo.serving.metrics import ServiceMetrics, metrics_router
from fashiondpo.serving.openapi import document_problems
from fashiondpo.serving.problems import add_problem_handlers
from fashiondpo.serving.requests import RequestMiddleware
from fashiondpo.serving.settings import ServingSettings
from fashiondpo.serving.tracing import Tracing

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any] | None]]


@asynccontextmanager
async def _nothing(_app: FastAPI) -> AsyncIterator[None]:
    yield


def create_service(
    *,
    title: str,
    description: str,
    settings: ServingSettings,
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan = _nothing,
    readiness: Mapping[str, ReadinessCheck] | None = None,
    metrics: ServiceMetrics | None = None,
) -> FastAPI:
    """An app with these routes and everything that services have in common. Opens nothing before its lifespan begins.

    Args:
        title, description: of the OpenAPI document; the title names the service in traces.
        settings: shared settings, usually of the service's own class.
        routers: the service's routes; they guard themselves with `Depends(requires(scope))`.
        lifespan: opens and closes what they need. What it yields is in `request.state`.
        readiness: checks for /readyz by name, see `fashiondpo.serving.health`.
        metrics: with figures of the service's own; fresh unless given.

    Returns:
        The app. Its `state` has `settings`, `keys`, `limits`, `metrics` and `lifetime`.
    """
    metrics = metrics or ServiceMetrics()
    tracing = Tracing(title, settings.otel_endpoint)

    @asynccontextmanager
    async def whole_lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        with tracing.exporting():
            async with lifespan(app) as state:
                yield state or {}

    app = FastAPI(
        title=title,
        description=description,
        version=version("fashiondpo"),
        lifespan=whole_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracing.config,
    )
    app.state.settings, app.state.metrics, app.state.lifetime = settings, metrics, Lifetime()
    app.state.keys = settings.key_ring()
    app.state.limits = RateLimits.open(settings.rate_limit, settings.rate_limit_url.get_secret_value())
    app.add_middleware(RequestMiddleware, settings=settings, metrics=metrics)
    add_problem_handlers(app)
    for router in (health_router(readiness or {}), metrics_router(metrics), documentation_router(), *routers):
        app.include_router(router)
    document_problems(app)
    return app
