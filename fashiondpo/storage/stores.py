"""All stores of a deployment together, so that a service composes them once and a lease's holder fences them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fashiondpo.storage.adapters import AdapterRegistry, MemoryAdapters
from fashiondpo.storage.artifacts import ArtifactStore, MemoryArtifacts
from fashiondpo.storage.feedback import FeedbackStore, MemoryFeedback
from fashiondpo.storage.fenced import FencedAdapters, FencedFeedback
from fashiondpo.storage.idempotency import Idempotency, MemoryIdempotency
from fashiondpo.storage.jobs import MemoryJobs, RoundJobs
from fashiondpo.storage.leases import Lease, Leases, MemoryLeases
from fashiondpo.storage.traffic import MemoryTraffic, Traffic
from fashiondpo.storage.votes import MemoryVotes, Votes


@dataclass(frozen=True)
class Stores:
    """Where a deployment keeps what it knows; all of it in one place, in memory or in Redis.

    Attributes:
        fence: gives the same stores as the holder of a lease uses them.
    """

    artifacts: ArtifactStore
    feedback: FeedbackStore
    adapters: AdapterRegistry
    leases: Leases
    jobs: RoundJobs
    traffic: Traffic
    votes: Votes
    idempotency: Idempotency
    fence: Callable[[Stores, Lease], Stores]

    def fenced(self, lease: Lease) -> Stores:
        """The same stores, for the lease's holder.

        Once the lease is no longer held, whatever changes feedback, adapters, jobs (but for a request to cancel) or
        traffic is refused with LeaseLost, in the same step in which it would have been written. Reading goes on.
        Artifacts are not fenced: putting them twice changes nothing.
        """
        return self.fence(self, lease)


def memory_stores(artifacts: ArtifactStore | None = None) -> Stores:
    """Stores of this process, gone with it."""
    leases, jobs, traffic = MemoryLeases(), MemoryJobs(), MemoryTraffic()

    def fence(stores: Stores, lease: Lease) -> Stores:
        guard = partial(leases.guard, lease)
        return replace(
            stores,
            feedback=FencedFeedback(stores.feedback, guard),
            adapters=FencedAdapters(stores.adapters, guard),
            jobs=jobs.fenced(leases, lease),
            traffic=traffic.fenced(leases, lease),
        )

    return Stores(
        artifacts=artifacts or MemoryArtifacts(),
        feedback=MemoryFeedback(),
        adapters=MemoryAdapters(),
        leases=leases,
        jobs=jobs,
        traffic=traffic,
        votes=MemoryVotes(),
        idempotency=MemoryIdempotency(),
        fence=fence,
    )
