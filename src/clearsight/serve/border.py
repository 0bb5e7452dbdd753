"""What every request passes before the endpoints see it, and every answer on its way out (plain ASGI).

In this order: who asks (host, origin, token), how much (the body is counted while it is read), the endpoints,
with an eye on the client, whose leaving cancels them; then the headers, the count, and a 500 that says
nothing but an id.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from clearsight.serve.batcher import BusyError
from clearsight.serve.faults import RefusedError, answer_of
from clearsight.serve.room import Room

Message: TypeAlias = MutableMapping[str, Any]

COOKIE = "clearsight_session"
OPEN_ROUTES = ("/health", "/session")
"""Answered without a token; files of the page are, too: they hold nothing of the collection."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SECURITY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass
class Gate:
    """Who may ask.

    Attributes:
        token: what `Authorization: Bearer` must carry; None lets everybody in.
        hosts: names under which the server may be addressed; None: any. A server of this machine alone knows
            its names: a page of another site that points its own name here (DNS rebinding) is refused.
        open_paths: answered without a token.
    """

    token: str | None = None
    hosts: frozenset[str] | None = None
    open_paths: frozenset[str] = frozenset(OPEN_ROUTES)

    @property
    def cookie(self) -> str:
        """What stands for the token in a browser: not the token itself."""
        return hashlib.sha256(b"clearsight session\0" + (self.token or "").encode()).hexdigest()

    def fits(self, token: str) -> bool:
        return self.token is None or _same(token, self.token)

    def check(self, scope: Scope) -> None:
        """
        Raises:
            RefusedError: 421 for another host, 403 for another site's page, 401 without the token.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise RefusedError(
                421,
                "This server does not go by that name.",
                do="Use the address it printed, or start it with --host.",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise RefusedError(
                403,
                "Pages of other sites may not ask this server.",
                do="Ask from its own page, or a program.",
            )
        if self.token is None or scope["path"] in self.open_paths or self._let_in(headers):
            return
        raise RefusedError(
            401,
            "A token is needed." if headers.get("authorization") is None else "The token is wrong.",
            do="Send 'Authorization: Bearer' with the server's CLEARSIGHT_TOKEN.",
            headers={"WWW-Authenticate": "Bearer"},
            code="invalid_api_key",
        )

    def _let_in(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.fits(token.strip()):
            return True
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and _same(cookies[COOKIE].value, self.cookie)


def _same(one: str, other: str) -> bool:
    """Compared in constant time, whatever the characters."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


class _LeftError(Exception):
    """The client closed the connection."""


@dataclass
class Border:
    """The middleware.

    Attributes:
        held: bytes of bodies that are at work.
    """

    app: ASGIApp
    gate: Gate
    room: Room
    held: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.limits = self.room.limits
        self.room.metrics.gauges["clearsight_held_bytes"] = lambda: self.held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._let_through(scope, receive, answer)
        except _LeftError:
            status = 499  # nobody is there to be answered
        except Exception as error:
            if status:  # half an answer is out: the connection breaks, which the client sees
                answer_of(error, scope["path"])
                raise
            await answer_of(error, scope["path"])(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            self.room.metrics.request(_route(scope), _method(scope), status or 499, seconds)

    async def _let_through(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate.check(scope)
        self._declared(scope)
        body = bytearray()
        try:
            await self._read(body, receive)
            await self._attended(scope, bytes(body), receive, send)
        finally:
            self.held -= len(body)

    async def _read(self, body: bytearray, receive: Receive) -> None:
        """The body as it arrives; a client that leaves or dawdles is not waited for."""
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _LeftError
                    body += message.get("body", b"")
                    self.held += len(message.get("body", b""))
                    if len(body) > self.limits.body_bytes:
                        raise self._too_large()
                    if self.held > self.limits.held_bytes:
                        raise BusyError("The server holds as much as it can.", do="Ask again in a moment.")
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise RefusedError(
                408, "The body took too long to arrive.", headers={"Connection": "close"}
            ) from error

    def _declared(self, scope: Scope) -> None:
        """Refuse before reading what says itself that it is too large."""
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self.limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413,
            f"A request may have {self.limits.body_bytes >> 20} MiB.",
            do="Send smaller pictures, or ask in several requests.",
            headers={"Connection": "close"},
        )

    async def _attended(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """The endpoints, until they have answered or the client is gone."""
        given = False

        async def gone() -> Message:
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    return message

        leaving = asyncio.ensure_future(gone())

        async def replay() -> Message:
            nonlocal given
            if given:
                return await asyncio.shield(leaving)
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        work = asyncio.ensure_future(self.app(scope, replay, send))
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                raise _LeftError
            await work
        finally:
            for task in (work, leaving):
                task.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)


def _route(scope: Scope) -> str:
    """The route's template: what a client wrote never becomes a label."""
    route = scope.get("route")
    return str(route.path) if route is not None else "other"


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"
