"""Cohere's API: `POST /v2/embed`, and `POST /v2/rerank` (also `/v1/rerank` and `/rerank`).

| not offered, and refused | because |
|---|---|
| embedding types int8, uint8 | their ranges need a calibration that Cohere does not publish |
| `output_dimension` other than the model's, `max_tokens`, `truncate` START and END | nothing is cut |
| `rank_fields`, `max_tokens_per_doc`, `max_chunks_per_doc` | documents are judged whole |

Beyond Cohere's: documents of a rerank may have a picture ({"text", "image"}, a data URL). `relevance_score`
is the logistic function of the reranker's score in nats: 0..1, 0.5 where query and document say nothing about
each other.
Source: the API reference of Cohere, and the types of cohere-python 7.3.
"""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from clearsight.errors import UsageError
from clearsight.serve.faults import RefusedError
from clearsight.serve.inputs import Reader
from clearsight.serve.judging import Judgement, Pairing
from clearsight.serve.openai import space_of
from clearsight.serve.parts import Content, item_of
from clearsight.serve.room import Room
from clearsight.serve.schemas import Body
from clearsight.serve.service import Embedded, Service
from clearsight.types import Item

Rows = NDArray[np.float32]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


def _bits(rows_ND: Rows) -> NDArray[np.uint8]:
    """A bit for each dimension, 1 above zero, eight to a byte, the first the highest."""
    return np.packbits(rows_ND > 0, axis=1)


WRITERS: dict[str, Callable[[Rows], list[Any]]] = {
    "float": lambda rows_ND: rows_ND.tolist(),
    "binary": lambda rows_ND: (_bits(rows_ND).astype(np.int16) - 128).tolist(),
    "ubinary": lambda rows_ND: _bits(rows_ND).tolist(),
    "base64": lambda rows_ND: [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows_ND],
}


class EmbedRequest(Body):
    model: Annotated[str, Field(max_length=1000)]
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"]
    texts: list[str] | None = None
    images: Annotated[list[str] | None, Field(description="data URLs; none is fetched")] = None
    inputs: list[Content] | None = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: int | None = None
    max_tokens: int | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    priority: Annotated[int | None, Field(description="looked at by nobody here")] = None


