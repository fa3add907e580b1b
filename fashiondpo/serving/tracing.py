"""OpenTelemetry traces, where a collector is configured: a span per request, and one per call to another service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from fashiondpo.serving.requests import PROBES


class Tracing:
    """Traces of one service; without an endpoint, none. Spans are sent only inside `exporting`."""

    def __init__(self, service: str, endpoint: str | None) -> None:
        """`service` names it in the traces; `endpoint` is the collector's base address for OTLP over HTTP."""
        self._endpoint = endpoint
        self._provider: TracerProvider | None = None
        if endpoint is not None:
            resource = Resource.create({SERVICE_NAME: service})
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)

    @property
    def config(self) -> TelemetryConfig:
        """For FastAPI: our provider and nothing else, whatever the environment says."""
        return TelemetryConfig(
            tracer_provider=self._provider or trace.NoOpTracerProvider(),
            tracing=self._provider is not None,
            metrics=False,
            logs=False,
            operation_spans=False,
            auto_configure=False,
            exclude=lambda scope: scope.get("path") in PROBES,
        )

    @property
    def tracer(self) -> trace.Tracer:
        """For spans of work that is no request."""
        return (self._provider or trace.NoOpTracerProvider()).get_tracer("fashiondpo")

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Send spans, those of outgoing calls too; what is left is sent at the end."""
        if self._provider is None:
            yield
            return
        exporter = OTLPSpanExporter(endpoint=f"{str(self._endpoint).rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        instrumentor = HTTPXClientInstrumentor()
        instrumentor.instrument(tracer_provider=self._provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()
            self._provider.shutdown()
