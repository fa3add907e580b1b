"""An answer that tells of a problem becomes the error that the service raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from fashiondpo.clients.calls import Reply
from fashiondpo.errors import (
    Conflict,
    FashionDPOError,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from fashiondpo.messages import Problem

LONGEST_TEXT = 2000
"""Characters of somebody else's answer that are worth repeating."""

_BY_STATUS: dict[int, type[FashionDPOError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def error_of_reply(reply: Reply, source: str) -> FashionDPOError:
    """The error behind an answer with an error status.

    Args:
        reply: the answer; if it is no problem document (a proxy's page, for instance), its status decides.
        source: who answered, for people.
    """
    after_s = retry_after_s(reply)
    try:
        problem = Problem.model_validate_json(reply.content)
    except ValidationError:
        text = reply.content[:200].decode("utf-8", "replace").strip()
        problem = Problem(title="", status=reply.status, detail=f"status {reply.status}: {text or 'no text'}", code="")
    return error_of_problem(problem, source, after_s=after_s)


def error_of_problem(problem: Problem, source: str, *, after_s: float | None = None) -> FashionDPOError:
    """The error that a problem document tells of: of the class with its code, else of one with its status.

    The words are the service's. Attributes that some classes have besides (a path, a list of ids) stay behind there.

    Args:
        problem: the document.
        source: who sent it.
        after_s: what `Retry-After` said.
    """
    kind = error_classes().get(problem.code) or _class_of_status(problem.status)
    details = "".join(f"\n  {_field_problem(error)}" for error in problem.errors[:10])
    text = f"{source}: {problem.detail[:LONGEST_TEXT]}{details}"
    if issubclass(kind, Overloaded):
        error: FashionDPOError = kind(text, retry_after_s=1.0 if after_s is None else after_s)
    else:
        # some constructors put their text together from parts that no longer exist here
        error = kind.__new__(kind)
        error.args = (text,)
    if problem.request_id:
        error.add_note(f"request {problem.request_id}")
    return error


def error_classes() -> dict[str, type[FashionDPOError]]:
    """Every class of the error tree, by its code."""
    return {kind.code: kind for kind in _tree(FashionDPOError)}


def retry_after_s(reply: Reply) -> float | None:
    """Seconds after which the service wants to be asked again; None if it does not say so in seconds."""
    try:
        after = float(reply.headers.get("retry-after", ""))
    except ValueError:
        return None
    return after if 0 <= after < float("inf") else None


def _tree(kind: type[FashionDPOError]) -> Iterator[type[FashionDPOError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == FashionDPOError.__module__:
            yield from _tree(child)


def _class_of_status(status: int) -> type[FashionDPOError]:
    return _BY_STATUS.get(status) or (InvalidInput if status < 500 else FashionDPOError)


def _field_problem(error: Mapping[str, object]) -> str:
    place, message = error.get("loc", error.get("field", "")), error.get("msg", error.get("message", ""))
    where = ".".join(map(str, place)) if isinstance(place, list | tuple) else str(place)
    return f"{where}: {message}"[:200]