class ByType(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    floats: Annotated[list[list[float]] | None, Field(alias="float")] = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class EmbedAnswer(BaseModel):
    id: str
    embeddings: ByType
    texts: list[str] | None
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"]


class Document(Body):
    text: str | None = None
    image: Annotated[str | None, Field(description="a data URL; none is fetched")] = None


class RerankRequest(Body):
    model: Annotated[str, Field(max_length=1000)]
    query: str
    documents: list[str | Document]
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: int | None = None
    priority: Annotated[int | None, Field(description="looked at by nobody here")] = None


class RerankedDocument(BaseModel):
    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankAnswer(BaseModel):
    id: str
    results: list[RerankedDocument]
    meta: dict[str, Any]


class Cohere:
    """The endpoints."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Cohere"])
        router.add_api_route(
            "/v2/embed",
            self.embed,
            methods=["POST"],
            response_model=EmbedAnswer,
            summary="Vectors of texts and pictures",
        )
        for path in ("/v2/rerank", "/v1/rerank", "/rerank"):
            router.add_api_route(
                path,
                self.rerank,
                methods=["POST"],
                response_model=RerankAnswer,
                summary="Documents in the order of their relevance",
            )
        return router

    async def embed(self, body: EmbedRequest) -> Response:
        service = self.room.service
        space = space_of(body.model, service)
        types = _types(body, service)
        items = await self.room.read(lambda reader: items_of(body, reader))
        role: Literal["query", "candidate"] = "query" if body.input_type == "search_query" else "candidate"
        embedded = await self.room.run(service.embeds[role, space], items)
        return await self.room.aside(_written, embedded, items, types, body.texts)

    async def rerank(self, body: RerankRequest) -> Response:
        service = self.room.service
        space_of(body.model, service)
        service.need_reranker()
        for name in ("rank_fields", "max_tokens_per_doc", "max_chunks_per_doc"):
            if getattr(body, name) is not None:
                raise UsageError("Documents are judged whole here.", where=name, do="Leave it out.")
        pairing = await self.room.read(lambda reader: _pairing(body, reader))
        [judgement] = await self.room.run(service.judges, [pairing])
        return _ranked(judgement, body)


def items_of(body: EmbedRequest, reader: Reader) -> list[Item]:
    """The items of one of the three fields, named by their places.

    Raises:
        UsageError: none or several fields are given. ItemError, RefusedError: as `Reader.item`.
    """
    given = [name for name in ("texts", "images", "inputs") if getattr(body, name)]
    if len(given) != 1:
        raise UsageError(
            "Exactly one of texts, images and inputs is needed.",
            where=", ".join(given) or None,
            do="inputs takes both texts and pictures.",
        )
    [field], most = given, reader.limits.inputs
    if len(getattr(body, field)) > most:
        raise RefusedError(413, f"A request may have {most} inputs.", where=field, do="Ask in several.")
    if body.texts:
        return [reader.item(f"texts.{n}", text, None) for n, text in enumerate(body.texts)]
    if body.images:
        return [reader.item(f"images.{n}", None, image) for n, image in enumerate(body.images)]
    return [item_of(reader, f"inputs.{n}", one.content) for n, one in enumerate(body.inputs or ())]


def _types(body: EmbedRequest, service: Service) -> list[str]:
    """The embedding types, once everything that is not offered was refused."""
    types = list(dict.fromkeys(body.embedding_types or ["float"]))
    absent = [name for name in types if name not in WRITERS]
    if absent:
        raise UsageError(
            f"Embeddings of type {', '.join(absent)} are not offered.",
            where="embedding_types",
            do=f"There are: {', '.join(WRITERS)}.",
        )
    if body.output_dimension not in (None, service.width):
        raise UsageError(
            f"The model's vectors have {service.width} dimensions; they are not cut.",
            where="output_dimension",
            do="Leave it out.",
        )
    for name, good in (("max_tokens", (None,)), ("truncate", (None, "NONE"))):
        if getattr(body, name) not in good:
            raise UsageError("Texts are not cut here.", where=name, do="Leave it out, or cut them yourself.")
    return [str(name) for name in types]


def _written(
    embedded: list[Embedded], items: list[Item], types: list[str], texts: list[str] | None
) -> Response:
    rows_ND = np.stack([one.row_D for one in embedded])
    return JSONResponse(
        {
            "id": str(uuid.uuid4()),
            "embeddings": {name: WRITERS[name](rows_ND) for name in types},
            "texts": texts,
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {
                    "input_tokens": sum(one.tokens for one in embedded),
                    "images": sum(item.image is not None for item in items),
                },
            },
            "response_type": "embeddings_by_type",
        }
    )


def _pairing(body: RerankRequest, reader: Reader) -> Pairing:
    most = reader.limits.documents
    if not body.documents:
        raise UsageError("There are no documents.", where="documents", do="Give at least one.")
    if len(body.documents) > most:
        raise RefusedError(
            413, f"A request may have {most} documents.", where="documents", do="Ask in several."
        )
    query = reader.item("query", body.query, None)
    documents = [Document(text=one) if isinstance(one, str) else one for one in body.documents]
    return Pairing(
        query, [reader.item(f"documents.{n}", one.text, one.image) for n, one in enumerate(documents)]
    )


def _ranked(judgement: Judgement, body: RerankRequest) -> Response:
    if judgement.refused:
        raise judgement.refused[0]
    order = np.argsort(-judgement.score_C, kind="stable")[: body.top_n]
    results: list[dict[str, Any]] = []
    for place in order.tolist():
        result = {"index": place, "relevance_score": _logistic(float(judgement.score_C[place]))}
        if body.return_documents:
            result["document"] = _shown(body.documents[place])
        results.append(result)
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return JSONResponse({"id": str(uuid.uuid4()), "results": results, "meta": meta})


def _shown(document: str | Document) -> dict[str, str]:
    if isinstance(document, str):
        return {"text": document}
    return document.model_dump(exclude_none=True)


def _logistic(nats: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, nats))))
