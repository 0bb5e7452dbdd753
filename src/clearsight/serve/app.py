"""The server as an ASGI application: `create_app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

import clearsight
from clearsight.serve.border import COOKIE, Border, Gate
from clearsight.serve.cohere import Cohere
from clearsight.serve.faults import RefusedError, answer_of
from clearsight.serve.items import Collection
from clearsight.serve.limits import Limits
from clearsight.serve.metrics import CONTENT_TYPE
from clearsight.serve.openai import OpenAi
from clearsight.serve.pages import add_reference, static_routes
from clearsight.serve.room import Room
from clearsight.serve.schemas import Fault, Health, Session
from clearsight.serve.search import Search
from clearsight.serve.service import Service

DESCRIPTION = (
    "Search in a collection of pictures and texts, vectors in OpenAI's and Cohere's forms, and reranking, "
    "all on this machine. Pictures travel as data URLs; no address is fetched. Where the server was started "
    "with CLEARSIGHT_TOKEN, requests carry 'Authorization: Bearer <token>'."
)
_STATUSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request does not fit"},
    401: {"description": "no token, or a wrong one"},
    403: {"description": "asked from a page of another site"},
    404: {"description": "no such item or model"},
    408: {"description": "the body took too long to arrive"},
    413: {"description": "too large"},
    421: {"description": "the server does not go by that name"},
    500: {"description": "a fault of the server; the id is in its log"},
    503: {"description": "busy, or the model is still being loaded; see Retry-After"},
}


def create_app(
    load: Callable[[], Service],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
    batching: bool = True,
    told: Callable[[Exception | None], None] = lambda error: None,
) -> FastAPI:
    """The application; it listens at once and loads the model behind `/health`.

    Args:
        load: makes the service, in the model's thread.
        token: what requests must carry; None or empty: none.
        hosts: names under which the server may be addressed; None: any.
        batching: False passes one request after the other through the model.
        told: called when loading has ended, with the error if it failed.
    """
    limits = limits or Limits()
    room = Room(load, limits, batching, told)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        room.batcher.start()
        opening = asyncio.create_task(room.open())
        try:
            yield
        finally:
            room.batcher.close()
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening

    pages = static_routes()
    gate = Gate(token or None, hosts)
    gate.open_paths |= {route.path for route in pages} | {"/docs", "/openapi.json"}
    app = FastAPI(
        title="Clearsight",
        version=clearsight.__version__,
        description=DESCRIPTION,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        responses={status: {**facts, "model": Fault} for status, facts in _STATUSES.items()},
        exception_handlers={HTTPException: _told, RequestValidationError: _told},
        middleware=[Middleware(Border, gate=gate, room=room)],
    )
    app.state.room = room
    for part in (Search(room), Collection(room), OpenAi(room), Cohere(room)):
        app.include_router(part.router())
    _server_routes(app, room, gate)
    app.router.routes.extend(pages)
    add_reference(app)
    _without_422(app)
    return app


async def _told(request: Request, error: Exception) -> Response:
    return answer_of(error, request.url.path)


def _server_routes(app: FastAPI, room: Room, gate: Gate) -> None:
    async def health() -> Response:
        body = Health(status=room.status).model_dump()
        return JSONResponse(body, 200 if room.status == "ready" else 503)

    async def metrics() -> Response:
        return PlainTextResponse(room.metrics.text(), media_type=CONTENT_TYPE)

    async def enter(body: Session, request: Request) -> Response:
        if not gate.fits(body.token):
            raise RefusedError(401, "The token is wrong.", headers={"WWW-Authenticate": "Bearer"})
        response = Response(status_code=204)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, gate.cookie, httponly=True, samesite="strict", secure=secure)
        return response

    async def leave() -> Response:
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    text = {200: {"content": {"text/plain": {}}, "description": "counts and times for Prometheus"}}
    loading = {503: {"model": Health, "description": "the model is still being loaded, or failed to load"}}
    for path, endpoint, method, options in (
        ("/health", health, "GET", {"response_model": Health, "responses": loading, "summary": "Ready?"}),
        ("/metrics", metrics, "GET", {"responses": text, "summary": "Counts and times"}),
        ("/session", enter, "POST", {"status_code": 204, "summary": "A cookie that stands for the token"}),
        ("/session", leave, "DELETE", {"status_code": 204, "summary": "Forget the cookie"}),
    ):
        app.add_api_route(path, endpoint, methods=[method], tags=["Server"], **options)


def _without_422(app: FastAPI) -> None:
    """Bodies that do not fit are answered 400 here, as OpenAI and Cohere do: the document says so."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = made()
        for methods in document["paths"].values():
            for facts in methods.values():
                facts["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi
