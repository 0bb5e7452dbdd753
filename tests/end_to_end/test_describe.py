"""Describe, then embed; and the captioner at its door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import DataError, UsageError
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.types import Item

PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for n in range(3)
]


@pytest.fixture(scope="module")
def loaded(folder_of):
    return load_model(folder_of("qwen2_vl"), dtype=torch.float32, head=True)


def test_an_image_is_embedded_as_its_own_caption_and_a_text_as_itself(loaded):
    images = [Item(f"image-{n}", image=one) for n, one in enumerate(PICTURES)]
    both = Item("both", text="but blue", image=PICTURES[0])
    text = Item("text", text="a red square")
    described = Encoder(loaded, source="describe", workers=0)
    embedded = described.embed([*images, both, text], "query")
    captions = described.captioner.caption([*images, both])
    expected = [Item(f"caption-{n}", text=caption) for n, caption in enumerate(captions[:3])]
    expected += [Item("caption-3", text=f"{captions[3]}\nbut blue"), Item("plain", text=text.text)]
    rows = Encoder(loaded, workers=0).embed(expected, "query").rows_ND
    np.testing.assert_allclose(embedded.rows_ND, rows, atol=1e-5)
    assert list(embedded.modality_N) == ["image"] * 3 + ["image+text", "text"]
    assert embedded.origin["source"] == "describe"


def test_describing_is_kept_apart_in_the_cache(loaded, tmp_path):
    items = [Item("one", image=PICTURES[0])]
    described = Encoder(loaded, source="describe", cache=tmp_path, workers=0).embed(items, "query")
    seen = Encoder(loaded, cache=tmp_path, workers=0).embed(items, "query")
    assert np.abs(described.rows_ND - seen.rows_ND).max() > 1e-2
    again = Encoder(loaded, source="describe", cache=tmp_path, workers=0)
    again.captioner.captions = None  # would fail, were anything described again
    np.testing.assert_array_equal(again.embed(items, "query").rows_ND, described.rows_ND)


def test_a_caption_ends_at_its_limit_and_in_the_order_of_the_items(loaded):
    items = [Item(f"image-{n}", image=one) for n, one in enumerate(PICTURES)]
    long, short = (Captioner(loaded, max_new_tokens=n, workers=2) for n in (8, 2))
    for item in items:
        prepared = [long.preparer(item, "query", item.image)]
        (many,), (few,) = long.write(prepared), short.write(prepared)
        assert len(many) == 8
        assert few == many[:2]
    assert long.caption(items) == [long.caption([item])[0] for item in items]
    assert long.caption([]) == []


def test_a_captioner_needs_a_language_head_and_distinct_ids(folder_of, loaded):
    with pytest.raises(UsageError, match="head=True"):
        Captioner(load_model(folder_of("qwen2_vl")))
    with pytest.raises(DataError, match="twice"):
        Captioner(loaded).caption([Item("one", text="a"), Item("one", text="b")])


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(folder_of):
    items = [Item(f"text-{n}", text=f"a {'red ' * n}square") for n in range(9)]
    items += [Item(f"image-{n}", image=one) for n, one in enumerate(PICTURES)]
    rows = [
        Encoder(load_model(folder_of("qwen2_vl"), device=device, dtype=torch.float32), prompt="hierarchical")
        .embed(items, "query")
        .rows_ND
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
