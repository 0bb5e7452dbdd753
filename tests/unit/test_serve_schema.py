"""Requests made up from the OpenAPI document, and around it: never a fault of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis.generation import GenerationMode

import clearsight
from clearsight.serve.app import create_app
from clearsight.serve.limits import Limits
from serving import served, tiny_service

document = schemathesis.openapi.from_dict(create_app(tiny_service).openapi())
schema = document.exclude(path=["/v1/rerank", "/v2/rerank"])  # the same as /rerank
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])

MOST_QUERY = 50_000
"""Characters of an address that the client itself still sends."""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served(limits=Limits(characters=300)) as client:  # a text of 20,000 takes the model a while
        yield client


@schema.parametrize()
@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_a_fault_of_the_server(case: schemathesis.Case, client: TestClient) -> None:
    asked = case.as_transport_kwargs(base_url="http://testserver")
    client.cookies.clear()
    client.cookies.update(asked.pop("cookies", None) or {})
    if len(str(asked.get("params"))) > MOST_QUERY:
        return
    if isinstance(asked.get("data"), bytes):
        asked["content"] = asked.pop("data")
    answer = client.request(**asked)
    case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error], excluded_checks=[])


def test_the_document_names_every_endpoint_and_no_other_machine() -> None:
    document = create_app(tiny_service).openapi()
    assert set(document["paths"]) == {
        "/search",
        "/items",
        "/thumbnail",
        "/original",
        "/map",
        "/info",
        "/v1/embeddings",
        "/v1/models",
        "/v2/embed",
        "/v2/rerank",
        "/v1/rerank",
        "/rerank",
        "/health",
        "/metrics",
        "/session",
    }
    assert document["info"]["version"] == clearsight.__version__
    assert "http://" not in str(document)
    assert "https://" not in str(document)
