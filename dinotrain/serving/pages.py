"""Pages for people; they load nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

_EXAMPLES = {
    "/score": '{"input_data": ["<base64 of an image file>"], "params": {"form": "ranked", "top": 5}}',
    "/embed": '{"input_data": ["<base64 of an image file>"], "params": {"parts": ["cls"]}}',
    "/pictures": '{"input_data": ["<base64 of an image file>"]}',
}


class Page(NamedTuple):
    """A page, and the headers that keep anything else than it from running in it."""

    html: str
    headers: dict[str, str]


def front(model: str) -> Page:
    """Where an image can be dropped, to see what the model says of it."""
    return _page(_file("front.html").replace("{{model}}", escape(model)))


def documentation(openapi: Mapping[str, Any]) -> Page:
    """All addresses, from their description in OpenAPI."""
    parts = [
        _operation(path, method, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    words = {
        "{{title}}": escape(openapi["info"].get("summary", "")),
        "{{description}}": escape(openapi["info"].get("description", "")),
        "{{operations}}": "\n".join(parts),
        "{{schemas}}": escape(json.dumps(openapi.get("components", {}).get("schemas", {}), indent=2)),
    }
    html = _file("docs.html")
    for mark, text in words.items():
        html = html.replace(mark, text)
    return _page(html)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))}</td></tr>"
        for status, answer in operation.get("responses", {}).items()
    )
    example = _EXAMPLES.get(path)
    curl = f"curl -H 'Content-Type: application/json' -d '{example}' http://127.0.0.1:8000{path}" if example else ""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    body = f"<p>Body: <code>{escape(schema['$ref'].rpartition('/')[2])}</code>, below</p>" if "$ref" in schema else ""
    return (
        f"<section><h2><b>{escape(method.upper())}</b> {escape(path)}</h2><p>{escape(operation.get('summary', ''))}</p>"
        f"{body}{f'<pre>{escape(curl)}</pre>' if curl else ''}<table>{answers}</table></section>"
    )


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _page(html: str) -> Page:
    allowed = [f"{kind}-src {_hashes(html, tag)}" for kind, tag in (("script", "script"), ("style", "style"))]
    policy = [
        "default-src 'none'",
        *allowed,
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    headers = {"Content-Security-Policy": "; ".join(policy), "X-Content-Type-Options": "nosniff"}
    return Page(html, {**headers, "Referrer-Policy": "no-referrer"})


def _hashes(html: str, tag: str) -> str:
    """Of what stands in the page; nothing else of this kind is carried out."""
    found = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    ]
    return " ".join(f"'sha256-{each}'" for each in found) or "'none'"
