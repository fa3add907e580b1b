"""Redis, or Valkey: the connection, what its failures mean, and scripts that check a lease where they write.

What is kept here must survive: run the server with `appendonly yes`, `appendfsync everysec` (or `always`) and
`maxmemory-policy noeviction`. Scripts change several keys in one step and are safe to run twice, because a client that
did not get its answer sends the script again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from fashiondpo.errors import InvalidInput, Unavailable
from fashiondpo.storage.leases import Lease, lost

PREFIX = "fashiondpo"
"""Start of every key, unless another is given."""

CANNOT_NOW = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
"""Errors of a server that is there but cannot do it now: memory is full, it is a replica, the user lacks a right."""

CANNOT_NOW_CODES = frozenset(["BUSY", "MISCONF", "NOREPLICAS"])
"""Further ones, for which the client library has no class: a script runs, the disk is full, replicas are missing."""


def connect(url: str, *, timeout_s: float = 3.0, retries: int = 3) -> redis.Redis:
    """A client of the server; nothing is opened before it is used, and it may be shared by threads.

    Args:
        url: redis://, rediss:// or unix://, with database and credentials as the client library has them.
        timeout_s: for connecting, and for each answer.
        retries: how often a command is sent again when the connection failed or the answer did not come. So a server
            that is silent costs (retries + 1) * timeout_s, plus at most 2 s of pauses, before it is Unavailable.

    Raises:
        InvalidInput: if this is no such URL.
    """
    try:
        return redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            health_check_interval=15,
            retry=Retry(ExponentialWithJitterBackoff(base=0.2, cap=1.0), retries),
        )
    except ValueError as error:
        raise InvalidInput(f"{without_password(url)!r} is no URL of a Redis server: {error}") from error


def without_password(url: str) -> str:
    """The URL for people to read: what stands before the host is left out."""
    return re.sub(r"//[^/@]*@", "//", url) if urlsplit(url).netloc.count("@") else url


@contextmanager
def answering() -> Iterator[None]:
    """Turn what the client library raises because the server is not there, or cannot, into Unavailable."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    except redis.ResponseError as error:
        if isinstance(error, CANNOT_NOW) or _code(error) in CANNOT_NOW_CODES:
            raise Unavailable(f"Redis cannot do this now: {error}") from error
        raise


def redis_problem(client: redis.Redis) -> str | None:
    """Why the server cannot be used, for a readiness check; None if it answers. Takes as long as the client waits."""
    try:
        with answering():
            client.ping()
    except Unavailable as error:
        return str(error)
    return None


def durability_problems(client: redis.Redis) -> tuple[str, ...]:
    """What in the server's settings could lose accepted records; raises Unavailable."""
    with answering():
        info: dict[str, Any] = client.info("persistence") | client.info("memory")
    problems = []
    if not info.get("aof_enabled"):
        problems.append("appendonly is off: what was accepted is lost when the server stops")
    if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
        problems.append(f"maxmemory-policy is {info['maxmemory_policy']}: records vanish when memory is full")
    return tuple(problems)


class LuaScript:
    """A script that the server runs in one step. It first checks the lease of whoever writes, if there is one.

    Args:
        body: Lua. KEYS[1] and ARGV[1] are the lease's; the script's own start at KEYS[2] and ARGV[2].
    """

    _CHECK = """
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local function holds(lease, claim)
  local held = redis.call('HMGET', lease, 'claim', 'until_ms')
  return held[1] == claim and tonumber(held[2]) > now_ms()
end
if ARGV[1] ~= '' and not holds(KEYS[1], ARGV[1]) then
  return redis.error_reply('LEASELOST somebody else works on this')
end
"""

    def __init__(self, body: str) -> None:
        self._text = self._CHECK + body
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, keys: Sequence[str], values: Sequence[str | int]) -> Any:
        """Run it; raises what the client library raises."""
        try:
            return client.evalsha(self._sha, len(keys), *keys, *values)
        except NoScriptError:  # a server that was restarted no longer knows it
            return client.eval(self._text, len(keys), *keys, *values)


KEEP_CHANGE = """
local kept = redis.call('HMGET', KEYS[2], 'json', 'changes')
local changes = kept[2] or ''
if string.find(changes, ARGV[2], 1, true) then
  return 1
end
if (kept[1] or '') ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[2], 'json', ARGV[4], 'changes', string.sub(ARGV[2] .. changes, 1, 512))
"""
"""Start of a script that replaces the JSON in a hash, if it is still ARGV[3], by ARGV[4]; ends it unless it does.

ARGV[2] names the change. The names of the last 16 are kept, so that one whose answer was lost is not made again.
"""

MOST_TRIES = 200
"""So often is a change tried that others come before; each time one of them has got further."""


class RedisPart:
    """Something kept in Redis under a prefix.

    Args:
        client: as `connect` gives it.
        prefix: start of every key; what differs in it knows nothing of each other.
        fence: writes are refused with LeaseLost, in the same step, once this lease is no longer held.
    """

    def __init__(self, client: redis.Redis, prefix: str = PREFIX, *, fence: Lease | None = None) -> None:
        self._client, self._prefix, self._fence = client, prefix, fence

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _ask(self, *command: str | int) -> Any:
        """The server's answer to a command that changes nothing."""
        with answering():
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _look(self, script: LuaScript, keys: Sequence[str], values: Sequence[str | int] = ()) -> Any:
        """What a script finds that changes nothing: no lease is needed for that."""
        with answering():
            return script.run(self._client, [lease_key(self._prefix, "none"), *keys], ["", *values])

    def _run(self, script: LuaScript, keys: Sequence[str], values: Sequence[str | int] = ()) -> Any:
        """What a script answers that may change something; raises LeaseLost if the lease is no longer held."""
        if self._fence is None:
            return self._look(script, keys, values)
        try:
            with answering():
                lease = lease_key(self._prefix, self._fence.name)
                return script.run(self._client, [lease, *keys], [claim_of(self._fence), *values])
        except redis.ResponseError as error:
            if _code(error) == "LEASELOST":
                raise lost(self._fence) from None
            raise

    def _compare_and_set(self, key: str, tried: Iterator[bool]) -> None:
        """Try until a change is kept, i.e. until the iterator says True; raises Unavailable after too many tries."""
        if not any(islice(tried, MOST_TRIES)):
            raise Unavailable(f"{key} is changed by too many at once; try again")


def lease_key(prefix: str, name: str) -> str:
    """Where the lease of this name is kept."""
    return f"{prefix}:lease:{name}"


def claim_of(lease: Lease) -> str:
    """What the server compares: token and holder."""
    return f"{lease.token}/{lease.holder}"


def _code(error: redis.ResponseError) -> str:
    return str(error).partition(" ")[0]
