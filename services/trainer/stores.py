"""Where the trainer keeps things: in Redis and an artifact store, or, for trying the API, in this process."""

from __future__ import annotations

import redis

from fashiondpo.contracts import AdapterRef
from fashiondpo.storage.artifacts import FolderArtifacts
from fashiondpo.storage.redis_connection import connect, redis_problem
from fashiondpo.storage.redis_stores import redis_stores
from fashiondpo.storage.stores import Stores, memory_stores
from services.trainer.settings import TrainerSettings

_NOBODYS = f"{'0' * 64}.json"
"""A reference under which nothing is kept: asking for it shows whether the store answers."""


def open_stores(settings: TrainerSettings) -> Stores:
    """The stores that the settings name; nothing is connected before it is used.

    Raises:
        InvalidInput: if an address is none.
    """
    artifacts = FolderArtifacts(settings.artifacts_url)
    client = redis_client(settings)
    return memory_stores(artifacts) if client is None else redis_stores(client, artifacts, settings.redis_prefix)


def redis_client(settings: TrainerSettings) -> redis.Redis | None:
    """A client of the server that the settings name, if they name one; nothing is connected before it is used."""
    return None if settings.redis_url is None else connect(settings.redis_url.get_secret_value())


def champion_of(stores: Stores) -> AdapterRef:
    """The adapter that serves; version 0 before any was promoted."""
    version = stores.adapters.alias("champion") or 0
    return stores.adapters.manifest(version).ref if version else AdapterRef()


def stores_problem(client: redis.Redis | None) -> str | None:
    """Why rounds cannot be worked on now; None if they can."""
    if client is None:
        return "there is none (TRAINER_REDIS_URL): rounds are recorded, but nobody works on them"
    return redis_problem(client)


def artifacts_problem(stores: Stores) -> str | None:
    """Why the artifact store cannot be used; raises Unavailable as well."""
    stores.artifacts.has(_NOBODYS)
    return None
