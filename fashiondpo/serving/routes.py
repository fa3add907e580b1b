"""What the router knows of a request: the name of its route, and which methods its path takes."""

from __future__ import annotations

from starlette.routing import Match
from starlette.types import Scope

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
UNMATCHED = "unmatched"


def route_name(scope: Scope) -> str:
    """The route's path with its parameters' names, for figures: one for all that was asked for and does not exist."""
    return str(getattr(scope.get("route"), "path", UNMATCHED))


def allowed_methods(scope: Scope) -> str:
    """The methods that a path takes, as in the header Allow; HEAD where there is GET."""
    routes = scope["app"].router.routes
    found = [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    if "GET" in found:
        found.insert(1, "HEAD")
    return ", ".join([*found, "OPTIONS"])
