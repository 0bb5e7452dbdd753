"""OpenAI's embeddings API: `POST /v1/embeddings`, `GET /v1/models`.

Beyond OpenAI's: an input may be a content part ({"type": "image_url", ...}), a list of parts, or {"content":
[parts]}; `input_type` says which side of a search the inputs are. Not offered, and refused: token ids, other
`dimensions` than the model's. Vectors have length 1; the name NAME asks for them as the model makes them,
NAME:repaired as they are after the index's repair, where words find pictures better.
Source: the API reference of OpenAI, and the types of openai-python 3.54.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from clearsight.errors import UsageError
from clearsight.serve.faults import RefusedError
from clearsight.serve.inputs import Reader
from clearsight.serve.parts import Content, ImagePart, Part, TextPart, item_of
from clearsight.serve.room import Room
from clearsight.serve.schemas import Body
from clearsight.serve.service import Embedded, Service, Space
from clearsight.types import Item

Input = str | Part | Content | list[Part] | list[int]


class EmbeddingRequest(Body):
    input: Annotated[
        str | list[Input] | Content | list[int],
        Field(description="texts, pictures as data URLs, or both together; token ids are refused"),
    ]
    model: Annotated[str, Field(max_length=1000)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1, description="refused unless it is the model's own")] = None
    user: Annotated[str | None, Field(description="looked at by nobody here")] = None
    input_type: Annotated[
        Literal["query", "document", "search_query", "search_document"],
        Field(description="which side of a search the inputs are"),
    ] = "document"


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: Annotated[int, Field(description="tokens of the texts; pictures and prompts not counted")]
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "clearsight"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class OpenAi:
    """The endpoints."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def router(self) -> APIRouter:
        router = APIRouter(tags=["OpenAI"])
        router.add_api_route(
            "/v1/embeddings",
            self.embeddings,
            methods=["POST"],
            response_model=EmbeddingList,
            summary="Vectors of texts and pictures",
        )
        router.add_api_route(
            "/v1/models",
            self.models,
            methods=["GET"],
            response_model=ModelList,
            summary="The names that may be asked for",
        )
        return router

    async def models(self) -> ModelList:
        return ModelList(data=[Model(id=name) for name in self.room.service.models])

    async def embeddings(self, body: EmbeddingRequest) -> Response:
        service = self.room.service
        space = space_of(body.model, service)
        if body.dimensions not in (None, service.width):
            raise UsageError(
                f"The model's vectors have {service.width} dimensions; they are not cut.",
                where="dimensions",
                do="Leave it out.",
            )
        items = await self.room.read(lambda reader: items_of(body.input, reader))
        role: Literal["query", "candidate"] = "query" if body.input_type.endswith("query") else "candidate"
        embedded = await self.room.run(service.embeds[role, space], items)
        return await self.room.aside(_written, embedded, body.encoding_format, body.model)


def space_of(model: str, service: Service) -> Space:
    """Which vectors a model's name asks for.

    Raises:
        RefusedError: it is not served here.
    """
    models = service.models
    if model not in models:
        raise RefusedError(
            404,
            f"The model '{model[:100]}' is not served here.",
            where="model",
            do=f"There is {' and '.join(repr(name) for name in models)}.",
            code="model_not_found",
        )
    return models[model]


def items_of(given: Any, reader: Reader) -> list[Item]:
    """The items of `input`, named by their places.

    Raises:
        UsageError: none, too many, or token ids. ItemError, RefusedError: as `Reader.item`.
    """
    inputs = given if isinstance(given, list) else [given]
    most = reader.limits.inputs
    if not inputs:
        raise UsageError("There is no input.", where="input", do="Give at least one.")
    if _is_tokens(inputs) or any(isinstance(one, list) and _is_tokens(one) for one in inputs):
        raise UsageError(
            "Token ids cannot be embedded: they would be read by another tokenizer than wrote them.",
            where="input",
            do="Send texts (LangChain: check_embedding_ctx_length=False).",
        )
    if len(inputs) > most:
        raise RefusedError(413, f"A request may have {most} inputs.", where="input", do="Ask in several.")
    return [_item(reader, f"input.{n}", one) for n, one in enumerate(inputs)]


def _is_tokens(inputs: list[Any]) -> bool:
    return bool(inputs) and isinstance(inputs[0], int)


def _item(reader: Reader, place: str, given: Any) -> Item:
    if isinstance(given, str):
        return reader.item(place, given, None)
    if isinstance(given, Content):
        return item_of(reader, place, given.content)
    parts: list[TextPart | ImagePart] = given if isinstance(given, list) else [given]
    return item_of(reader, place, parts)


def _written(embedded: list[Embedded], form: str, model: str) -> Response:
    def row(one: Embedded) -> Any:
        if form == "float":
            return one.row_D.tolist()
        return base64.b64encode(one.row_D.astype(np.dtype("<f4")).tobytes()).decode()

    tokens = sum(one.tokens for one in embedded)
    return JSONResponse(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": n, "embedding": row(one)} for n, one in enumerate(embedded)
            ],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
