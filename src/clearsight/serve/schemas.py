"""What the house's own endpoints take and give, as JSON; OpenAI's and Cohere's shapes lie in their modules.

| request | answer |
|---|---|
| `POST /search` | `SearchRequest` -> `SearchAnswer`; space "both" puts the raw answer into `beside` |
| `GET /items?id=..&id=..` | `Items`: items by id (repeat `id`), score 0, unknown ones left out |
| `GET /items?sample=24` | `Items`: some items to begin with, the same ones for the same index |
| `GET /thumbnail?id=..` | a small JPEG; 404 for an item without a picture |
| `GET /original?id=..` | the picture as it is in the indexed folder; 404 as above |
| `GET /map` | `MapAnswer`; 202 with Retry-After and a `Fault` while it is being drawn; ETag is honoured |
| `GET /info` | `Info` |
| `GET /health` | `Health`: 200 when the model is loaded, else 503; needs no token |
| `GET /metrics` | text for Prometheus |
| `POST /session` | `Session` -> 204 and a cookie that stands for the token, for pages; DELETE forgets it |

Ids travel in the query part of an address, never in its path: a path cannot carry an id such as `..`.
Every answer that is not 2xx is a `Fault` (under /v1 and /v2: what OpenAI and Cohere write). 400: the request
does not fit; 401: no or wrong token (`WWW-Authenticate: Bearer`); 404: no such item; 413: too large; 503 with
Retry-After: busy, or the model is still being loaded; 500: `id` is in the server's log, and says no more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TOP = 10_000
MOST_TEXT = 20_000
MOST_ID = 4_096


class Body(BaseModel):
    """A request: unknown fields and wrong types are refused, not guessed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchRequest(Body):
    """A question: words, a picture, both, or an item that is there already (`like`, alone)."""

    text: Annotated[str | None, Field(max_length=MOST_TEXT, description="words")] = None
    image: Annotated[
        str | None, Field(description="a picture as a data URL: data:image/png;base64,...; none is fetched")
    ] = None
    like: Annotated[
        str | None, Field(max_length=MOST_ID, description="id of an item to find others like")
    ] = None
    where: Annotated[
        str | None, Field(max_length=MOST_TEXT, description="filter, such as year > 2020 and place = 'Bern'")
    ] = None
    top: Annotated[int, Field(ge=1, le=MOST_TOP, description="hits wanted")] = 10
    space: Annotated[
        Literal["repaired", "raw", "both"],
        Field(description="raw: before repair; both: repaired, and raw in `beside`"),
    ] = "repaired"
    rerank: Annotated[bool, Field(description="the model judges the first hits again")] = False
    rerank_top: Annotated[int, Field(ge=1, le=100, description="hits of a question that are judged")] = 20
    explain: Annotated[bool, Field(description="name the concepts that made each match")] = False


class Why(BaseModel):
    concept: str
    share: Annotated[float, Field(description="what it adds to the cosine")]


class HitAnswer(BaseModel):
    """One item found. `score` is the cosine, -1..1, also where a reranker's `fine` decides the order."""

    id: str
    score: float
    modality: str
    text: str | None
    source: Annotated[str | None, Field(description="file, relative to the indexed folder")]
    metadata: dict[str, Any]
    fine: Annotated[float | None, Field(description="the reranker's score, higher is better")]
    why: list[Why]


class SpaceAnswer(BaseModel):
    """The hits of one space, best first; `notes` are sentences a person should see."""

    space: Literal["raw", "repaired"]
    hits: list[HitAnswer]
    rows: Annotated[int, Field(description="items in the index")]
    version: int
    repair: Annotated[str, Field(description="the repair in force; empty for none and for the raw space")]
    seconds: float
    notes: list[str]


class SearchAnswer(SpaceAnswer):
    beside: Annotated[SpaceAnswer | None, Field(description="the raw answer of space both")] = None


class Items(BaseModel):
    hits: list[HitAnswer]


class MapAnswer(BaseModel):
    """Places of N items on a plane, for both spaces.

    `raw` and `repaired` are base64 of little-endian float32 pairs x, y in -1..1 (8 N bytes); `modality` is
    base64 of N bytes, each a place in `modalities`.
    """

    version: int
    ids: list[str]
    modalities: list[str]
    modality: str
    raw: str
    repaired: str


class MetadataField(BaseModel):
    name: str
    type: Annotated[str, Field(description="string, number, boolean or time")]


class Offers(BaseModel):
    """What this server can do with its model and index."""

    text: bool
    image: bool
    both: Annotated[bool, Field(description="words and a picture in one question")]
    rerank: bool
    explain: bool
    spaces: list[str]


class Info(BaseModel):
    """The collection, and what the page shows of it; `index` is all that `clearsight index info` says."""

    rows: int
    modalities: dict[str, int]
    fields: list[MetadataField]
    model: str
    repair: str
    version: int
    offers: Offers
    limits: dict[str, int]
    index: dict[str, Any]


class Health(BaseModel):
    status: Literal["ready", "loading", "failed"]


class Session(Body):
    token: Annotated[str, Field(max_length=MOST_ID)]


class Fault(BaseModel):
    """What is wrong, where, and what to do next; `id` finds an unexpected error in the server's log."""

    what: str
    where: str | None = None
    do: str | None = None
    id: str | None = None
