"""The form `vlm2vec`: token ids, positions and vectors are those of the release."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import UsageError
from clearsight.models.encoder import Encoder
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.prepare import Prepared, Preparer, collate
from clearsight.models.prompts import get_template
from clearsight.types import Item, Role

SYSTEM = (
    "Given an image, summarize the provided image in one word. "
    "Given only text, describe the text in one word."
)
QWEN = ("qwen2_vl", "qwen2_5_vl")


@cache
def loaded_of(folder: Path) -> LoadedModel:
    return load_model(folder)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def prepared(loaded: LoadedModel, prompt: str, item: Item, role: Role = "query") -> Prepared:
    image = item.image if isinstance(item.image, Image.Image) else None
    return Preparer(loaded, get_template(prompt), generation_prompt=True)(item, role, image)


def old_rope_index(ids_L: list[int], grid: tuple[int, int, int], config: object) -> np.ndarray:
    """Positions (3, L) as transformers 4.46 gives them: an image counts where its start mark precedes it."""
    start, image = config.vision_start_token_id, config.image_token_id  # type: ignore[attr-defined]
    merge = config.vision_config.spatial_merge_size  # type: ignore[attr-defined]
    images = sum(a == start and b == image for a, b in pairwise(ids_L))
    if images == 0:
        return np.tile(np.arange(len(ids_L)), (3, 1))
    first = ids_L.index(image)
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    seen = np.stack(np.meshgrid(range(t), range(h), range(w), indexing="ij")).reshape(3, -1) + first
    after = np.arange(len(ids_L) - first - t * h * w) + seen.max() + 1
    return np.concatenate([np.tile(np.arange(first), (3, 1)), seen, np.tile(after, (3, 1))], axis=1)


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize(
    ("item", "role", "user"),
    [
        (
            Item("i", "a red square", picture(), "Find it."),
            "query",
            "<|image_pad|>\nFind it.\na red square\nRepresent the given text/image in one word.",
        ),
        (Item("i", "a red square"), "query", "a red square\nRepresent the given text in one word."),
        (Item("i", image=picture()), "candidate", "<|image_pad|>"),
        (
            Item("i", image=picture(), instruction="Represent the given image."),
            "candidate",
            "<|image_pad|>\nRepresent the given image.\n",
        ),
    ],
)
def test_tokens_are_the_releases(
    name: str, item: Item, role: Role, user: str, folder_of: Callable[[str], Path]
) -> None:
    loaded = loaded_of(folder_of(name))
    one = prepared(loaded, "hierarchical@vlm2vec", item, role)
    assert loaded.images is not None
    count = int((one.ids_L == loaded.images.token_id).sum())
    text = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    )
    text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
    assert one.ids_L.tolist() == loaded.tokenizer(text)["input_ids"]
    assert (count > 0) == (item.image is not None)


@pytest.mark.parametrize("name", QWEN)
def test_positions_are_those_of_transformers_4_46(name: str, folder_of: Callable[[str], Path]) -> None:
    """With the marks (the chat form) three axes part; without them they count alike."""
    loaded = loaded_of(folder_of(name))
    item = Item("i", "a red square", picture())
    config = loaded.base.config
    for prompt, flat in (("hierarchical", False), ("hierarchical@vlm2vec", True)):
        one = prepared(loaded, prompt, item)
        grid = tuple(one.pixels["image_grid_thw"][0].tolist())
        positions = collate([one], loaded).inputs["position_ids"][:, 0].numpy()
        assert np.array_equal(positions, old_rope_index(one.ids_L.tolist(), grid, config)), prompt
        assert bool((positions[0] == positions[2]).all()) == flat


def test_a_model_without_system_prompt_gets_none(folder_of: Callable[[str], Path]) -> None:
    loaded = loaded_of(folder_of("qwen2_vl"))
    item = Item("i", "a red square")
    chat, released = (
        loaded.tokenizer.decode(prepared(loaded, prompt, item).ids_L)
        for prompt in ("no_prompt", "no_prompt@vlm2vec")
    )
    assert "You are a helpful assistant" in chat
    assert released == "<|im_start|>user\na red square<|im_end|>\n<|im_start|>assistant\n"


def test_vectors_are_the_models_own_at_those_positions(folder_of: Callable[[str], Path]) -> None:
    loaded = loaded_of(folder_of("qwen2_vl"))
    items = [Item("a", "a red square", picture()), Item("b", "blue"), Item("c", image=picture(32, 64))]
    encoder = Encoder(loaded, prompt="hierarchical@vlm2vec", pooling="last")
    together = encoder.embed(items, "query")
    for row, item in zip(together.rows_ND, items, strict=True):
        one = prepared(loaded, "hierarchical@vlm2vec", item)
        length = len(one.ids_L)
        with torch.inference_mode():
            states = loaded.base(
                input_ids=torch.from_numpy(one.ids_L)[None],
                attention_mask=torch.ones(1, length, dtype=torch.long),
                position_ids=torch.arange(length).expand(3, 1, length),
                **one.pixels,
            ).last_hidden_state
        np.testing.assert_allclose(row, states[0, -1].numpy(), atol=2e-5)
    chat = Encoder(loaded, prompt="hierarchical", pooling="last").embed(items, "query")
    # The text alone is worded alike in both forms.
    assert np.abs(together.rows_ND - chat.rows_ND).max(axis=1)[[0, 2]].min() > 1e-2
    np.testing.assert_allclose(together.rows_ND[1], chat.rows_ND[1], atol=2e-5)
    assert together.origin["prompt_digest"] != chat.origin["prompt_digest"]


def test_llava_next_is_worded_in_brackets(folder_of: Callable[[str], Path]) -> None:
    loaded = loaded_of(folder_of("llava_next"))
    one = prepared(loaded, "hierarchical@vlm2vec", Item("a", "blue"))
    text = f"[INST] {SYSTEM}\nblue\nRepresent the given text in one word. [/INST]"
    assert one.ids_L.tolist() == loaded.tokenizer(text)["input_ids"]


def test_other_families_have_no_release(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="no VLM2Vec release"):
        prepared(loaded_of(folder_of("qwen3_vl")), "hierarchical@vlm2vec", Item("a", "blue"))
