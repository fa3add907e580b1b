"""Figures of the generator, beside those that every service has."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fashiondpo.contracts import AdapterRef
from fashiondpo.messages import GenerationStatus
from fashiondpo.serving.metrics import SECONDS

_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class GeneratorMetrics:
    """What the engine is doing and what became of generations; told on the engine's thread too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry` is that of the service."""
        self._queued = Gauge("fashiondpo_engine_queued_rows", "Candidates that wait.", registry=registry)
        self._running = Gauge("fashiondpo_engine_running_rows", "Candidates that are painted.", registry=registry)
        self._step = Histogram(
            "fashiondpo_engine_step_seconds",
            "Seconds of one denoising step of one batch.",
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._occupancy = Histogram(
            "fashiondpo_engine_batch_occupancy_ratio",
            "Rows of use over rows of a forward.",
            buckets=[part / 10 for part in range(1, 11)],
            registry=registry,
        )
        self._rows = Counter("fashiondpo_engine_rows_total", "Denoising steps of candidates.", registry=registry)
        self._first = Histogram(
            "fashiondpo_generation_first_step_seconds",
            "Seconds from acceptance to the first step.",
            buckets=SECONDS,
            registry=registry,
        )
        self._last = Histogram(
            "fashiondpo_generation_last_image_seconds",
            "Seconds from acceptance to the last picture.",
            buckets=SECONDS,
            registry=registry,
        )
        self._previews = Histogram(
            "fashiondpo_engine_preview_seconds", "Seconds of previews.", buckets=_STEP_SECONDS, registry=registry
        )
        self._swap = Histogram(
            "fashiondpo_adapter_swap_seconds", "Seconds of a swap of adapters.", buckets=SECONDS, registry=registry
        )
        self._version = Gauge("fashiondpo_adapter_version", "The adapter that new requests get.", registry=registry)
        self._followed = Gauge(
            "fashiondpo_adapter_is_champion", "1 while the registry's champion serves, else 0.", registry=registry
        )
        self._ended = Counter("fashiondpo_generations_total", "Ended generations.", ["outcome"], registry=registry)

    def queue(self, queued_rows: int, running_rows: int) -> None:
        """Rows that wait, and rows that have begun."""
        self._queued.set(queued_rows)
        self._running.set(running_rows)

    def forward(self, rows: int, capacity: int, seconds: float) -> None:
        """One step of one batch."""
        self._step.observe(seconds)
        self._occupancy.observe(rows / capacity)
        self._rows.inc(rows)

    def first_step(self, seconds: float) -> None:
        """From acceptance to the first step of a request."""
        self._first.observe(seconds)

    def last_image(self, seconds: float) -> None:
        """From acceptance to the last image of a request."""
        self._last.observe(seconds)

    def swap(self, adapter: AdapterRef, seconds: float) -> None:
        """Weights were put into a slot."""
        self._swap.observe(seconds)

    def preview(self, images: int, seconds: float) -> None:
        """Previews were painted."""
        self._previews.observe(seconds)

    def following(self, active: AdapterRef, is_champion: bool) -> None:
        """What new requests are painted with, and whether that is what the registry wants."""
        self._version.set(active.version)
        self._followed.set(is_champion)

    def ended(self, outcome: GenerationStatus) -> None:
        """A generation has ended."""
        self._ended.labels(outcome).inc()
