"""Prometheus figures of a service. Each app has a registry of its own, so that several can live in one process.

A service adds its own to the registry before it makes its app, and passes them:

    metrics = ServiceMetrics()
    depth = Gauge("fashiondpo_engine_queued_rows", "…", registry=metrics.registry)
    create_service(…, metrics=metrics)

Names start with fashiondpo_; units are in the names, in seconds and bytes.
"""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Buckets for everything that people wait for."""


class ServiceMetrics:
    """What is measured of every service.

    Attributes:
        registry: where figures are kept; add your own.
        requests: answered requests by method, route and status.
        request_seconds: how long they took, by method and route.
        requests_in_work: at this moment.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Into a fresh registry unless one is given; memory, processor time and garbage collection are in it too."""
        self.registry = registry or CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "fashiondpo_http_requests_total",
            "Answered requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "fashiondpo_http_request_seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.requests_in_work = Gauge(
            "fashiondpo_http_requests_in_work", "Requests that are being answered.", registry=self.registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(method, route).observe(seconds)


def metrics_router(metrics: ServiceMetrics) -> APIRouter:
    """/metrics in the text format of Prometheus."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def figures() -> Response:
        """Figures of this process, in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
