"""What a server refuses: strangers, other sites, too much, places on the disk, and what makes it fall."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from clearsight.errors import DataError, ModelError
from clearsight.serve.app import create_app
from clearsight.serve.border import COOKIE, Border, Gate
from clearsight.serve.limits import Limits
from clearsight.serve.pages import static_routes
from clearsight.serve.room import Room
from clearsight.serve.service import Service
from serving import ODD, collection, data_url, png, served, tiny_service


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served() as client:
        yield client


@pytest.fixture(scope="module")
def locked() -> Iterator[TestClient]:
    with served(token="s3cret", hosts=frozenset({"testserver", "[::1]"})) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "path", ["/info", "/items?sample=3", "/thumbnail?id=a", "/map", "/metrics", "/v1/models"]
)
def test_without_the_token_nothing_of_the_collection_is_told(locked: TestClient, path: str) -> None:
    for headers in ({}, bearer("secret"), bearer(""), {"Authorization": "s3cret"}, bearer("S3CRET")):
        answer = locked.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "s3cret" not in answer.text


def test_with_the_token_or_its_cookie_everything_is(locked: TestClient) -> None:
    assert locked.get("/info", headers=bearer("s3cret")).status_code == 200
    assert locked.post("/session", json={"token": "wrong"}).status_code == 401
    entered = locked.post("/session", json={"token": "s3cret"})
    assert entered.status_code == 204
    assert "httponly" in entered.headers["set-cookie"].lower()
    assert "samesite=strict" in entered.headers["set-cookie"].lower()
    assert "cret" not in entered.headers["set-cookie"]
    assert locked.get("/info").status_code == 200
    locked.delete("/session")
    assert locked.get("/info").status_code == 401
    assert locked.get("/info", headers={"Cookie": f"{COOKIE}=guess"}).status_code == 401


def test_health_and_the_page_need_no_token(locked: TestClient) -> None:
    for path in ("/health", "/", "/docs", "/openapi.json"):
        assert locked.get(path).status_code == 200


def test_other_names_and_other_sites_are_refused(locked: TestClient) -> None:
    token = bearer("s3cret")
    assert locked.get("/info", headers={**token, "Host": "evil.example"}).status_code == 421
    assert locked.get("/info", headers={**token, "Host": "[::1]:8000"}).status_code == 200
    other = locked.get("/info", headers={**token, "Origin": "https://evil.example"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers
    assert locked.get("/info", headers={**token, "Origin": "null"}).status_code == 403
    assert locked.get("/info", headers={**token, "Origin": "http://testserver"}).status_code == 200


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in ("/", "/info", "/nowhere", "/docs"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_the_reference_asks_no_other_machine(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "/v2/embed" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//", page)
    for route in static_routes():
        if not route.path.endswith((".png", ".ico", ".woff2")):
            text = client.get(route.path).text
            assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//", text), route.path


@pytest.mark.parametrize(
    "path",
    [
        "/../border.py", "/%2e%2e/border.py", "/..%2fborder.py", "/static/../border.py", "//etc/passwd",
        "/%2fetc%2fpasswd", "/....//border.py", "/..\\border.py", "/index.html/../../app.py", "/%00",
        "/.git/config", "/__init__.py",
    ],
)  # fmt: skip
def test_no_path_leaves_the_page(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "name", ["nobody", "../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "\0", "a' or '1'='1", ""]
)
def test_no_id_leaves_the_collection(client: TestClient, name: str) -> None:
    for path in ("/thumbnail", "/original"):
        assert client.get(path, params={"id": name}).status_code == 404
    assert client.get("/items", params={"id": name}).json() == {"hits": []}


def test_a_file_that_became_a_link_to_elsewhere_is_not_served(client: TestClient) -> None:
    picture = collection() / ODD
    secret = collection().parent / f"{collection().name}-secret.png"
    content = picture.read_bytes()
    secret.write_bytes(png(colour="blue"))
    try:
        picture.unlink()
        picture.symlink_to(secret)
        answer = client.get("/original", params={"id": ODD})
        assert answer.status_code == 404
        assert str(secret) not in answer.text
    finally:
        picture.unlink()
        picture.write_bytes(content)
        secret.unlink()


def test_bodies_are_refused_before_they_are_read_whole() -> None:
    with served(limits=Limits(body_bytes=1000)) as client:
        said = client.post("/search", content=b"x" * 2000, headers={"content-type": "application/json"})
        assert (said.status_code, said.headers["connection"]) == (413, "close")
        sent = []

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                sent.append(1)
                yield b" " * 100

        unsaid = client.post("/search", content=endless(), headers={"content-type": "application/json"})
        assert unsaid.status_code == 413
        assert client.post("/search", json={"text": "a"}).status_code == 200


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 50_000])
def test_bombs_are_refused_undecoded(client: TestClient, side: int) -> None:
    answer = client.post("/search", json={"image": data_url(bomb(side))})
    assert answer.status_code == 400
    assert "pixels" in answer.text or "Bomb" in answer.text


def test_pictures_of_a_request_are_counted_together() -> None:
    with served(limits=Limits(pixels=64 * 64 * 3)) as client:
        for count, status in ((3, 200), (4, 400)):
            images = [data_url(png())] * count
            body = {"model": "tiny", "input_type": "image", "images": images}
            assert client.post("/v2/embed", json=body).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"text"', b'{"text": "a", "top": NaN}', b'{"text": "a", "top": 1e999}',
        b'{"text": "a", "top": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\x00",
        b'{"text": "\\ud800"}', b'{"text": "a", "__proto__": {}}', b'{"text": {"$ne": null}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/search", "/v1/embeddings", "/v2/embed", "/rerank", "/session"])
def test_json_that_does_not_fit_is_a_400(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert json.loads(answer.text)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_types_are_refused(client: TestClient, kind: str) -> None:
    answer = client.post("/search", content=b'{"text": "a"}', headers={"content-type": kind})
    assert answer.status_code == 400


def test_an_unexpected_fault_says_an_id_and_nothing_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fall() -> Any:
        raise RuntimeError("the secret of /home/someone")

    monkeypatch.setattr(tiny_service().index, "sample", lambda number: fall())
    with caplog.at_level(logging.ERROR, "clearsight.serve"):
        answer = client.get("/items?sample=3")
    assert answer.status_code == 500
    fault = answer.json()
    assert "secret" not in answer.text
    assert fault["id"] in caplog.text
    assert "the secret of /home/someone" in caplog.text


def test_faults_of_the_disk_are_not_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(number: int) -> Any:
        raise DataError("The store at /srv/x is broken.", where="/srv/x/items.lance")

    monkeypatch.setattr(tiny_service().index, "sample", fall)
    answer = client.get("/items?sample=3")
    assert answer.status_code == 500
    assert "/srv" not in answer.text


def test_a_full_queue_says_when_to_come_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    room: Room = client.app.state.room  # type: ignore[attr-defined]
    monkeypatch.setattr(room.batcher, "_most_waiting", 0)
    answer = client.post("/search", json={"text": "a"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    monkeypatch.undo()
    assert client.post("/search", json={"text": "a"}).status_code == 200


def test_while_the_model_loads_and_when_it_cannot() -> None:
    gate = threading.Event()

    def slow() -> Service:
        gate.wait(20)
        return tiny_service()

    app = create_app(slow)
    with TestClient(app) as client:
        waiting = client.get("/health")
        assert (waiting.status_code, waiting.json()) == (503, {"status": "loading"})
        answer = client.post("/search", json={"text": "a"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        gate.set()
        while client.get("/health").status_code != 200:
            pass
        assert client.post("/search", json={"text": "a"}).status_code == 200

    told: list[Exception | None] = []

    def broken() -> Service:
        raise ModelError("No such model.")

    with served(broken, told=told.append) as client:
        assert client.get("/health").json() == {"status": "failed"}
        assert isinstance(told[0], ModelError)


def test_thirty_two_clients_get_what_each_gets_alone() -> None:
    texts = [f"a {color} {shape}" for color in ("red", "blue", "green", "pink") for shape in
             ("ring", "star", "cross", "heart", "circle", "square", "diamond", "triangle")]  # fmt: skip
    with served() as client:

        def row(text: str) -> np.ndarray:
            answer = client.post("/v1/embeddings", json={"model": "tiny", "input": text})
            return np.array(answer.json()["data"][0]["embedding"], np.float32)

        def ids(text: str) -> list[str]:
            return [hit["id"] for hit in client.post("/search", json={"text": text, "top": 5}).json()["hits"]]

        alone = [row(text) for text in texts]
        found = [ids(text) for text in texts]
        with ThreadPoolExecutor(32) as clients:
            together = list(clients.map(row, texts))
            np.testing.assert_allclose(together, alone, atol=1e-5)
            assert list(clients.map(ids, texts)) == found
        counts = dict(
            line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#"
        )
        lane = '{lane="embed_candidate_raw"}'
        assert int(counts[f"clearsight_batch_requests_total{lane}"]) == 64
        assert int(counts[f"clearsight_batches_total{lane}"]) < 64


def asgi(path: str = "/search") -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": []}


def border(app: Any, **limits: Any) -> Border:
    return Border(app, Gate(), Room(tiny_service, Limits(**limits)))


def test_a_client_that_leaves_cancels_its_work() -> None:
    cancelled: list[bool] = []
    sent: list[Any] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def story() -> None:
        messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            await asyncio.sleep(0.01)
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        edge = border(endless)
        await asyncio.wait_for(edge(asgi(), receive, send), 5)
        assert edge.held == 0

    asyncio.run(story())
    assert (cancelled, sent) == ([True], [])


def test_a_body_that_never_ends_is_not_waited_for() -> None:
    sent: list[Any] = []

    async def story() -> None:
        first = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            if first:
                return first.pop()
            return await asyncio.sleep(30)

        async def send(message: Any) -> None:
            sent.append(message)

        edge = border(None, read_seconds=0.05)
        await asyncio.wait_for(edge(asgi(), receive, send), 5)
        assert edge.held == 0

    asyncio.run(story())
    assert sent[0]["status"] == 408


def test_bodies_of_all_requests_together_are_bounded() -> None:
    statuses: list[int] = []

    async def story() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"x" * 60, "more_body": True}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        edge = border(None, body_bytes=1000, held_bytes=100)
        await edge(asgi(), receive, send)

    asyncio.run(story())
    assert statuses == [503]
