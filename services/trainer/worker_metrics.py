"""Prometheus figures of a worker's child process."""

from __future__ import annotations

import errno
import time

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server

from fashiondpo.telemetry import log

SLICE_SECONDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0)
BIND_TRIES, BIND_PAUSE_S = 20, 0.25
"""The child before this one may not have let go of the port yet."""


class WorkerMetrics:
    """What is measured; shown only if a port is set."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.slices = Counter(
            "fashiondpo_slices_total", "Slices of rounds, by how they ended.", ["end"], registry=self.registry
        )
        self.slice_seconds = Histogram(
            "fashiondpo_slice_seconds", "Seconds of a slice.", buckets=SLICE_SECONDS, registry=self.registry
        )
        self.scored_sets = Counter(
            "fashiondpo_traffic_scored_sets_total", "Recorded sets that were judged.", registry=self.registry
        )
        self.dropped_sets = Counter(
            "fashiondpo_traffic_dropped_sets_total",
            "Scored sets dropped because a former champion had made them.",
            registry=self.registry,
        )

    def ended(self, kind: str, seconds: float) -> None:
        """Count a slice."""
        self.slices.labels(kind).inc()
        self.slice_seconds.observe(seconds)

    def serve(self, port: int, host: str) -> None:
        """Show the figures at /metrics; without the port the worker works all the same."""
        for _ in range(BIND_TRIES):
            try:
                start_http_server(port, addr=host, registry=self.registry)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    log().warning("no figures are shown", port=port, reason=str(error))
                    return
                time.sleep(BIND_PAUSE_S)
        log().warning("no figures are shown", port=port, reason="the port is in use")
