"""The endpoints over the shipped model and a small index: shapes, refusals, faults."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from clearsight import Encoder, Item
from clearsight.index import Index
from clearsight.rerank import Reranker
from clearsight.serve.items import _update
from clearsight.serve.service import Service
from serving import ODD, PICTURES, ROWS, autoencoder, collection, data_url, png, served, tiny_service


@pytest.fixture(scope="module")
def service() -> Service:
    return tiny_service()


@pytest.fixture(scope="module")
def encoder(service: Service) -> Encoder:
    return service.encoder


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served() as client:
        yield client


def vectors(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def embed(client: TestClient, given: Any, **more: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": "tiny", "input": given, **more})


def test_vectors_are_the_encoders_at_length_one(client: TestClient, encoder: Encoder) -> None:
    texts = ["a red ring above a star", "two blue squares"]
    rows = vectors(embed(client, texts))
    own = encoder.embed([Item(str(n), text=text) for n, text in enumerate(texts)]).rows_ND
    np.testing.assert_allclose(rows, own / np.linalg.norm(own, axis=1, keepdims=True), atol=1e-5)
    answer = embed(client, texts[0]).json()
    assert (answer["object"], answer["model"], answer["data"][0]["object"]) == ("list", "tiny", "embedding")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 3


def test_base64_is_the_same_vector_as_little_endian_float32(client: TestClient) -> None:
    rows = vectors(embed(client, "a red ring"))
    coded = embed(client, "a red ring", encoding_format="base64").json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), rows[0], atol=1e-6)


def test_pictures_and_both_together(client: TestClient, encoder: Encoder) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(png(64))}}
    words = {"type": "text", "text": "what is this"}
    rows = vectors(embed(client, [picture, {"content": [words, picture]}, [words, picture], "what is this"]))
    own = encoder.embed([Item("i", image=png(64)), Item("b", text="what is this", image=png(64))]).rows_ND
    own = own / np.linalg.norm(own, axis=1, keepdims=True)
    np.testing.assert_allclose(rows[:3], own[[0, 1, 1]], atol=1e-5)
    assert np.abs(rows[3] - rows[1]).max() > 1e-3


def test_sides_of_a_search_may_be_worded_apart(client: TestClient) -> None:
    assert embed(client, "a", input_type="query").status_code == 200
    assert embed(client, "a", input_type="passage").status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": [1, 2, 3]}, 400, "Token ids"),
        ({"input": [[1, 2], [3]]}, 400, "Token ids"),
        ({"input": []}, 400, "no input"),
        ({"input": ""}, 400, "empty"),
        ({"input": ["good", "  "]}, 400, "empty"),
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "There is 'tiny'"),
        ({"input": "a", "dimensions": 8}, 400, "not cut"),
        ({"input": "a", "encoding_format": "hex"}, 400, "float"),
        ({"input": "a", "unheard_of": 1}, 400, "Extra"),
        ({"input": {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}}, 400, ""),
        ({"input": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}]}, 400, "fetches no"),
        ({"input": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}, 400, "fetches no"),
        ({"input": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}, 400, "no data URL"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!!"}}]}, 400, "broken"),
        (
            {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            400,
            "image",
        ),
        ({"input": ["x" * 20_001]}, 413, "20,000"),
        ({"input": ["x"] * 513}, 413, "512"),
        ({"input": "half a pair \ud800"}, 400, ""),
        ({}, 400, "required"),
    ],
)
def test_openai_refusals_have_openais_shape(
    client: TestClient, body: dict[str, Any], status: int, words: str
) -> None:
    answer = client.post(
        "/v1/embeddings",
        content=json.dumps({"model": "tiny", **body}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    fault = answer.json()["error"]
    assert words.lower() in fault["message"].lower()
    assert set(fault) == {"message", "type", "param", "code"}


def test_models(client: TestClient) -> None:
    answer = client.get("/v1/models").json()
    rest = {"object": "model", "created": 0, "owned_by": "clearsight"}
    assert answer["object"] == "list"
    assert answer["data"] == [{"id": "tiny", **rest}, {"id": "tiny:repaired", **rest}]


def test_repaired_vectors_are_those_of_the_index(client: TestClient, service: Service) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(png())}}
    rows = vectors(embed(client, [picture], model="tiny:repaired"))
    words = vectors(embed(client, ["a red ring"], model="tiny:repaired", input_type="query"))
    stored = next(service.index.store.view().read(["id", "vector"], ids=[ODD])).column("vector").to_pylist()
    np.testing.assert_allclose(rows[0], stored[0], atol=1e-4)
    hits = search(client, text="a red ring", top=100).json()["hits"]
    score = next(hit["score"] for hit in hits if hit["id"] == ODD)
    assert float(rows[0] @ words[0]) == pytest.approx(score, abs=1e-4)


def cohere(client: TestClient, **body: Any) -> Any:
    return client.post("/v2/embed", json={"model": "tiny", "input_type": "search_document", **body})


def test_cohere_texts_pictures_and_inputs(client: TestClient) -> None:
    texts = cohere(
        client, texts=["a red ring", "a star"], embedding_types=["float", "base64", "ubinary", "binary"]
    )
    assert texts.status_code == 200, texts.text
    answer = texts.json()
    rows = np.array(answer["embeddings"]["float"], np.float32)
    np.testing.assert_allclose(rows, vectors(embed(client, ["a red ring", "a star"])), atol=1e-6)
    unpacked = np.unpackbits(np.array(answer["embeddings"]["ubinary"], np.uint8), axis=1)
    np.testing.assert_array_equal(unpacked, rows > 0)
    signed = np.array(answer["embeddings"]["binary"])
    np.testing.assert_array_equal(signed + 128, answer["embeddings"]["ubinary"])
    assert np.frombuffer(base64.b64decode(answer["embeddings"]["base64"][0]), "<f4").shape == rows[0].shape
    assert answer["texts"] == ["a red ring", "a star"]
    assert answer["response_type"] == "embeddings_by_type"

    picture = cohere(client, images=[data_url(png(64))], input_type="image").json()["embeddings"]["float"]
    parts = [{"type": "image_url", "image_url": {"url": data_url(png(64))}}]
    inputs = cohere(client, inputs=[{"content": parts}]).json()["embeddings"]["float"]
    np.testing.assert_allclose(picture, inputs, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"texts": ["a"], "embedding_types": ["int8"]}, "int8"),
        ({"texts": ["a"], "embedding_types": ["float64"]}, "input should be"),
        ({"texts": ["a"], "truncate": "END"}, "not cut"),
        ({"texts": ["a"], "max_tokens": 5}, "not cut"),
        ({"texts": ["a"], "output_dimension": 3}, "not cut"),
        ({"texts": ["a"], "images": ["data:image/png;base64,AAAA"]}, "exactly one"),
        ({}, "exactly one"),
        ({"images": ["https://example.org/a.png"]}, "fetches no addresses"),
        ({"texts": ["a"], "input_type": "chat"}, "input should be"),
        ({"inputs": [{"content": []}]}, "at least 1"),
    ],
)
def test_cohere_refusals_have_coheres_shape(client: TestClient, body: dict[str, Any], words: str) -> None:
    answer = cohere(client, **body)
    assert answer.status_code == 400
    assert words in answer.json()["message"].lower()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_orders_documents(client: TestClient, service: Service, path: str) -> None:
    documents = ["two blue squares", "a red ring", {"text": "a green star"}]
    body = {"model": "tiny", "query": "a red ring", "documents": documents, "return_documents": True}
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    scores = [one["relevance_score"] for one in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert sorted(one["index"] for one in results) == [0, 1, 2]
    assert next(one for one in results if one["index"] == 2)["document"] == {"text": "a green star"}
    asked = Item("q", text="a red ring")
    own = Reranker.load(service.encoder.loaded).rank(
        asked,
        [Item(str(n), text=t) for n, t in enumerate(["two blue squares", "a red ring", "a green star"])],
    )
    assert [str(one["index"]) for one in results] == [name for name, _ in own]
    first = client.post(path, json={**body, "top_n": 1}).json()["results"]
    assert [one["index"] for one in first] == [results[0]["index"]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"documents": []}, "no documents"),
        ({"documents": ["a"], "max_tokens_per_doc": 5}, "judged whole"),
        ({"documents": ["a"], "top_n": 0}, "greater than or equal to 1"),
        ({"documents": [" "]}, "empty"),
        ({"documents": [{"image": "data:image/png;base64,AAAA"}]}, "image"),
        ({"documents": [{}]}, "needs a text"),
    ],
)
def test_rerank_refusals(client: TestClient, body: dict[str, Any], words: str) -> None:
    answer = client.post("/rerank", json={"model": "tiny", "query": "a", **body})
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["message"].lower()


def search(client: TestClient, **body: Any) -> Any:
    return client.post("/search", json=body)


def test_search_by_words_picture_both_and_like(client: TestClient, service: Service) -> None:
    caption = "a red ring"
    by_text = search(client, text=caption, top=3)
    assert by_text.status_code == 200, by_text.text
    answer = by_text.json()
    assert len(answer["hits"]) == 3
    assert (answer["space"], answer["repair"], answer["rows"]) == ("repaired", "000001", ROWS)
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["beside"] is None
    picture = search(client, image=data_url(png()), top=1, space="raw").json()["hits"][0]
    assert (picture["id"], picture["source"], picture["modality"]) == (ODD, ODD, "image")
    assert picture["metadata"] == {"year": 2030, "share": 0.5, "place": "Bern"}
    both = search(client, image=data_url(png()), text="a red ring", top=1).json()
    assert len(both["hits"]) == 1
    alike = search(client, like=ODD, top=100).json()
    assert len(alike["hits"]) == ROWS - 1
    assert ODD not in [hit["id"] for hit in alike["hits"]]


def test_filters(client: TestClient) -> None:
    hits = search(client, text="a star", where="year >= 2033 and modality = 'text'", top=100).json()["hits"]
    assert sorted(hit["metadata"]["year"] for hit in hits) == [2033, 2034, 2035]
    assert search(client, text="a star", where="place = 'nowhere'").json()["hits"] == []


def test_both_spaces_in_one_answer(client: TestClient) -> None:
    both = search(client, text="a star", space="both").json()
    for space, answer in (("repaired", both), ("raw", both["beside"])):
        alone = search(client, text="a star", space=space).json()
        assert answer["space"] == space
        assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in alone["hits"]]


def test_search_again_by_the_judge(client: TestClient) -> None:
    plain = search(client, text="a red ring", top=6).json()["hits"]
    fine = search(client, text="a red ring", top=6, rerank=True, rerank_top=4).json()["hits"]
    assert {hit["id"] for hit in fine[:4]} == {hit["id"] for hit in plain[:4]}
    assert [hit["id"] for hit in fine[4:]] == [hit["id"] for hit in plain[4:]]
    scores = [hit["fine"] for hit in fine[:4]]
    assert scores == sorted(scores, reverse=True)
    assert [hit["fine"] for hit in fine[4:]] == [None, None]
    by_picture = search(client, image=data_url(png(64)), top=3, rerank=True)
    assert by_picture.status_code == 200, by_picture.text
    assert all(0 <= hit["fine"] <= 1 for hit in by_picture.json()["hits"])
    alike = search(client, like=ODD, top=2, rerank=True).json()["hits"]
    assert all(hit["fine"] is not None for hit in alike)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "empty"),
        ({"text": ""}, 400, "empty"),
        ({"text": "a", "like": "b"}, 400, "alone"),
        ({"like": "nobody"}, 404, "no such item"),
        ({"text": "a", "top": 0}, 400, "greater"),
        ({"text": "a", "top": 1_000_000}, 400, "less"),
        ({"text": "a", "top": "10"}, 400, "integer"),
        ({"text": "a", "space": "both of them"}, 400, "repaired"),
        ({"text": "a", "where": "drop table items"}, 400, ""),
        ({"text": "a", "where": "1 = 1; --"}, 400, ""),
        ({"text": "a", "where": "unheard_of = 1"}, 400, "unheard_of"),
        ({"text": "a", "explain": True}, 400, "autoencoder"),
        ({"image": "https://example.org/a.png"}, 400, "fetches no"),
        ({"image": "data:text/html,<script>"}, 400, "no data url"),
        ({"text": "x" * 20_001}, 400, "20000"),
    ],
)
def test_search_refusals(client: TestClient, body: dict[str, Any], status: int, words: str) -> None:
    answer = search(client, **body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["what"].lower()
    assert set(answer.json()) == {"what", "where", "do", "id"}


def test_matches_are_explained_where_there_is_an_autoencoder(service: Service) -> None:
    explaining = Service(
        Index.open(collection(), encoder=service.index.encoder), sae=autoencoder(service.width)
    )
    with served(lambda: explaining) as client:
        assert client.get("/info").json()["offers"]["explain"] is True
        answer = search(client, text="a red ring", top=5, explain=True, space="both").json()
        reasons = [why for hit in (*answer["hits"], *answer["beside"]["hits"]) for why in hit["why"]]
        assert reasons
        assert all(why["concept"] and why["share"] > 0 for why in reasons)


def test_items_and_pictures(client: TestClient) -> None:
    hits = client.get("/items", params={"id": [ODD, "nobody"]}).json()["hits"]
    assert [hit["id"] for hit in hits] == [ODD]
    everything = client.get("/items", params={"sample": 100}).json()["hits"]
    assert len(everything) == ROWS
    assert len(client.get("/items", params={"sample": 5}).json()["hits"]) == 5
    assert client.get("/items").status_code == 400
    assert client.get("/items", params={"sample": 5, "id": "a"}).status_code == 400
    small = client.get("/thumbnail", params={"id": ODD})
    assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
    whole = client.get("/original", params={"id": ODD})
    assert (whole.content, whole.headers["content-type"]) == (png(), "image/png")
    silent = next(hit["id"] for hit in everything if hit["modality"] == "text")
    for path in ("/thumbnail", "/original"):
        assert client.get(path, params={"id": silent}).status_code == 404
        assert client.get(path).status_code == 400


def test_map(client: TestClient) -> None:
    for _ in range(100):
        points = client.get("/map")
        if points.status_code != 202:
            break
        assert points.headers["retry-after"]
    assert points.status_code == 200, points.text
    answer = points.json()
    assert len(answer["ids"]) == ROWS
    for space in ("raw", "repaired"):
        places = np.frombuffer(base64.b64decode(answer[space]), "<f4").reshape(-1, 2)
        assert places.shape == (ROWS, 2)
        assert np.abs(places).max() <= 1
    kinds = np.frombuffer(base64.b64decode(answer["modality"]), np.uint8)
    told = {name: answer["modalities"][kind] for name, kind in zip(answer["ids"], kinds, strict=True)}
    hits = client.get("/items", params={"sample": 100}).json()["hits"]
    assert told == {hit["id"]: hit["modality"] for hit in hits}
    again = client.get("/map", headers={"If-None-Match": points.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_info_says_no_places(client: TestClient) -> None:
    answer = client.get("/info")
    info = answer.json()
    assert info["offers"]["explain"] is False
    assert info["index"]["update"] == f"clearsight index {collection().name}"
    assert (info["rows"], info["model"], info["offers"]["rerank"]) == (ROWS, "tiny", True)
    assert info["modalities"] == {"image": PICTURES + 1, "text": PICTURES}
    assert {"name": "year", "type": "number"} in info["fields"]
    assert {"name": "place", "type": "string"} in info["fields"]
    assert info["limits"]["inputs"] == 512
    assert str(collection().parent) not in answer.text
    assert client.get("/health").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("items", "place", "command"),
    [
        ("my photos", "my photos/.clearsight", "clearsight index 'my photos'"),
        ("photos", "elsewhere/made", "clearsight index photos --out made"),
        ("photos/rows.jsonl", "index", "clearsight index rows.jsonl --out index"),
        (None, "index", None),
    ],
)
def test_the_command_that_updates_an_index_is_told_without_places(
    tmp_path: Path, items: str | None, place: str, command: str | None
) -> None:
    folder = tmp_path / place
    lies = None if items is None else tmp_path / items
    index = SimpleNamespace(folder=folder, settings=SimpleNamespace(place_of_items=lambda _: lies))
    assert _update(index) == command  # type: ignore[arg-type]


def test_metrics_count_requests_and_batches(client: TestClient) -> None:
    client.get("/health")
    client.get("/nowhere/at/all?secret")
    text = client.get("/metrics").text
    assert 'clearsight_requests_total{route="/health",method="GET",status="200"}' in text
    assert 'clearsight_requests_total{route="other",method="GET",status="404"}' in text
    assert 'clearsight_batches_total{lane="search"}' in text
    assert "secret" not in text
    assert "clearsight_ready 1" in text
    for line in text.splitlines():
        assert line.startswith("# TYPE ") or float(line.rsplit(" ", 1)[1]) >= 0
