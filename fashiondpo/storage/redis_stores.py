"""All stores of a deployment in Redis; pictures, trajectories and weights in an artifact store."""

from __future__ import annotations

from dataclasses import replace

import redis

from fashiondpo.storage.artifacts import ArtifactStore
from fashiondpo.storage.leases import Lease
from fashiondpo.storage.redis_adapters import RedisAdapters
from fashiondpo.storage.redis_connection import PREFIX
from fashiondpo.storage.redis_feedback import RedisFeedback
from fashiondpo.storage.redis_idempotency import RedisIdempotency
from fashiondpo.storage.redis_jobs import RedisJobs
from fashiondpo.storage.redis_leases import RedisLeases
from fashiondpo.storage.redis_traffic import RedisTraffic
from fashiondpo.storage.redis_votes import RedisVotes
from fashiondpo.storage.stores import Stores


def redis_stores(client: redis.Redis, artifacts: ArtifactStore, prefix: str = PREFIX) -> Stores:
    """Stores that every process with the same server, prefix and artifact store shares.

    Args:
        client: as `fashiondpo.storage.redis_connection.connect` gives it.
        artifacts: where pictures, trajectories and weights are.
        prefix: start of every key.
    """

    def fence(stores: Stores, lease: Lease) -> Stores:
        return replace(
            stores,
            feedback=RedisFeedback(client, prefix, fence=lease),
            adapters=RedisAdapters(client, artifacts, prefix, fence=lease),
            jobs=RedisJobs(client, prefix, fence=lease),
            traffic=RedisTraffic(client, prefix, fence=lease),
        )

    return Stores(
        artifacts=artifacts,
        feedback=RedisFeedback(client, prefix),
        adapters=RedisAdapters(client, artifacts, prefix),
        leases=RedisLeases(client, prefix),
        jobs=RedisJobs(client, prefix),
        traffic=RedisTraffic(client, prefix),
        votes=RedisVotes(client, prefix),
        idempotency=RedisIdempotency(client, prefix),
        fence=fence,
    )
