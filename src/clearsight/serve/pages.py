"""Files of the page, and a reference of the API that asks no other machine for scripts or styles.

Only names that lay in `static` when the server started are served: there is no path to leave the folder by.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from starlette.routing import Route

from clearsight.serve.border import POLICY

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}


def static_routes(folder: Path = STATIC) -> list[Route]:
    """A route for each file of the folder; `index.html` is `/` too."""
    routes = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or path.suffix not in TYPES:
            continue
        routes.append(Route(f"/{name}", _file(path), methods=["GET"], include_in_schema=False))
        if name == "index.html":
            routes.append(Route("/", _file(path), methods=["GET"], include_in_schema=False))
    return routes


def _file(path: Path) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        data = path.read_bytes()  # small, and read again so that an update shows
        etag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=TYPES[path.suffix], headers=headers)

    return answer


def add_reference(app: FastAPI) -> None:
    """`/docs`: the OpenAPI document as a page of its own, without scripts."""

    @cache
    def page() -> tuple[str, str]:
        return _page(app.openapi())

    async def docs(request: Request) -> HTMLResponse:
        html, policy = page()
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    app.router.routes.append(Route("/docs", docs, methods=["GET"], include_in_schema=False))


def _page(document: dict[str, Any]) -> tuple[str, str]:
    """The reference, and the policy under which its one style is allowed."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clearsight.serve", "templates"), autoescape=True, trim_blocks=True
    )
    style = environment.get_template("reference.css").render()
    operations = _operations(document)
    everywhere = _everywhere(operations)
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in operations:
        for status in everywhere:
            del one["answers"][status]
        groups.setdefault(one["tag"], []).append(one)
    html = environment.get_template("reference.html").render(
        api=document, style=style, groups=groups, everywhere=everywhere
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return html, POLICY.replace("style-src 'self'", f"style-src 'sha256-{digest}'")


def _everywhere(operations: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Status -> what is answered, and when, where it is the same for every operation: said once."""
    first, *others = (one["answers"] for one in operations)
    return {
        status: said for status, said in first.items() if all(other.get(status) == said for other in others)
    }


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    operations = []
    for path, methods in document["paths"].items():
        for method, facts in methods.items():
            content = facts.get("requestBody", {}).get("content", {}).get("application/json", {})
            answers = {
                status: answer.get("content", {}).get("application/json", {}).get("schema")
                for status, answer in facts.get("responses", {}).items()
            }
            operations.append(
                {
                    "path": path,
                    "method": method.upper(),
                    "tag": (facts.get("tags") or [""])[0],
                    "summary": facts.get("summary", ""),
                    "parameters": facts.get("parameters", []),
                    "body": content.get("schema"),
                    "answers": {
                        status: (_said(schema), facts["responses"][status].get("description", ""))
                        for status, schema in answers.items()
                    },
                }
            )
    return operations


def _said(schema: dict[str, Any] | None) -> str:
    """A schema in a few words."""
    if not schema:
        return ""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " | ".join(_said(kind) for kind in kinds)
    if schema.get("type") == "array":
        return f"[{_said(schema.get('items'))}]"
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    return str(schema.get("const", schema.get("type", "any")))
