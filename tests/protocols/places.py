"""Where stores under test can be: an empty folder, or a corner of a real Redis server that nobody else uses."""

from __future__ import annotations

from uuid import uuid4

import pytest
import redis

from fashiondpo.storage.redis_connection import connect


class Places:
    """Empty places for stores."""

    def __init__(self, folders: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
        self._folders, self._request = folders, request
        self._client: redis.Redis | None = None

    def folder(self):
        """A new empty folder."""
        return self._folders.mktemp("store")

    def redis(self) -> redis.Redis:
        """A client of the server that all tests share; the server starts when the first test asks for it."""
        if self._client is None:
            self._client = connect(self._request.getfixturevalue("valkey_url"))
        return self._client

    def prefix(self) -> str:
        """A prefix that nobody has used."""
        return f"test-{uuid4().hex}"

    def close(self) -> None:
        """Close what was opened."""
        if self._client is not None:
            self._client.close()
