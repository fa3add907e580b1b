"""Where the trainer keeps things: in Redis, or in this process for trying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fashiondpo.contracts import AdapterRef
from fashiondpo.storage.adapters import AdapterRegistry, MemoryAdapters
from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.feedback import FeedbackStore, MemoryFeedback
from fashiondpo.storage.idempotency import Idempotency, MemoryIdempotency
from fashiondpo.storage.jobs import MemoryJobs, RoundJobs
from fashiondpo.storage.leases import Lease, Leases, MemoryLeases
from fashiondpo.storage.traffic import MemoryTraffic, Traffic
from fashiondpo.storage.votes import MemoryVotes, Votes


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


def memory_stores(artifacts: ArtifactStore) -> Stores:
    """Stores of this process; gone with it."""
    leases, jobs, feedback = MemoryLeases(), MemoryJobs(), MemoryFeedback()
    adapters, traffic, votes, idempotency = MemoryAdapters(), MemoryTraffic(), MemoryVotes(), MemoryIdempotency()

    def stores(lease: Lease | None) -> Stores:
        return Stores(
            jobs=jobs if lease is None else jobs.fenced(leases, lease),
            leases=leases,
            feedback=feedback if lease is None else feedback.fenced(leases, lease),
            adapters=adapters if lease is None else adapters.fenced(leases, lease),
            traffic=traffic if lease is None else traffic.fenced(leases, lease),
            votes=votes,
            idempotency=idempotency,
            artifacts=artifacts,
            fenced=stores,
        )

    return stores(None)
