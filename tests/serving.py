"""What tests of the server share: a small index that opens the door `Searchable`, and a client of an app."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from clearsight.data.images import open_image
from clearsight.errors import DataError, UsageError
from clearsight.index.nouns import Hit, Query, Results
from clearsight.serve.app import create_app
from clearsight.serve.limits import Limits
from clearsight.serve.service import Service
from clearsight.types import Item

Embed = Callable[[Sequence[Item]], NDArray[np.float32]]


def png(side: int = 8, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@dataclass
class SmallIndex:
    """Items in memory, exact search; both spaces are the model's own but for a centring.

    Attributes:
        embed: items -> unnormalised rows.
    """

    entries: Sequence[Item]
    embed: Embed
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = {"raw": _unit(self.embed(self.entries))}
        self.mean = self.rows["raw"].mean(axis=0)
        self.rows["repaired"] = _unit(self.rows["raw"] - self.mean)
        self.place = {item.id: n for n, item in enumerate(self.entries)}

    def search_many(self, queries: Sequence[Query]) -> list[Results]:
        self.calls.append(len(queries))
        start = time.perf_counter()
        for query in queries:
            if query.where is not None and not query.where.startswith("year"):
                raise UsageError("The filter does not parse.", where="where", do="Compare a field.")
        items = [
            self.entries[self.place[query.like]]
            if query.like is not None
            else Item(str(n), query.text, query.image)
            for n, query in enumerate(queries)
        ]
        rows = _unit(self.embed([Item(str(n), one.text, one.image) for n, one in enumerate(items)]))
        answers = []
        for query, row in zip(queries, rows, strict=True):
            asked = row if query.space == "raw" else _unit((row - self.mean)[None])[0]
            scores = self.rows[query.space] @ asked
            order = [n for n in np.argsort(-scores, kind="stable") if self.entries[n].id != query.like]
            hits = tuple(self._hit(int(n), float(scores[n])) for n in order[: query.top])
            repair = "centred" if query.space == "repaired" else ""
            answers.append(
                Results(query, hits, len(self.entries), 1, repair, time.perf_counter() - start, ())
            )
        return answers

    def _hit(self, place: int, score: float = 0.0) -> Hit:
        item = self.entries[place]
        return Hit(item.id, score, item.modality, item.text, None, self.metadata.get(item.id, {}))

    def items(self, ids: Sequence[str]) -> list[Hit]:
        return [self._hit(self.place[one]) for one in ids if one in self.place]

    def sample(self, number: int) -> list[Hit]:
        return [self._hit(n) for n in range(min(number, len(self.entries)))]

    def _item(self, item_id: str) -> Item:
        if item_id not in self.place:
            raise DataError("There is no such item.", where=item_id)
        return self.entries[self.place[item_id]]

    def thumbnail(self, item_id: str) -> bytes | None:
        image = self._item(item_id).image
        if image is None:
            return None
        file = io.BytesIO()
        open_image(image).save(file, "JPEG")
        return file.getvalue()

    def original(self, item_id: str) -> bytes | None:
        image = self._item(item_id).image
        return image if isinstance(image, bytes) else self.thumbnail(item_id)

    def map(self) -> Mapping[str, Any]:
        return {
            "version": 1,
            "repair": "centred",
            "ids": [item.id for item in self.entries],
            "modality": [item.modality for item in self.entries],
            "raw": self.rows["raw"][:, :2],
            "repaired": self.rows["repaired"][:, :2],
        }

    def info(self) -> Mapping[str, Any]:
        kinds = [item.modality for item in self.entries]
        return {
            "rows": len(self.entries),
            "modalities": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "version": 1,
            "repair": "centred",
        }


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@contextmanager
def served(load: Callable[[], Service], **options: Any) -> Iterator[TestClient]:
    """A client of a server that has loaded its service; errors of the server are answers, as on a wire."""
    app = create_app(load, **{"limits": Limits(), **options})
    with TestClient(app, raise_server_exceptions=False) as client:
        for _ in range(2000):
            if client.get("/health").json()["status"] != "loading":
                break
            time.sleep(0.01)
        yield client
