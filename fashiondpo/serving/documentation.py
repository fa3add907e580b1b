"""/docs: the service's OpenAPI document as one page that loads nothing from anywhere and runs nothing.

FastAPI's own page fetches its program from a content network: behind a firewall it stays empty, and elsewhere somebody
else's program runs where people enter keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response

METHODS = ("get", "post", "put", "patch", "delete")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches {}",
    "default": "default {}",
}
_UNTOLD = "Successful Response"
"""What FastAPI says of an answer of which nothing is said."""
_STYLE = """
:root { color-scheme: light dark; --quiet: color-mix(in srgb, currentColor 62%, transparent);
  --line: color-mix(in srgb, currentColor 16%, transparent); --shade: color-mix(in srgb, currentColor 6%, transparent); }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, "DejaVu Sans", sans-serif; max-width: 62rem; margin: 0 auto;
  padding: 2.5rem 1.25rem 6rem; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 3rem 0 .5rem; font-size: 1.2rem; }
h3 { margin: 0; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
p { margin: .4rem 0; } .quiet { color: var(--quiet); }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
section { border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem; margin: .8rem 0; }
.method { display: inline-block; min-width: 5.6em; text-align: center; border-radius: 4px; padding: .1em .5em;
  margin-right: .6em; font-size: .78rem; font-weight: 700; color: #fff; background: #49606f; }
.get { background: #27628f; } .post { background: #2b6e46; } .delete { background: #963636; }
.put, .patch { background: #86600f; }
.key { float: right; font-size: .8rem; color: var(--quiet); }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 0; table-layout: fixed; }
td { vertical-align: top; padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
td:first-child { width: 27%; } td:nth-child(2) { width: 25%; }
nav a { display: block; padding: .1rem 0; text-decoration: none; } a { color: light-dark(#1c5a86, #8cc4ee); }
nav { background: var(--shade); border-radius: 8px; padding: .8rem 1.1rem; margin-top: 1.2rem; }
"""


def documentation_router() -> APIRouter:
    """The route; it is no part of the document itself."""
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return Response(documentation_page(request.app.openapi()), media_type="text/html", headers=_HEADERS)

    return router


def documentation_page(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML: every route, and every schema that it names."""
    information = document["info"]
    title = escape(information["title"])
    routes = [
        (method, path, operation[method])
        for path, operation in document["paths"].items()
        for method in METHODS
        if method in operation
    ]
    links = "".join(
        f'<a href="#{_anchor(method, path)}">{_badge(method)}<code>{escape(path)}</code></a>'
        for method, path, _ in routes
    )
    schemas = document.get("components", {}).get("schemas", {})
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{_text(information.get('description', ''))}</p>"
        f'<p class="quiet">Version {escape(information["version"])}. The same for programs: '
        f'<a href="openapi.json">openapi.json</a>.</p>'
        f"<nav>{links}</nav><h2>Routes</h2>{''.join(_route(*route) for route in routes)}"
        f"<h2>Bodies</h2>{''.join(_schema(name, schema) for name, schema in sorted(schemas.items()))}</body></html>\n"
    )


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    key = '<span class="key">asks for a key, if there are any</span>' if operation.get("security") else ""
    rows = [
        (
            f"<code>{escape(each['name'])}</code>",
            f"{each['in']}, {_kind(each['schema'])}",
            _meaning(each["schema"] | each),
        )
        for each in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    rows += [("body", _kind(each.get("schema", {})), f"<code>{escape(kind)}</code>") for kind, each in body.items()]
    rows += [
        (f"answer {status}", _answered(answer), _text(answer.get("description", "").replace(_UNTOLD, "")))
        for status, answer in _known(operation)
    ]
    return (
        f'<section id="{_anchor(method, path)}">{key}<h3>{_badge(method)}<code>{escape(path)}</code></h3>'
        f"<p>{_text(operation.get('description', ''))}</p>{_table(rows)}</section>"
    )


def _known(operation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Answers of the route's own: what all have in common is a problem document."""
    return ((status, answer) for status, answer in operation.get("responses", {}).items() if "$ref" not in answer)


def _answered(answer: Mapping[str, Any]) -> str:
    kinds = [
        _kind(each["schema"]) if each.get("schema") else f"<code>{escape(kind)}</code>"
        for kind, each in answer.get("content", {}).items()
    ]
    return ", ".join(kinds) or "–"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _kind(each) + ("" if field in required else ' <span class="quiet">(may be left out)</span>'),
            _meaning(each),
        )
        for field, each in schema.get("properties", {}).items()
    ]
    text = _text(schema.get("description", "")) or ("" if rows else _kind(schema))
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{text}</p>{_table(rows)}</section>'


def _kind(schema: Mapping[str, Any]) -> str:
    """What a value is, in a few words; names of schemas are links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if alternatives := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(map(_kind, alternatives)))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    match schema.get("type"):
        case "array":
            return f"list of {_kind(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"mapping to {_kind(schema['additionalProperties'])}"
        case None:
            return "anything"
        case kind:
            return escape(str(kind))


def _meaning(schema: Mapping[str, Any]) -> str:
    """Description and limits, those of alternatives too."""
    limits = [
        words.format(f"<code>{escape(str(part[name]))}</code>")
        for part in (schema, *schema.get("anyOf", []))
        for name, words in _LIMITS.items()
        if part.get(name) is not None
    ]
    quiet = f'<span class="quiet">{", ".join(limits)}</span>' if limits else ""
    return " ".join(filter(None, (_text(schema.get("description", "")), quiet)))


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    inner = "".join(f"<tr><td>{first}</td><td>{second}</td><td>{third}</td></tr>" for first, second, third in rows)
    return f"<table>{inner}</table>" if inner else ""


def _text(text: str) -> str:
    """Escaped, with `code` as such."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _badge(method: str) -> str:
    return f'<span class="method {method}">{method.upper()}</span>'


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}{path}".replace("{", "").replace("}", ""))
