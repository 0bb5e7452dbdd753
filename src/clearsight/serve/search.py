"""`POST /search`: a question is read, embedded with those of other clients, judged again where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from clearsight.errors import UsageError
from clearsight.index.nouns import Hit, Query, Results
from clearsight.serve.faults import RefusedError
from clearsight.serve.inputs import Reader
from clearsight.serve.judging import Judgement, Pairing
from clearsight.serve.room import Room
from clearsight.serve.schemas import HitAnswer, SearchAnswer, SearchRequest, SpaceAnswer, Why
from clearsight.serve.service import Service
from clearsight.types import Item


class Search:
    """The endpoint."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Search"])
        router.add_api_route(
            "/search",
            self.search,
            methods=["POST"],
            response_model=SearchAnswer,
            summary="Items that fit words, a picture, both, or another item",
        )
        return router

    async def search(self, body: SearchRequest) -> SearchAnswer:
        service = self.room.service
        if body.rerank:
            service.need_reranker()
        query = await self.room.read(lambda reader: _query(body, reader, service))
        queries = [query, replace(query, space="raw")] if body.space == "both" else [query]
        results: list[Results] = await self.room.run(service.searches, queries)
        if body.rerank:
            results = await self._judged(results, body.rerank_top)
        first, *beside = [_space(one) for one in results]
        return SearchAnswer(**first.model_dump(), beside=beside[0] if beside else None)

    async def _judged(self, results: list[Results], top: int) -> list[Results]:
        """The first hits of each in the reranker's order; the others below, as they were."""
        service = self.room.service
        pairings = [await self.room.aside(_pairing, service, one, top) for one in results]
        judgements = await self.room.run(service.judges, pairings)
        return [
            _reordered(one, pairing, judgement)
            for one, pairing, judgement in zip(results, pairings, judgements, strict=True)
        ]


def _query(body: SearchRequest, reader: Reader, service: Service) -> Query:
    """
    Raises:
        UsageError: nothing, or an item and something else. RefusedError: an unknown item (404).
    """
    if body.like is None and body.text is None and body.image is None:
        raise UsageError("The question is empty.", do="Give text, image, or like.")
    if body.like is not None and (body.text is not None or body.image is not None):
        raise UsageError("like stands alone.", where="like", do="Leave out text and image.")
    if body.like is not None and not service.index.items([body.like]):
        raise RefusedError(404, "There is no such item.", where="like")
    item = None if body.like is not None else reader.item("query", body.text, body.image)
    return Query(
        text=None if item is None else item.text,
        image=None if item is None else item.image,
        like=body.like,
        where=body.where,
        top=body.top,
        space="raw" if body.space == "raw" else "repaired",
    )


def _pairing(service: Service, results: Results, top: int) -> Pairing:
    """What the reranker is asked: the question against the first hits, with their pictures."""
    items = [_item(service, hit) for hit in results.hits[:top]]
    return Pairing(_asked(service, results.query), [item for item in items if item is not None])


def _asked(service: Service, query: Query) -> Item:
    """The question as an item: of `like`, the item that it names."""
    if query.like is None:
        return Item("query", query.text, query.image)
    for hit in service.index.items([query.like]):
        item = _item(service, hit)
        if item is not None:
            return replace(item, id="query")
    raise RefusedError(404, "There is no such item.", where="like")


def _item(service: Service, hit: Hit) -> Item | None:
    """The item behind a hit; None where neither its text nor its picture is there any more."""
    picture = None
    if hit.modality != "text":
        picture = service.index.original(hit.id) or service.index.thumbnail(hit.id)
    text = hit.text if hit.modality != "image" else None
    return None if picture is None and text is None else Item(hit.id, text, picture)


def _reordered(results: Results, pairing: Pairing, judgement: Judgement) -> Results:
    fine = {
        item.id: float(score)
        for item, score in zip(pairing.candidates, judgement.score_C, strict=True)
        if not math.isnan(score)
    }
    hits = [replace(hit, fine=fine.get(hit.id)) for hit in results.hits]
    judged = sorted((hit for hit in hits if hit.fine is not None), key=lambda hit: -(hit.fine or 0.0))
    rest = [hit for hit in hits if hit.fine is None]
    notes = results.notes
    if judgement.refused:
        notes = (*notes, f"{len(judgement.refused)} of the hits could not be judged again.")
    return replace(results, hits=(*judged, *rest), notes=notes)


def hits_answer(hits: Sequence[Hit]) -> list[HitAnswer]:
    return [
        HitAnswer(
            id=hit.id,
            score=hit.score,
            modality=hit.modality,
            text=hit.text,
            source=hit.source,
            metadata={name: _plain(value) for name, value in hit.metadata.items()},
            fine=hit.fine,
            why=[Why(concept=name, share=share) for name, share in hit.why],
        )
        for hit in hits
    ]


def _plain(value: Any) -> Any:
    """A metadata value as JSON knows it: times as text, numbers that are none as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _space(results: Results) -> SpaceAnswer:
    return SpaceAnswer(
        space=results.query.space,
        hits=hits_answer(results.hits),
        rows=results.rows,
        version=results.version,
        repair=results.repair,
        seconds=results.seconds,
        notes=list(results.notes),
    )
