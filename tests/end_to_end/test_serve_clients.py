"""The clients that people have: openai's and cohere's own libraries against a server in its own process."""

from __future__ import annotations

import numpy as np
import pytest

from serving import collection, data_url, png, running

pytestmark = pytest.mark.services


def test_openai() -> None:
    openai = pytest.importorskip("openai")
    with (
        running(str(collection()), CLEARSIGHT_TOKEN="secret") as (_, address),
        openai.OpenAI(base_url=f"{address}v1", api_key="secret", max_retries=0) as client,
        openai.OpenAI(base_url=f"{address}v1", api_key="wrong", max_retries=0) as stranger,
    ):
        assert [model.id for model in client.models.list()] == ["tiny", "tiny:repaired"]
        coded = client.embeddings.create(model="tiny", input=["a red ring", "a star"])  # base64 on the wire
        plain = client.embeddings.create(
            model="tiny", input=["a red ring", "a star"], encoding_format="float"
        )
        rows = [np.array([one.embedding for one in answer.data]) for answer in (coded, plain)]
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
        assert coded.usage.prompt_tokens > 0
        with pytest.raises(openai.NotFoundError, match="not served here"):
            client.embeddings.create(model="text-embedding-3-small", input="a")
        with pytest.raises(openai.BadRequestError, match="Token ids"):
            client.embeddings.create(model="tiny", input=[1, 2])
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_cohere() -> None:
    cohere = pytest.importorskip("cohere")
    with (
        running(str(collection()), CLEARSIGHT_TOKEN="secret") as (_, address),
        cohere.ClientV2(api_key="secret", base_url=address.rstrip("/")) as client,
    ):
        texts = client.embed(
            model="tiny",
            input_type="search_document",
            texts=["a red ring"],
            embedding_types=["float", "ubinary"],
        )
        assert texts.embeddings.float_ is not None
        assert np.linalg.norm(texts.embeddings.float_[0]) == pytest.approx(1, abs=1e-5)
        part = {"type": "image_url", "image_url": {"url": data_url(png())}}
        both = client.embed(
            model="tiny:repaired",
            input_type="search_query",
            inputs=[{"content": [part]}],
            embedding_types=["float"],
        )
        assert len(both.embeddings.float_ or []) == 1
        ranked = client.rerank(model="tiny", query="a red ring", documents=["a star", "a red ring"], top_n=1)
        assert len(ranked.results) == 1
        with pytest.raises(cohere.BadRequestError, match="int8"):
            client.embed(model="tiny", input_type="search_query", texts=["a"], embedding_types=["int8"])
