"""Where the generator keeps things: in Redis and an artifact store, or, standing alone, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis

from fashiondpo.storage.adapters import AdapterRegistry, MemoryAdapters
from fashiondpo.storage.artifacts import ArtifactStore, FolderArtifacts
from fashiondpo.storage.feedback import FeedbackStore
from fashiondpo.storage.redis_adapters import AliasHints, RedisAdapters
from fashiondpo.storage.redis_connection import connect, redis_problem
from fashiondpo.storage.redis_feedback import RedisFeedback
from fashiondpo.storage.redis_traffic import RedisTraffic
from fashiondpo.storage.traffic import Traffic
from services.generator.generation_records import GenerationRecords, MemoryGenerationRecords
from services.generator.redis_generation_records import RedisGenerationRecords
from services.generator.settings import GeneratorSettings


@dataclass(frozen=True)
class Stores:
    """Everything that outlives a request.

    Attributes:
        artifacts: pictures, trajectories, weights.
        feedback, traffic: recorded sets; None without Redis, where nobody would ever learn from them.
        adapters: versions and aliases.
        generations: records of generations.
        client: of Redis, if there is one.
        wait_for_hint: waits until somebody says that the champion has changed; None where nobody could.
    """

    artifacts: ArtifactStore
    feedback: FeedbackStore | None
    traffic: Traffic | None
    adapters: AdapterRegistry
    generations: GenerationRecords
    client: redis.Redis | None = None
    wait_for_hint: Callable[[float], bool] | None = None

    def redis_problem(self) -> str | None:
        """Why Redis cannot be used; None if it answers, or is not needed."""
        return None if self.client is None else redis_problem(self.client)

    def artifacts_problem(self) -> str | None:
        """Why the artifact store cannot be used; raises Unavailable as well."""
        self.artifacts.has(_NOBODYS)
        return None

    def close(self) -> None:
        """Close the connections."""
        if self.client is not None:
            self.client.close()


_NOBODYS = f"{'0' * 64}.json"
"""A reference under which nothing is kept: asking for it shows whether the store answers."""


def open_stores(settings: GeneratorSettings) -> Stores:
    """The stores that the settings name; a local folder is made, nothing else is connected before it is used.

    Raises:
        InvalidInput: if an address is none.
    """
    artifacts = FolderArtifacts(settings.artifacts_url)
    artifacts.make_folder()
    if settings.redis_url is None:
        return Stores(
            artifacts,
            None,
            None,
            MemoryAdapters(),
            MemoryGenerationRecords(kept=settings.kept_generations, claim_s=settings.claim_s),
        )
    client, prefix = connect(settings.redis_url.get_secret_value(), timeout_s=2.0, retries=1), settings.redis_prefix
    return Stores(
        artifacts,
        RedisFeedback(client, prefix),
        RedisTraffic(client, prefix),
        RedisAdapters(client, artifacts, prefix),
        RedisGenerationRecords(client, prefix, kept_s=settings.kept_generations_s, claim_s=settings.claim_s),
        client,
        AliasHints(client, prefix).wait,
    )
