"""Every error leaves as `application/problem+json` (RFC 9457), with a stable code and the request id; no traceback ever.

Routes raise the errors of `fashiondpo.errors`; each class knows its status and code.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from fashiondpo.errors import FashionDPOError, Overloaded, TooLarge, Unauthorized, Unavailable
from fashiondpo.messages import Problem
from fashiondpo.telemetry import log

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
_LONGEST_TEXT = 2000
_RETRY_UNAVAILABLE_S = 2
_CODES = {
    400: "invalid_input",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "malformed",
    429: "overloaded",
    499: "cancelled",
    503: "unavailable",
}


class BodyTooLarge(HTTPException):
    """Raised while a body is read that is above its limit; the framework lets it pass."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes` is the limit."""
        super().__init__(TooLarge.status, f"the body has more than {limit_bytes} bytes")


def add_problem_handlers(app: FastAPI) -> None:
    """Render every error of this app as a problem."""
    app.add_exception_handler(FashionDPOError, _of_error)
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(RequestValidationError, _of_malformed)


def problem_of(error: BaseException, request_id: str | None = None) -> Problem:
    """What a caller may know of an error; of one that nobody foresaw, only that it happened."""
    if isinstance(error, FashionDPOError) and error.status != 500:
        return _problem(error.status, error.code, str(error), request_id)
    code = error.code if isinstance(error, FashionDPOError) else "internal"
    return _problem(500, code, "the service failed; its log says more under this request's id", request_id)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem as an HTTP answer."""
    content = json.dumps(problem.model_dump(mode="json", exclude_none=True))
    return Response(content, problem.status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def error_response(error: BaseException, request_id: str | None) -> Response:
    """An error as an HTTP answer, with the headers that go with its status."""
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = str(_RETRY_UNAVAILABLE_S)
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(problem_of(error, request_id), headers)


def log_error(error: BaseException) -> None:
    """Keep in the log what the caller is not told."""
    if not isinstance(error, FashionDPOError) or error.status == 500:
        # as plain text: pretty tracebacks show local variables, and with them keys
        log().error("request_failed", exception="".join(traceback.format_exception(error)))


def _of_error(request: Request, error: Exception) -> Response:
    log_error(error)
    return error_response(error, _request_id(request))


def _of_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, detail = error.status_code, str(error.detail)
    if status == 400 and detail == "There was an error parsing the body":
        # bytes that are no text, numbers without end, brackets without end: malformed, as any other broken JSON
        status, detail = 422, "the body is not readable JSON"
    elif status == 404 and detail == "Not Found":
        detail = f"there is nothing at {request.url.path}"
    elif status == 405:
        detail = f"{request.url.path} does not take {request.method}"
    problem = _problem(status, _CODES.get(status, "http_error"), detail, _request_id(request))
    return problem_response(problem, error.headers)


def _of_malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    request_id = _request_id(request)
    if any(e["loc"][:1] == ("body",) for e in errors) and not _is_json(request.headers.get("content-type")):
        media_type = request.headers.get("content-type")
        detail = f"the body must be application/json, got {media_type or 'no content type'}"
        return problem_response(_problem(415, _CODES[415], detail, request_id))
    fields = tuple(_field(e) for e in errors[:MAX_ERRORS])
    more = f", and {len(errors) - 1} more problems" if len(errors) > 1 else ""
    place = ".".join(str(part) for part in fields[0]["loc"])  # type: ignore[union-attr]
    detail = f"{place}: {fields[0]['msg']}{more}"
    return problem_response(_problem(422, _CODES[422], detail, request_id, fields))


def _field(error: Mapping[str, object]) -> dict[str, JsonValue]:
    """Where and what; the value itself is not repeated."""
    place: list[JsonValue] = [part if isinstance(part, int) else _text(str(part))[:100] for part in error["loc"]]  # type: ignore[attr-defined]
    return {"loc": place, "msg": _text(str(error["msg"])), "type": str(error["type"])}


def _problem(
    status: int, code: str, detail: str, request_id: str | None, errors: tuple[dict[str, JsonValue], ...] = ()
) -> Problem:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = code.replace("_", " ").capitalize()
    return Problem(title=title, status=status, detail=_text(detail), code=code, request_id=request_id, errors=errors)


def _text(text: str) -> str:
    """Fit for JSON and for people: no lone surrogates, no novels."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= _LONGEST_TEXT else clean[:_LONGEST_TEXT] + "…"


def _is_json(media_type: str | None) -> bool:
    return media_type is not None and bool(re.match(r"application/([a-z0-9.+-]+\+)?json\s*(;|$)", media_type.lower()))


def _request_id(request: Request) -> str | None:
    request_id: str | None = request.scope.get("request_id")
    return request_id
