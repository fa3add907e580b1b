"""Trainer: rounds behind HTTP. The work is done by workers; logic: opening.py, slices.py, fashiondpo/pipeline.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fashiondpo.serving.app import create_service
from fashiondpo.serving.idempotency import Once
from fashiondpo.serving.loading import Loading
from fashiondpo.serving.metrics import ServiceMetrics
from fashiondpo.storage.stores import Stores
from services.trainer.basis import Basis, load_basis
from services.trainer.feedback_routes import feedback_router
from services.trainer.parts import TrainerParts
from services.trainer.queue import CeleryQueue, MemoryQueue, SliceQueue
from services.trainer.round_metrics import RoundMetrics
from services.trainer.round_routes import round_router
from services.trainer.settings import TrainerSettings
from services.trainer.stores import artifacts_problem, open_stores, redis_client, stores_problem
from services.trainer.worker import celery_app


def create_app(
    settings: TrainerSettings | None = None,
    *,
    stores: Stores | None = None,
    queue: SliceQueue | None = None,
    load: Callable[[TrainerSettings], Basis] = load_basis,
) -> FastAPI:
    """The API; settings come from the environment, stores, queue and outfits from the settings, unless given."""
    settings = settings or TrainerSettings()
    kept, client = stores or open_stores(settings), redis_client(settings)
    parts = TrainerParts(
        settings=settings,
        stores=kept,
        queue=queue or open_queue(settings),
        basis=Loading("data set", lambda _progress: load(settings)),
        once=Once(kept.idempotency, ttl_s=settings.idempotency_s),
    )
    figures = ServiceMetrics()
    RoundMetrics(kept, figures.registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts.basis.start(app.state.lifetime)
        yield
        parts.basis.close()

    return create_service(
        title="FashionDPO trainer",
        description="Starts rounds of preference optimisation, tells how far they are, and takes people's votes.",
        settings=settings,
        routers=[round_router(parts), feedback_router(parts)],
        lifespan=lifespan,
        readiness={
            "data": parts.basis.problem,
            "redis": lambda: stores_problem(client),
            "artifacts": lambda: artifacts_problem(kept),
        },
        metrics=figures,
    )


def open_queue(settings: TrainerSettings) -> SliceQueue:
    """Where slices wait for workers; without Redis nobody will take them."""
    return MemoryQueue() if settings.redis_url is None else CeleryQueue(celery_app(settings))
