"""Where the trainer keeps things: in Redis, or in this process for trying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import redis

from fashiondpo.contracts import AdapterRef
from fashiondpo.storage.adapters import AdapterRegistry, MemoryAdapters
from fashiondpo.storage.artifacts import ArtifactStore, FolderArtifacts
from fashiondpo.storage.feedback import FeedbackStore, MemoryFeedback
from fashiondpo.storage.idempotency import Idempotency, MemoryIdempotency
from fashiondpo.storage.jobs import MemoryJobs, RoundJobs
from fashiondpo.storage.leases import Lease, Leases, MemoryLeases
from fashiondpo.storage.redis_adapters import RedisAdapters
from fashiondpo.storage.redis_connection import connect, redis_problem
from fashiondpo.storage.redis_feedback import RedisFeedback
from fashiondpo.storage.redis_idempotency import RedisIdempotency
from fashiondpo.storage.redis_jobs import RedisJobs
from fashiondpo.storage.redis_leases import RedisLeases
from fashiondpo.storage.redis_traffic import RedisTraffic
from fashiondpo.storage.redis_votes import RedisVotes
from fashiondpo.storage.traffic import MemoryTraffic, Traffic
from fashiondpo.storage.votes import MemoryVotes, Votes
from services.trainer.settings import TrainerSettings

_NOBODYS = f"{'0' * 64}.json"
"""A reference under which nothing is kept: asking for it shows whether the store answers."""


@dataclass(frozen=True)
class Stores:
    """Everything that is kept.

    Attributes:
        jobs, leases, feedback, adapters, traffic, votes, idempotency, artifacts: see their protocols.
        fenced: the same stores for the holder of a lease: what it writes without the lease raises LeaseLost.
        problem: why they cannot be used now; None if they can.
    """

    jobs: RoundJobs
    leases: Leases
    feedback: FeedbackStore
    adapters: AdapterRegistry
    traffic: Traffic
    votes: Votes
    idempotency: Idempotency
    artifacts: ArtifactStore
    fenced: Callable[[Lease], Stores]
    problem: Callable[[], str | None] = lambda: None

    def champion(self) -> AdapterRef:
        """The adapter that serves; version 0 before any was promoted."""
        version = self.adapters.alias("champion") or 0
        return self.adapters.manifest(version).ref if version else AdapterRef()

    def artifacts_problem(self) -> str | None:
        """Why the artifact store cannot be used; raises Unavailable as well."""
        self.artifacts.has(_NOBODYS)
        return None


def memory_stores(artifacts: ArtifactStore) -> Stores:
    """Stores of this process; gone with it."""
    leases, jobs, feedback = MemoryLeases(), MemoryJobs(), MemoryFeedback()
    adapters, traffic, votes, idempotency = MemoryAdapters(), MemoryTraffic(), MemoryVotes(), MemoryIdempotency()

    def stores(lease: Lease | None) -> Stores:
        return Stores(
            jobs=jobs if lease is None else jobs.fenced(leases, lease),
            leases=leases,
            feedback=feedback,
            adapters=adapters,
            traffic=traffic if lease is None else traffic.fenced(leases, lease),
            votes=votes,
            idempotency=idempotency,
            artifacts=artifacts,
            fenced=stores,
            problem=lambda: "there is none (TRAINER_REDIS_URL): rounds are recorded, but nobody works on them",
        )

    return stores(None)


def redis_stores(client: redis.Redis, prefix: str, artifacts: ArtifactStore) -> Stores:
    """Stores of everybody who uses this server and prefix."""
    jobs, feedback, traffic = RedisJobs(client, prefix), RedisFeedback(client, prefix), RedisTraffic(client, prefix)
    adapters = RedisAdapters(client, artifacts, prefix)
    shared = Stores(
        jobs=jobs,
        leases=RedisLeases(client, prefix),
        feedback=feedback,
        adapters=adapters,
        traffic=traffic,
        votes=RedisVotes(client, prefix),
        idempotency=RedisIdempotency(client, prefix),
        artifacts=artifacts,
        fenced=lambda lease: replace(
            shared,
            jobs=jobs.fenced(lease),
            feedback=feedback.fenced(lease),
            adapters=adapters.fenced(lease),
            traffic=traffic.fenced(lease),
        ),
        problem=lambda: redis_problem(client),
    )
    return shared


def open_stores(settings: TrainerSettings) -> Stores:
    """The stores that the settings name; nothing is connected before it is used.

    Raises:
        InvalidInput: if an address is none.
    """
    artifacts = FolderArtifacts(settings.artifacts_url)
    if settings.redis_url is None:
        return memory_stores(artifacts)
    return redis_stores(connect(settings.redis_url.get_secret_value()), settings.redis_prefix, artifacts)
