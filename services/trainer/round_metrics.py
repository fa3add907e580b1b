"""Prometheus figures of rounds, read from the stores when they are asked for: every replica shows the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fashiondpo.contracts import ROUND_STAGES
from fashiondpo.errors import FashionDPOError
from fashiondpo.messages import RoundState
from fashiondpo.storage.jobs import RoundJob
from fashiondpo.storage.stores import Stores
from fashiondpo.telemetry import log
from services.trainer.opening import all_jobs
from services.trainer.round_views import view_of
from services.trainer.stores import champion_of

STATES: tuple[RoundState, ...] = ("queued", "running", "succeeded", "failed", "cancelled")
COUNTED_ROUNDS = 1000
"""The newest so many are counted by state."""


class RoundMetrics(Collector):
    """Rounds by state and stage, the newest training's figures, the champion, and how much traffic waits."""

    def __init__(self, stores: Stores, registry: CollectorRegistry) -> None:
        """Shown with the other figures of `registry`."""
        self._stores = stores
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read while the registry is put together."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What the stores say now; nothing but that they do not answer, if they do not."""
        up = GaugeMetricFamily("fashiondpo_trainer_stores_up", "Whether the stores answer.")
        try:
            families = [*self._rounds(), *self._traffic()]
        except FashionDPOError as error:
            log().warning("no figures of rounds", reason=str(error))
            families = []
        up.add_metric([], 1.0 if families else 0.0)
        return [up, *families]

    def _rounds(self) -> Iterable[Metric]:
        jobs = list(islice(all_jobs(self._stores), COUNTED_ROUNDS))
        by_state = Counter(job.state for job in jobs)
        states = GaugeMetricFamily("fashiondpo_rounds", "The newest rounds, by state.", labels=["state"])
        for state in STATES:
            states.add_metric([state], by_state[state])
        by_stage = Counter(view_of(job, self._stores).record.stage for job in jobs if not job.is_finished)
        stages = GaugeMetricFamily("fashiondpo_round_stage", "Unfinished rounds, by stage.", labels=["stage"])
        for stage in ROUND_STAGES[:-1]:
            stages.add_metric([stage], by_stage[stage])
        return [states, stages, *self._newest(jobs)]

    def _newest(self, jobs: list[RoundJob]) -> Iterable[Metric]:
        """Of the newest round in which something happened."""
        seconds = GaugeMetricFamily(
            "fashiondpo_round_stage_seconds", "Of the newest round, by stage.", labels=["stage"]
        )
        begun = next((job for job in jobs if job.started_at is not None), None)
        for stage, value in (view_of(begun, self._stores).record.seconds if begun else {}).items():
            seconds.add_metric([stage], value)
        training = GaugeMetricFamily(
            "fashiondpo_training", "Of the newest update of the newest training.", labels=["figure"]
        )
        trained = next((job for job in jobs if job.metrics), None)
        for name, value in (trained.metrics[-1] if trained else {}).items():
            training.add_metric([name], value)
        accuracy = GaugeMetricFamily(
            "fashiondpo_pair_accuracy", "Share of preference pairs that the newest training's policy orders rightly."
        )
        if trained and "implicit_accuracy" in trained.metrics[-1]:
            accuracy.add_metric([], trained.metrics[-1]["implicit_accuracy"])
        return [seconds, training, accuracy]

    def _traffic(self) -> Iterable[Metric]:
        champion = champion_of(self._stores)
        version = GaugeMetricFamily(
            "fashiondpo_champion_version", "The adapter version that serves; 0 is the base model."
        )
        version.add_metric([], champion.version)
        sets = GaugeMetricFamily("fashiondpo_traffic_sets", "Recorded sets that wait, by stage.", labels=["stage"])
        backlogs = self._stores.traffic.backlogs()
        sets.add_metric(["recorded"], self._stores.traffic.waiting())
        sets.add_metric(["scored"], sum(b.waiting for b in backlogs if b.made_by.adapter == champion))
        return [version, sets]
