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
from clearsight.serve.room import Room
from clearsight.serve.schemas import HitAnswer, SearchAnswer, SearchRequest, SpaceAnswer, Why
from clearsight.serve.service import Again, Service


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
        room, service = self.room, self.room.service
        if body.rerank:
            service.need_reranker()
        if body.explain and service.sae is None:
            raise UsageError(
                "Matches cannot be explained without a sparse autoencoder of this model.",
                where="explain",
                do="Start the server with --explain SAE.",
            )
        query = await room.read(lambda reader: _query(body, reader, service))
        queries = [query, replace(query, space="raw")] if body.space == "both" else [query]
        results: list[Results] = await room.run(service.searches, queries)
        if body.rerank:
            results = await room.run(service.agains, [Again(one, body.rerank_top) for one in results])
        if body.explain:
            results = await room.run(service.explains, results)
        first, *beside = [_space(one) for one in results]
        return SearchAnswer(**first.model_dump(), beside=beside[0] if beside else None)


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
