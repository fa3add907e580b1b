"""Generator: DiFashion behind HTTP. Logic: fashiondpo/diffusion/engine.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fashiondpo.serving.app import create_service
from fashiondpo.serving.health import ReadinessCheck
from fashiondpo.serving.loading import Loading
from fashiondpo.serving.metrics import ServiceMetrics
from services.generator.adapter_routes import adapter_router
from services.generator.generation_routes import generation_router
from services.generator.image_routes import image_router
from services.generator.metrics import GeneratorMetrics
from services.generator.opening import open_generator
from services.generator.settings import GeneratorSettings
from services.generator.stores import open_stores


def create_app(settings: GeneratorSettings | None = None) -> FastAPI:
    """The service; settings come from the environment unless given."""
    settings = settings or GeneratorSettings()
    stores = open_stores(settings)
    figures = ServiceMetrics()
    metrics = GeneratorMetrics(figures.registry)
    generator = Loading("generator", lambda progress: open_generator(settings, stores, metrics, progress))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        generator.start(app.state.lifetime)
        stopping = asyncio.create_task(_time_of(app.state.lifetime.stopping))
        try:
            yield
        finally:
            stopped_at = stopping.result() if stopping.done() else time.monotonic()
            stopping.cancel()
            # what requests that waited have taken of the time is gone; a little is always left to end in order
            left_s = max(1.0, settings.shutdown_timeout_s - (time.monotonic() - stopped_at))
            await asyncio.to_thread(generator.close)
            if generator.problem() is None:
                await asyncio.to_thread(generator.value.close, left_s)
            stores.close()

    checks: dict[str, ReadinessCheck] = {
        "generator": generator.problem,
        "engine": lambda: generator.value.engine_problem(),
        "adapter": lambda: generator.value.adapter_problem(),
        "artifacts": stores.artifacts_problem,
    }
    if stores.client is not None:
        checks["redis"] = stores.redis_problem
    return create_service(
        title="FashionDPO generator",
        description="Completes outfits with generated garments, and swaps the adapter that paints them while it serves.",
        settings=settings,
        routers=[generation_router(generator), image_router(generator), adapter_router(generator)],
        lifespan=lifespan,
        readiness=checks,
        metrics=figures,
    )


async def _time_of(event: asyncio.Event) -> float:
    await event.wait()
    return time.monotonic()
