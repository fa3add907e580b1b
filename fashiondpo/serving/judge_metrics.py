"""Figures of a judge service, beside those that every service has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from fashiondpo.contracts import Score
from fashiondpo.serving.metrics import SECONDS, ServiceMetrics

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class JudgeMetrics:
    """How much is judged, how fast, in which batches, and how much waits."""

    def __init__(self) -> None:
        """In a fresh registry, that of `service`."""
        self.service = ServiceMetrics()
        registry = self.service.registry
        self._scores = Counter(
            "fashiondpo_judge_scores_total", "Candidates, by whether they have a score.", ["outcome"], registry=registry
        )
        self._score_seconds = Histogram(
            "fashiondpo_judge_score_seconds",
            "Seconds from a request's arrival to its last score.",
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "fashiondpo_judge_batch_size", "Candidates in a batch.", buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Histogram(
            "fashiondpo_judge_batch_seconds", "Seconds of the model for a batch.", buckets=SECONDS, registry=registry
        )
        self._queued = Gauge(
            "fashiondpo_judge_queued_candidates", "Candidates that wait or are being judged.", registry=registry
        )

    def watch(self, queued: Callable[[], int]) -> None:
        """Where to look how many candidates wait."""
        self._queued.set_function(queued)

    def batch_done(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def scored(self, scores: Sequence[Score]) -> None:
        """Count what candidates got."""
        without = sum(score.value is None for score in scores)
        self._scores.labels("scored").inc(len(scores) - without)
        self._scores.labels("unscored").inc(without)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time a request that ends well."""
        started = time.perf_counter()
        yield
        self._score_seconds.observe(time.perf_counter() - started)
