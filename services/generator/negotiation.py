"""What the headers Accept, Prefer and If-None-Match ask for."""

from __future__ import annotations

EVENTS, JSON = "text/event-stream", "application/json"


def prefers_async(prefer: str | None) -> bool:
    """Whether `Prefer` (RFC 7240) holds respond-async."""
    wishes = (prefer or "").lower().split(",")
    return any(wish.partition(";")[0].partition("=")[0].strip() == "respond-async" for wish in wishes)


def wants_events(accept: str | None) -> bool:
    """Whether `Accept` (RFC 9110) names event streams, and not below JSON. A mere `*/*` does not."""
    weights = dict(map(_weighted, (accept or "").split(",")))
    return weights.get(EVENTS, 0.0) > 0 and weights[EVENTS] >= weights.get(JSON, 0.0)


def has_already(if_none_match: str | None, tag: str) -> bool:
    """Whether `If-None-Match` (RFC 9110) names the tag, so that the caller need not be sent what it stands for."""
    given = [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]
    return tag in given or "*" in given


def _weighted(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0
