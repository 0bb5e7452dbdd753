"""A server with the shapes of `clearsight.serve` and an invented collection, for tests of the page alone.

It can be told to misbehave: `server.faults` maps a path to (status, body) that is answered instead.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image, ImageDraw

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}
COLOURS = ("red", "green", "blue", "orange", "purple", "teal")
SHAPES = ("ring", "star", "square", "triangle")
PLACES = ("Bern", "Basel", "Chur", "東京")
MODALITIES = ("image", "text", "image+text")


class Collection:
    """N items with captions, years and places; every 97th has a picture that cannot be shown."""

    def __init__(self, n: int, *, repair: str = "000003") -> None:
        self.n, self.repair = n, repair
        rng = np.random.default_rng(7)
        self.kind = rng.choice(3, n, p=[0.7, 0.2, 0.1])
        centre = rng.normal(size=(12, 2)) * 0.45
        self.repaired = centre[rng.integers(0, 12, n)] + rng.normal(size=(n, 2)) * 0.08
        self.raw = np.stack([np.where(self.kind == 1, 0.6, -0.5), np.zeros(n)], 1)
        self.raw += rng.normal(size=(n, 2)) * [0.12, 0.3]

    def hit(self, i: int, score: float = 0.0, why: bool = False) -> dict[str, Any]:
        below = f"a {COLOURS[i * 5 % 6]} {SHAPES[i // 4 % 4]}"
        text = f"a {COLOURS[i % 6]} {SHAPES[i % 4]} above {below}, drawn in {1990 + i % 35}"
        kind = MODALITIES[self.kind[i]]
        return {
            "id": f"photos/{i:06}.jpg" if kind != "text" else f"notes/{i}",
            "score": score,
            "modality": kind,
            "text": None if kind == "image" and i % 3 == 0 else text,
            "source": f"photos/{i:06}.jpg" if kind != "text" else None,
            "metadata": {"year": 1990 + i % 35, "place": PLACES[i % 4], "shared": i % 2 == 0},
            "fine": None,
            "why": [
                {"concept": f"rings, concept {i % 50}", "share": 0.41},
                {"concept": "above", "share": 0.2},
            ]
            if why
            else [],
        }

    def index(self, item_id: str) -> int | None:
        found = re.search(r"(\d+)(\.jpg)?$", item_id)
        return int(found[1]) if found and int(found[1]) < self.n else None

    def order(self, question: str, space: str) -> np.ndarray[Any, Any]:
        """The same first items in either space, in orders that differ."""
        rng = np.random.default_rng(sum(question.encode()))
        base = rng.permutation(self.n)
        if space == "raw" and self.n > 1:
            base = base[np.argsort(np.arange(self.n) + rng.normal(size=self.n) * 9, kind="stable")]
        return base

    def search(self, body: dict[str, Any], space: str) -> dict[str, Any]:
        question = json.dumps([body.get("text"), (body.get("image") or "")[:400], body.get("like")])
        keep = allowed(body.get("where"))
        hits = []
        for place, i in enumerate(self.order(question, space)):
            if len(hits) == body.get("top", 10):
                break
            if not keep(self.hit(int(i))) or (body.get("like") and self.index(body["like"]) == i):
                continue
            score = 0.62 * 0.9995**place if space == "repaired" else 0.93 - place * 1e-5
            hit = self.hit(int(i), score, body.get("explain", False))
            if body.get("rerank") and place < 20:
                hit["fine"] = 4.5 - place / 7
            hits.append(hit)
        return {
            "space": space,
            "hits": hits,
            "rows": self.n,
            "version": 5,
            "repair": self.repair if space == "repaired" else "",
            "seconds": 0.012,
            "notes": ["Queries have drifted: 4.1 standard errors from those the repair was fitted on."]
            if body.get("text") == "drift"
            else [],
        }

    def info(self) -> dict[str, Any]:
        spaces = ["repaired", "raw"] if self.repair else ["repaired"]
        return {
            "rows": self.n,
            "modalities": {name: int((self.kind == k).sum()) for k, name in enumerate(MODALITIES)},
            "fields": [
                {"name": "year", "type": "number"},
                {"name": "place", "type": "string"},
                {"name": "shared", "type": "boolean"},
            ],
            "model": "tiny",
            "repair": self.repair,
            "version": 5,
            "offers": {
                "text": True,
                "image": True,
                "both": True,
                "rerank": True,
                "explain": True,
                "spaces": spaces,
            },
            "limits": {"body_bytes": 32 << 20, "pixels": 64_000_000},
            "index": self.facts(),
        }

    def facts(self) -> dict[str, Any]:
        """As `clearsight index info` has them."""
        kinds = {name: int((self.kind == k).sum()) for k, name in enumerate(MODALITIES)}
        figures = ("anisotropy", "common_share", "effective_rank", "isoscore", "hubness", "modality_gap")
        moved = {"side": "query", "modality": "text", "count": 412, "errors": 9.1, "spreads": 0.31}
        stayed = {"side": "candidate", "modality": "image", "count": 900, "errors": 1.1, "spreads": 0.02}
        return {
            "name": "holiday photos",
            "update": "clearsight index 'holiday photos'",
            "rows": self.n,
            "modalities": kinds,
            "metadata": {"year": "number", "place": "string"},
            "model": "tiny",
            "revision": "0123456789ab",
            "prompt": "one_word",
            "pooling": "mean",
            "layer": -1,
            "width": 256,
            "repair": self.repair,
            "repaired": {
                "asked": "auto",
                "in_force": "self_aligned" if self.repair else "none",
                "fitted_on": {"rows": kinds, "pairs": 500, "held_out": None},
            },
            "geometry": {
                "before": dict(zip(figures, (0.9312, 0.934, 14.2, 0.011, 6.31, 0.812), strict=True)),
                "after": dict(zip(figures, (0.0021, 0.031, 88.9, 0.312, 1.92, 0.043), strict=True)),
            },
            "drift": [stayed | {"moved": False}, moved | {"moved": True}],
            "queries": {"text": 412},
            "learn_queries": True,
            "version": 5,
            "store": {"kind": "lance", "rows": self.n, "bytes": 12_345_678, "files": 3, "index": None},
            "notes": ["The queries of today (text, 412) lie 0.31 spreads from those of the fit: refit it."],
        }

    def map(self) -> dict[str, Any]:
        def octets(values: Any) -> str:
            return base64.b64encode(values.tobytes()).decode()

        return {
            "version": 5,
            "repair": self.repair,
            "ids": [f"photos/{i:06}.jpg" if k != 1 else f"notes/{i}" for i, k in enumerate(self.kind)],
            "modalities": list(MODALITIES),
            "modality": octets(self.kind.astype(np.uint8)),
            "raw": octets(self.raw.clip(-1, 1).astype("<f4")),
            "repaired": octets(self.repaired.clip(-1, 1).astype("<f4")),
        }


class FaultyFilterError(Exception):
    pass


def allowed(where: str | None) -> Any:
    """`year > N` or `year < N`, a modality, or both as the page joins them; else it does not parse."""
    if where is None:
        return lambda hit: True
    found = re.fullmatch(r"modality = '([a-z+]+)'(?: and \((.*)\))?", where)
    if found is not None:
        rest = allowed(found[2])
        return lambda hit: hit["modality"] == found[1] and rest(hit)
    found = re.fullmatch(r"\s*year ([<>]) (\d+)\s*", where)
    if found is None:
        raise FaultyFilterError(where)
    bound = int(found[2])
    if found[1] == ">":
        return lambda hit: hit["metadata"]["year"] > bound
    return lambda hit: hit["metadata"]["year"] < bound


@lru_cache(maxsize=4096)
def thumbnail(i: int, edge: int = 256) -> bytes:
    """A drawing of the item in its colours; wide, square or tall."""
    size = ((edge, edge * 3 // 4), (edge, edge), (edge * 3 // 4, edge))[i % 3]
    image = Image.new("RGB", size, (242, 240, 234))
    pen = ImageDraw.Draw(image)
    w, h = size
    for part, (colour, shape) in enumerate(
        ((COLOURS[i % 6], SHAPES[i % 4]), (COLOURS[i * 5 % 6], SHAPES[i // 4 % 4]))
    ):
        x, y, r = w * (0.3 + 0.07 * (i % 6)), h * (0.3 + 0.42 * part), edge * 0.15
        if shape == "ring":
            pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=10)
        elif shape == "square":
            pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        elif shape == "triangle":
            pen.polygon(((x, y - r), (x + r, y + r), (x - r, y + r)), fill=colour)
        else:
            angles = np.arange(10) * np.pi / 5 - np.pi / 2
            reach = np.where(np.arange(10) % 2, r * 0.45, r)
            pen.polygon(
                [(x + a, y + b) for a, b in zip(reach * np.cos(angles), reach * np.sin(angles), strict=True)],
                fill=colour,
            )
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    server: SearchServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, body: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(body).encode(), "application/json", **headers)

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        path, said = asked.path.lstrip("/"), parse_qs(asked.query)
        self.server.seen.append(self.path)
        if self.server.closed(self.headers) and path in ("info", "items", "map", "thumbnail"):
            self.json({"what": "A token is needed."}, 401)
            return
        if path in self.server.faults:
            status, body, headers = self.server.faults[path]
            self.json(body, status, **headers)
            return
        world = self.server.world
        if path == "info":
            self.json(world.info() | self.server.info)
        elif path == "items":
            ids = [world.index(one) for one in said.get("id", [])]
            picked = (
                range(min(int(said["sample"][0]), world.n))
                if "sample" in said
                else [i for i in ids if i is not None]
            )
            self.json({"hits": [world.hit(i) for i in picked]})
        elif path == "map":
            self.json(world.map())
        elif path in ("thumbnail", "original"):
            i = world.index(said["id"][0])
            if i is None or i % 97 == 13:
                self.json({"what": "No such picture."}, 404)
            else:
                self.answer(200, thumbnail(i % 3000), "image/jpeg", Cache_Control="max-age=3600")
        else:
            self.file(path)

    def file(self, path: str) -> None:
        name = path or "index.html"
        found = files("clearsight.serve").joinpath("static", name)
        if "/" in name or not found.is_file():
            self.json({"what": "No such page."}, 404)
        else:
            self.answer(200, found.read_bytes(), TYPES[name.rsplit(".", 1)[-1]])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.lstrip("/")
        self.server.seen.append(self.path)
        if path == "session":
            if body["token"] == self.server.token:
                self.answer(204, b"", "text/plain", Set_Cookie="session=1; HttpOnly; SameSite=Strict")
            else:
                self.json({"what": "This is not the token."}, 401)
            return
        self.server.asked.append(body)
        if path in self.server.faults:
            status, fault, headers = self.server.faults[path]
            self.json(fault, status, **headers)
            return
        world, space = self.server.world, body.get("space", "repaired")
        try:
            answer = world.search(body, "repaired" if space == "both" else space)
            if space == "both":
                answer["beside"] = world.search(body, "raw")
            self.json(answer)
        except FaultyFilterError:
            at = body["where"].find(">") + 1 or len(body["where"])
            place = f"character {at}: {body['where'][at - 1 :]}"
            self.json(
                {"what": "The filter does not parse.", "where": place, "do": "Such as: year > 2020."}, 400
            )


class SearchServer(ThreadingHTTPServer):
    """Serves a `Collection` on a free port of this machine until `close`."""

    daemon_threads = True

    def __init__(self, n: int, *, token: str = "", repair: str = "000003") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.world = Collection(n, repair=repair)
        self.token = token
        self.faults: dict[str, tuple[int, Any, dict[str, str]]] = {}
        self.info: dict[str, Any] = {}
        self.seen: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def closed(self, headers: Any) -> bool:
        return bool(self.token) and "session=1" not in (headers.get("Cookie") or "")

    def close(self) -> None:
        self.shutdown()
        self.server_close()
