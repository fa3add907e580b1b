"""The OpenAPI document: every operation says that its errors are problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from fashiondpo.messages import Problem
from fashiondpo.serving.problems import MEDIA_TYPE

_OF_FRAMEWORK = ("HTTPValidationError", "ValidationError")


def document_problems(app: FastAPI) -> None:
    """Replace the framework's own description of errors, which this app does not send, by ours."""
    framework: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = framework()
            _document(document)
        return framework()

    app.openapi = openapi  # type: ignore[method-assign]


def _document(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _OF_FRAMEWORK:
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(schemas["Problem"].pop("$defs", {}))
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    components["responses"] = {"Problem": {"description": "What went wrong.", "content": content}}
    for operations in document["paths"].values():
        for operation in operations.values():
            responses = operation["responses"]
            if MEDIA_TYPE not in responses.get("422", {}).get("content", {}):
                responses.pop("422", None)
            for statuses in ("4XX", "5XX"):
                responses.setdefault(statuses, {"$ref": "#/components/responses/Problem"})
