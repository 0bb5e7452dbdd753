"""Items, their pictures, the map, and what is known of the collection: what needs no model."""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.files import to_plain
from clearsight.index import Index
from clearsight.index.places import OWN_FOLDER
from clearsight.serve.faults import RefusedError
from clearsight.serve.room import Room
from clearsight.serve.schemas import MOST_ID, Fault, Info, Items, MapAnswer, MetadataField, Offers
from clearsight.serve.search import hits_answer
from clearsight.serve.service import Service
from clearsight.types import MODALITIES

MOST_IDS = 500
MAP_WAIT = 2.0
"""Seconds that a request for the map waits before it is told to come again."""
KEPT = {"Cache-Control": "private, max-age=300"}
# What the bytes of a picture begin with -> its type; anything else is sent as bytes to be saved, not shown.
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)

_PLACES = ("index", "items", "address", "path", "uri", "url", "model")
"""Facts that say where things lie on this machine."""
_WORDS = {
    "string": "string",
    "large_string": "string",
    "bool": "boolean",
    "timestamp": "time",
    "date": "time",
}

Id = Annotated[str, Query(max_length=MOST_ID, description="the item's id")]


class Collection:
    """The endpoints."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._drawing: asyncio.Future[tuple[str, bytes]] | None = None
        self._drawn: tuple[str, bytes] | None = None

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Collection"])
        for path, endpoint, options in (
            ("/items", self.items, {"response_model": Items, "summary": "Items by id, or a sample"}),
            (
                "/thumbnail",
                self.thumbnail,
                {"responses": _picture("image/jpeg"), "summary": "A small picture"},
            ),
            ("/original", self.original, {"responses": _picture("image/*"), "summary": "The picture itself"}),
            (
                "/map",
                self.map,
                {
                    "response_model": MapAnswer,
                    "responses": {202: {"model": Fault}, 304: {"description": "the map is the one you have"}},
                    "summary": "All items as points",
                },
            ),
            ("/info", self.info, {"response_model": Info, "summary": "The collection, model and limits"}),
        ):
            router.add_api_route(path, endpoint, methods=["GET"], **options)
        return router

    async def items(
        self,
        id: Annotated[list[Annotated[str, Query(max_length=MOST_ID)]], Query(max_length=MOST_IDS)] = [],  # noqa: B006
        sample: Annotated[int | None, Query(ge=1, le=MOST_IDS)] = None,
    ) -> Items:
        index = self.room.service.index
        if bool(id) == (sample is not None):
            raise UsageError("Either ids or a sample.", do="Ask /items?id=..&id=.. or /items?sample=24.")
        hits = (
            await self.room.aside(index.items, id)
            if sample is None
            else await self.room.aside(index.sample, sample)
        )
        return Items(hits=hits_answer(hits))

    async def thumbnail(self, id: Id) -> Response:
        data = await self._picture(self.room.service.index.thumbnail, id)
        return Response(data, media_type="image/jpeg", headers=KEPT)

    async def original(self, id: Id) -> Response:
        data = await self._picture(self.room.service.index.original, id)
        kind = _kind(data)
        shown = "inline" if kind.startswith("image/") else "attachment"
        return Response(data, media_type=kind, headers={**KEPT, "Content-Disposition": shown})

    async def _picture(self, read: Any, item_id: str) -> bytes:
        try:
            data: bytes | None = await self.room.aside(read, item_id)
        except DataError as error:  # no such item, or its file lies elsewhere now: the same to who asks
            raise RefusedError(404, "There is no such item.", where="id") from error
        if data is None:
            raise RefusedError(404, "The item has no picture.", where="id")
        return data

    async def map(self, request: Request) -> Response:
        index = self.room.service.index
        facts = await self.room.aside(index.info)
        state = f'"{facts.get("version", 0)}-{facts.get("rows", 0)}"'
        if request.headers.get("if-none-match") == state:
            return Response(status_code=304, headers={"ETag": state})
        if self._drawn is None or self._drawn[0] != state:
            drawing = self._drawing = self._drawing or self.room.apart(lambda: _drawn(index.map, state))
            done, _ = await asyncio.wait((drawing,), timeout=MAP_WAIT)
            if not done:
                fault = Fault(what="The map is being drawn.", do="Ask again in a few seconds.")
                return JSONResponse(fault.model_dump(), 202, {"Retry-After": "2"})
            self._drawing = None
            self._drawn = drawing.result()
        etag, body = self._drawn
        return Response(
            body, media_type="application/json", headers={"ETag": etag, "Cache-Control": "no-cache"}
        )

    async def info(self) -> Info:
        facts = await self.room.aside(self.room.service.index.info)
        return _info(to_plain(facts), self.room.service, self.room.limits.told())


def _drawn(draw: Any, state: str) -> tuple[str, bytes]:
    """The map as JSON, encoded once for all who ask."""
    return state, MapAnswer(**_packed(draw())).model_dump_json().encode()


def _packed(points: Mapping[str, Any]) -> dict[str, Any]:
    def coded(array: NDArray[Any]) -> str:
        return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

    kind_of: dict[str, int] = {name: place for place, name in enumerate(MODALITIES)}
    kinds_N = np.array([kind_of[str(name)] for name in points["modality"]], np.uint8)
    return {
        "version": int(points["version"]),
        "ids": [str(one) for one in points["ids"]],
        "modalities": list(MODALITIES),
        "modality": coded(kinds_N),
        "raw": coded(np.asarray(points["raw"], "<f4")),
        "repaired": coded(np.asarray(points["repaired"], "<f4")),
    }


def _info(facts: Mapping[str, Any], service: Service, limits: dict[str, int]) -> Info:
    store = {name: value for name, value in facts["store"].items() if name not in _PLACES}
    told = {name: value for name, value in facts.items() if name not in _PLACES}
    root = service.index.root
    told |= {
        "name": "" if root is None else root.name,
        "model": service.model,
        "store": store,
        "update": _update(service.index),
    }
    kinds = {name: str(kind) for name, kind in facts["metadata"].items()}
    return Info(
        rows=facts["rows"],
        modalities=facts["modalities"],
        fields=[
            MetadataField(name=name, type=_type(kind))
            for name, kind in kinds.items()
            if name not in ("id", "text", "modality", "source")
        ],
        model=service.model,
        repair=facts["repair"],
        version=facts["version"],
        offers=Offers(
            text="text" in service.reads,
            image="image" in service.reads,
            both="image+text" in service.reads,
            rerank=service.reranks,
            explain=service.sae is not None,
            spaces=["raw", "repaired"],
        ),
        limits=limits,
        index=told,
    )


def _update(index: Index) -> str | None:
    """The command that brings the index up to date, its places by their last names; None: it was made of
    items that lie nowhere."""
    items = index.settings.place_of_items(index.folder)
    if items is None:
        return None
    own = os.path.abspath(index.folder) == os.path.abspath(items / OWN_FOLDER)
    apart = [] if own else ["--out", index.folder.name]
    return shlex.join(["clearsight", "index", items.name, *apart])


def _type(kind: str) -> str:
    """A column's Arrow type in a word."""
    for beginning, word in _WORDS.items():
        if kind.startswith(beginning):
            return word
    return "number"


def _kind(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return next((kind for start, kind in _BEGINNINGS if data.startswith(start)), "application/octet-stream")


def _picture(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {kind: {}}, "description": "the picture"}}
