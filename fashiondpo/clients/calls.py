"""What a client asks and how it reads the answer, without any input or output.

A `Call` describes one exchange, an `EventStream` one stream of events that may have to be opened several times. Which
HTTP library performs them, and whether it waits or awaits, is the runners' matter (`fashiondpo.clients.http`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import uuid4

import structlog
from pydantic import BaseModel, ValidationError

from fashiondpo.clients.events import ServerEvent
from fashiondpo.errors import InvalidInput, Unavailable

T = TypeVar("T")
Record = TypeVar("Record", bound=BaseModel)

REQUEST_ID = "X-Request-Id"
IDEMPOTENCY_KEY = "Idempotency-Key"
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Reply:
    """An answer as it came: status, headers with names in lower case, and the whole body."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    """One exchange.

    Attributes:
        method, path, params, headers, content: of the request; the path is below the service's address.
        read: the answer's meaning; Unavailable for an answer that has none.
        is_repeatable: whether asking twice does no more than asking once. What is not is asked again only if the
            service cannot have begun.
        accepted: statuses other than 2xx that are answers too.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    is_repeatable: bool = True
    accepted: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """For messages and logs."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class EventStream(Generic[T]):
    """A stream of server-sent events.

    Attributes:
        call: opens the stream; its answer is the events.
        read: an event's meaning; None for one that means nothing to us.
        is_last: whether nothing follows after this.
        is_resumable: whether the stream goes on behind `Last-Event-ID` when it is opened again. What is not starts
            anew, so it is opened again only while nothing has come.
    """

    call: Call[None]
    read: Callable[[ServerEvent], T | None]
    is_last: Callable[[T], bool]
    is_resumable: bool = False


def get(path: str, read: Callable[[Reply], T], **params: str | int | None) -> Call[T]:
    """Ask for what is there; parameters that are None are left out."""
    given = {name: str(value) for name, value in params.items() if value is not None}
    return Call("GET", path, read, params=given)


def post(
    path: str,
    body: BaseModel | None,
    read: Callable[[Reply], T],
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    is_repeatable: bool = True,
) -> Call[T]:
    """Send a message.

    Args:
        path: below the service's address.
        body: the message; fields that nobody set are not sent.
        read: the answer's meaning.
        key: idempotency key: whatever else is sent under it by then counts as the same.
        headers: more of them.
        is_repeatable: as in `Call`.
    """
    content = None if body is None else body.model_dump_json(exclude_unset=True).encode()
    sent = {"Content-Type": "application/json"} if content is not None else {}
    if key is not None:
        sent[IDEMPOTENCY_KEY] = key
    return Call("POST", path, read, headers={**sent, **(headers or {})}, content=content, is_repeatable=is_repeatable)


def delete(path: str, read: Callable[[Reply], T]) -> Call[T]:
    """Ask for something to end."""
    return Call("DELETE", path, read)


def record(kind: type[Record]) -> Callable[[Reply], Record]:
    """Reads a record.

    Its reader raises Unavailable for anything else: cut short, of another shape, or with numbers that are none.
    """
    return lambda reply: read_json(kind, reply.content)


def read_json(kind: type[Record], content: bytes | str) -> Record:
    """A record from its JSON form; raises Unavailable if it is none."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise Unavailable(f"the answer is no {kind.__name__}: {_first_problem(error)}") from error


def new_key() -> str:
    """An idempotency key that nobody has used."""
    return uuid4().hex


def new_request_id() -> str:
    """The id of the request, or of the round, in whose name we ask, so that one id runs through every service's log."""
    bound = structlog.contextvars.get_contextvars()
    if request_id := bound.get("request_id"):
        return str(request_id)
    fresh = uuid4().hex
    round_id = _NOT_IN_IDS.sub("-", str(bound.get("round_id", "")))[:64]
    return f"{round_id}-{fresh[:12]}" if round_id else fresh


def segment(name: str | int) -> str:
    """A name as one segment of a path.

    Raises:
        InvalidInput: if it could be more than that.
    """
    text = str(name)
    if not text or text in (".", "..") or _NOT_IN_IDS.search(text):
        raise InvalidInput(f"{text!r} is no name: letters, digits, '.', '_' and '-' only")
    return text


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg']}"
