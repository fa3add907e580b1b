"""Bearer keys with scopes. A route asks for a scope; without configured keys everybody is let in (on loopback only).

@router.post("/train", dependencies=[Depends(requires("train"))])
def train(body: TrainRequest) -> RoundView: ...

@router.get("/rounds")
def rounds(caller: Annotated[Caller, Depends(requires("read"))]) -> RoundPage: ...
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal, Self, get_args

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from fashiondpo.errors import Forbidden, Unauthorized

Scope = Literal["read", "generate", "train", "admin"]
"""read: look at what is there; generate: have models work; train: start rounds, pin adapter versions, fetch
their weights; admin: everything."""

SHORTEST_KEY = 16
_HASHED = re.compile(r"sha256-([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Caller:
    """Who asks: the name of a key, and what it may do. Every key may read; admin may do everything."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the key carries the scope, directly or implied."""
        return scope == "read" or scope in self.scopes or "admin" in self.scopes


ANYBODY = Caller("anybody", frozenset({"admin"}))
"""The caller where no keys are configured."""


class KeyRing:
    """The known keys, as hashes."""

    def __init__(self, callers: dict[bytes, Caller]) -> None:
        """`callers` by the SHA-256 of their key."""
        self._callers = callers

    @classmethod
    def parse(cls, text: str) -> Self:
        """Keys written as name:scope+scope:key, separated by commas or white space.

        Raises:
            ValueError: if an entry is malformed; says which, and never repeats it.
        """
        callers: dict[bytes, Caller] = {}
        for position, entry in enumerate(re.split(r"[,\s]+", text.strip()), start=1):
            if entry:
                digest, caller = _parse_entry(entry, f"API key {position}")
                if digest in callers:
                    raise ValueError(f"API key {position} is the same as that of {callers[digest].name!r}")
                callers[digest] = caller
        return cls(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def caller(self, key: str) -> Caller | None:
        """Whose key this is; None if it is not known. Takes the same time whether and where it matches."""
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def _parse_entry(entry: str, called: str) -> tuple[bytes, Caller]:
    parts = entry.split(":", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]):
        raise ValueError(f"{called} is not of the form name:scopes:key")
    name, scopes, key = parts
    names = scopes.split("+")
    if unknown := [scope for scope in names if scope not in get_args(Scope)]:
        raise ValueError(f"{called} ({name}) has unknown scopes {unknown}: choose of {', '.join(get_args(Scope))}")
    if hashed := _HASHED.fullmatch(key):
        digest = bytes.fromhex(hashed[1])
    elif len(key) < SHORTEST_KEY:
        raise ValueError(f"{called} ({name}) has fewer than {SHORTEST_KEY} characters")
    else:
        digest = hashlib.sha256(key.encode()).digest()
    return digest, Caller(name, frozenset(names))  # type: ignore[arg-type]


_bearer = HTTPBearer(auto_error=False, description="An API key; needed where the service has keys.")


@cache
def requires(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets callers in who have the scope, counts the request against their limit, and says who it is.

    The dependency raises:
        Unauthorized: if keys are configured and the request carries none of them.
        Forbidden: if its key lacks the scope.
        Overloaded: if its key has used up its rate limit.
    """

    async def caller_with_scope(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        keys: KeyRing = request.app.state.keys
        caller = _identify(keys, credentials)
        if not caller.may(scope):
            raise Forbidden(f"the key of {caller.name!r} lacks the scope {scope!r}")
        await request.app.state.limits.count(caller.name)
        return caller

    return caller_with_scope


def _identify(keys: KeyRing, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    if not keys:
        return ANYBODY
    if credentials is None:
        raise Unauthorized("this service needs an API key: Authorization: Bearer <key>")
    caller = keys.caller(credentials.credentials)
    if caller is None:
        raise Unauthorized("this API key is not known here")
    return caller
