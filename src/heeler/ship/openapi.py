"""What the server says of itself: the OpenAPI document, and the same as a page that asks nobody else for anything."""

from __future__ import annotations

import html
import json
from typing import Any

import heeler
from heeler.limits import ServeLimits
from heeler.ship.page import Page, page_of
from heeler.ship.refusals import CODES

STYLE = (
    "body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }"
    "pre { background: #8881; padding: .5rem; overflow: auto } td, th { text-align: left; padding: 0 1rem 0 0 }"
)
NUMBER: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
RANKED = {
    "type": "array",
    "description": "the likeliest classes, the first one first",
    "items": {
        "type": "object",
        "required": ["label", "probability"],
        "properties": {"label": {"type": "string"}, "probability": NUMBER},
    },
}
ANSWER: dict[str, Any] = {
    "label": {"type": "string", "description": "the likeliest class"},
    "probability": NUMBER,
    "ranked": RANKED,
}
REASONS = {
    400: "the request makes no sense",
    401: "the token is missing or wrong",
    403: "it comes from another page or under another name",
    404: "there is nothing here",
    405: "not with this method",
    408: "it was sent too slowly",
    413: "it is too large",
    415: "it is of another kind",
    422: "the photo cannot be read",
    500: "something is wrong in the server",
    503: "the server is busy, or the work took too long",
}


def document(limits: ServeLimits, *, has_token: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server."""
    classify = (400, 401, 403, 405, 408, 413, 415, 422, 500, 503)
    batch = tuple(status for status in classify if status != 422)
    look = (401, 403, 405, 500)
    top = {
        "name": "top",
        "in": "query",
        "description": "how many classes are named",
        "schema": {"type": "integer", "minimum": 1, "maximum": limits.top, "default": 3},
    }
    photo = {"required": True, "content": {"image/*": {"schema": {}}}}
    several = {
        "type": "array", "minItems": 1, "maxItems": limits.batch_photos,
        "items": {"type": "string", "format": "binary"},
        "description": "parts with a filename; they may have any name",
    }  # fmt: skip
    many = {"type": "object", "required": ["photo"], "properties": {"photo": several}, "additionalProperties": False}
    photos = {"required": True, "content": {"multipart/form-data": {"schema": many}}}
    png: dict[str, Any] = {"image/png": {"schema": {}}}
    text: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "heeler", "version": heeler.__version__, "description": "One model, for one photo or many."},
        "paths": {
            "/predict": {"post": _entry("Classify a photo", _json("Answer"), classify, body=photo, parameters=[top])},
            "/predict/batch": {
                "post": _entry(
                    f"Classify 1 to {limits.batch_photos} photos, each a part with a filename",
                    _json("Rows"), batch, body=photos, parameters=[top],
                )
            },
            "/explain": {
                "post": _entry("Where the network looked, laid over the photo", png, (*classify, 404), body=photo)
            },
            "/model": {"get": _entry("The classes, how good it is, and what it takes", _json("Model"), look)},
            "/healthz": {"get": _entry("Whether the server is there", _json("Health"), (403, 405, 500))},
            "/metrics": {"get": _entry("Figures for Prometheus", text, look)},
        },
        "components": {"schemas": _schemas()},
    }  # fmt: skip
    if has_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in found["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path == "/healthz" else [{"token": []}]
    return found


def docs_page(described: dict[str, Any], limits: ServeLimits) -> Page:
    """The OpenAPI document for people."""
    parts = [
        f"<style>{STYLE}</style>",
        "<h1>heeler: the API</h1>",
        '<p>For programs: <a href="/openapi.json">/openapi.json</a>',
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{_e(operation['summary'])}")
            for parameter in operation.get("parameters", ()):
                parts.append(f"<p><code>{_e(parameter['name'])}</code>: {_e(parameter['description'])}")
            for kind in operation.get("requestBody", {}).get("content", {}):
                parts.append(f"<p>Body: <code>{_e(kind)}</code>")
            rows = "".join(
                f"<tr><td>{status}<td>{_e(answer['description'])}" for status, answer in operation["responses"].items()
            )
            parts.append(f"<table><tr><th>status<th>meaning{rows}</table>")
    limited = "".join(
        f"<tr><td>{_e(what)}<td>{_e(most)}<td>{_e(beyond.replace('`', ''))}" for what, most, beyond in limits.rows()
    )
    parts.append(f"<h2>Limits</h2><table><tr><th>what<th>limit<th>beyond it{limited}</table>")
    for name, schema in described["components"]["schemas"].items():
        parts.append(f"<h2>{_e(name)}</h2><pre>{_e(json.dumps(schema, indent=2))}</pre>")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>heeler: the API</title>'
    return page_of(head + "".join(parts) + "</html>")


def _entry(
    summary: str, content: dict[str, Any], errors: tuple[int, ...], *, body: Any = None, parameters: Any = ()
) -> Any:
    answers: dict[str, Any] = {"200": {"description": "done", "content": content}}
    for status in sorted(errors):
        answers[str(status)] = {"description": REASONS[status], "content": _json("Error")}
    found: dict[str, Any] = {"summary": summary, "responses": answers}
    if body:
        found["requestBody"] = body
    if parameters:
        found["parameters"] = list(parameters)
    return found


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _schemas() -> dict[str, Any]:
    error = {"code": {"type": "string", "enum": sorted(CODES)}, "message": {"type": "string"}}
    row = {
        "name": {"type": "string", "description": "the filename, as it was sent"},
        "status": {"enum": ["ok", "unsure", "unreadable"]},
        "reason": {"type": "string", "description": "why it is unreadable"},
        **ANSWER,
    }
    model = {
        "name": {"type": "string"},
        "classes": {"type": "array", "items": {"type": "string"}},
        "threshold": {"type": ["number", "null"], "description": "answers below it are `unsure`"},
        "error": {"type": ["number", "null"], "description": "share of wrong answers on photos kept back"},
        "interval": {"type": ["array", "null"], "items": {"type": "number"}, "description": "95 % interval of it"},
        "n_test": {"type": "integer"},
        "spec": {"type": "object", "description": "how photos are prepared"},
        "limits": {"type": "object", "additionalProperties": {"type": "number"}},
        "explains": {"type": "boolean", "description": "whether /explain has something to show"},
    }
    return {
        "Answer": _object({"status": {"enum": ["ok", "unsure"]}, **ANSWER}),
        "Rows": _object({"rows": {"type": "array", "items": _object(row, required=("name", "status", "reason"))}}),
        "Model": _object(model),
        "Health": _object({"status": {"const": "ok"}}),
        "Error": _object({"error": _object(error)}),
    }


def _object(properties: dict[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    names = list(properties if required is None else required)
    return {"type": "object", "required": names, "properties": properties}


def _e(text: str) -> str:
    return html.escape(str(text))
