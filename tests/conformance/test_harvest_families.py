"""Every generative family: harvested rows are the hidden states of a plain forward pass, token by token.

Tolerance 1e-5 in float32, relative to the largest value of the rows.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import UsageError
from clearsight.harvest import TOKEN_TYPES, HarvestConfig, Shards, harvest, harvest_stream
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.models.prepare import Preparer, collate
from clearsight.models.prompts import get_template
from clearsight.pooling import poolings
from clearsight.types import MODALITIES, Item
from families.build import BUILDERS, CONTRASTIVE

GENERATIVE = [name for name in BUILDERS if name not in CONTRASTIVE]
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8))
    for i, (width, height) in enumerate(((32, 32), (64, 32), (40, 72)))
]
ITEMS = (
    Item("text-0", text="what colour is the large triangle? green or yellow"),
    Item("image-0", image=PICTURES[0]),
    Item("text-1", text="red"),
    Item("both-0", text="the same, but blue", image=PICTURES[1]),
    Item("image-1", image=PICTURES[2]),
    *(Item(f"more-{n}", text=f"a {'small ' * n}square") for n in range(6)),
)
FLOAT = HarvestConfig(dtype="float32", part_items=6, shard_bytes=32 * 4 * 50)


@pytest.fixture(scope="module")
def loaded_of(folder_of):
    return cache(lambda family: load_model(folder_of(family), dtype=torch.float32))


def assert_same(rows, expected, tolerance=1e-5):
    assert rows.shape == expected.shape
    assert np.abs(rows - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def encoder(loaded, **options):
    return Encoder(loaded, **{"workers": 0, "token_budget": 400, **options})


@pytest.mark.parametrize(
    ("family", "layer"),
    [*((family, -1) for family in GENERATIVE), *((f, 1) for f in ("qwen2_vl", "paligemma", "gemma3"))],
)
def test_rows_are_the_states_of_a_plain_forward_and_average_to_the_mean_embedding(
    family, layer, loaded_of, tmp_path, monkeypatch
):
    loaded = loaded_of(family)
    monkeypatch.setattr("clearsight.models.readout.REST_PER_PREFIX", 1_000)  # share wherever it is possible
    tool = encoder(loaded, layer=layer, prompt="hierarchical", token_budget=150)
    shards = harvest(tool, ITEMS, tmp_path, role="query", config=FLOAT)
    header = tool.generation_prompt(poolings.get("mean"))
    preparer = Preparer(loaded, get_template("hierarchical"), generation_prompt=header)
    embedded = tool.embed(ITEMS, "query").rows_ND
    controls = set(loaded.tokenizer.all_special_ids)
    assert shards.lengths_F.max() <= 50
    for index, item in enumerate(ITEMS):
        prepared = preparer(item, "query", item.image)
        with torch.inference_mode():
            inputs = collate([prepared], loaded).inputs
            states_LD = loaded.base(**inputs, output_hidden_states=True).hidden_states[layer][0].numpy()
        places = shards.rows_of(index)
        rows_LD = shards.rows(places).numpy()
        assert_same(rows_LD, states_LD)
        assert_same(rows_LD.astype(np.float64).mean(0), embedded[index].astype(np.float64))
        np.testing.assert_allclose(shards.norm_N[places], np.linalg.norm(states_LD, axis=1), rtol=1e-4)
        np.testing.assert_array_equal(shards.position_N[places], np.arange(len(places)))
        assert set(shards.modality_N[places]) == {MODALITIES.index(item.modality)}
        types_L = shards.type_N[places]
        special_L = types_L == TOKEN_TYPES["special"]
        np.testing.assert_array_equal(np.where(special_L, 0, types_L), prepared.kinds_L)
        assert ((types_L == TOKEN_TYPES["image"]).any()) == (item.image is not None)
        assert ((types_L == TOKEN_TYPES["text"]).any()) == (item.text is not None)
        assert {i for i, special in zip(prepared.ids_L, special_L, strict=True) if special} <= controls | {
            i for i, token in loaded.tokenizer.added_tokens_decoder.items() if token.special
        }
        assert set(prepared.ids_L[types_L == TOKEN_TYPES["prompt"]]).isdisjoint(controls)
    assert len(shards) == sum(len(shards.rows_of(i)) for i in range(len(ITEMS)))


@pytest.mark.parametrize("family", ["qwen2_vl", "paligemma"])
def test_bfloat16_rows_are_the_float32_ones_rounded(family, loaded_of, tmp_path):
    tool = encoder(loaded_of(family))
    exact = harvest(tool, ITEMS, tmp_path / "exact", config=FLOAT)
    rounded = harvest(tool, ITEMS, tmp_path / "rounded", config=HarvestConfig(part_items=6))
    assert torch.equal(rounded.rows(slice(None)), exact.rows(slice(None)).bfloat16().float())
    np.testing.assert_array_equal(rounded.norm_N, exact.norm_N)


@pytest.mark.parametrize("family", ["qwen2_vl", "paligemma"])
def test_the_stream_that_harvests_leaves_the_harvest(family, loaded_of, tmp_path):
    tool = encoder(loaded_of(family))
    expected = harvest(tool, ITEMS, tmp_path / "a", config=FLOAT)
    stream = harvest_stream(tool, ITEMS, tmp_path / "b", config=FLOAT, buffer=64, epochs=2)
    assert stream.width == expected.width == 32
    assert sum(len(batch) for batch in stream.batches(10)) == 2 * len(expected) // 10 * 10
    for name in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(Shards.open(tmp_path / "b")) == len(expected)


@pytest.mark.parametrize("family", CONTRASTIVE)
def test_a_contrastive_model_is_pointed_to_its_embeddings(family, loaded_of, tmp_path):
    with pytest.raises(UsageError, match="ArrayStream"):
        harvest(Encoder(loaded_of(family), workers=0), ITEMS, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_part_of_many_windows_is_still_one_part(workers, loaded_of, tmp_path, monkeypatch):
    monkeypatch.setattr("clearsight.models.feed.WINDOW_ITEMS", 2)
    tool = encoder(loaded_of("qwen2_vl"), workers=workers)
    shards = harvest(tool, ITEMS, tmp_path, config=FLOAT)
    assert [shard.part for shard in shards if shard.last] == [0, 1]
    rows_ND = tool.embed(ITEMS).rows_ND
    for index, row_D in enumerate(rows_ND):
        assert_same(shards.rows(shards.rows_of(index)).double().mean(0).numpy(), row_D.astype(np.float64))
