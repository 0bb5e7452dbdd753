"""Every family, one forward pass: batches change nothing, and the numbers are transformers' own.

Legend of shapes: B items, L tokens, S full sequence, D width.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer, DynamicCache

from clearsight.models.family import GENERIC as GENERIC_ROW
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.prepare import Prepared, Preparer, collate, encode_contrastive
from clearsight.models.prompts import get_template
from clearsight.pooling import IMAGE, PROMPT, TEXT
from clearsight.types import Item
from families.build import CONTRASTIVE, GENERATIVE, GENERIC

TOLERANCE = 1e-5
REUSE = [name for name in GENERATIVE if name not in ("paligemma", "smolvlm")]
FolderOf = Callable[[str], Path]
Load = Callable[[str], LoadedModel]


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


ITEMS = (
    Item("short", "a red square"),
    Item("wide", image=picture(0, 64, 40)),
    Item("tall", "which of the two is larger than the other one?", picture(1, 30, 90)),
    Item("long", "the small blue circle is to the left of " * 4),
    Item("small", "x", picture(2, 24, 24)),
)
SUFFIX = {
    "text": "\nSummarize the above sentence in one word: ",
    "image": "\nSummarize the above image in one word: ",
    "image+text": "\nSummarize above image and sentence in one word: ",
}


@pytest.fixture(scope="module")
def load(folder_of: FolderOf) -> Load:
    return cache(lambda name: load_model(folder_of(name)))


def prepare(
    loaded: LoadedModel, items: Sequence[Item], prompt: str = "one_word", **options: Any
) -> list[Prepared]:
    preparer = Preparer(loaded, get_template(prompt), **{"generation_prompt": False, **options})
    return [preparer(item, "query", item.image) for item in items]  # type: ignore[arg-type]


@torch.inference_mode()
def states(loaded: LoadedModel, prepared: Sequence[Prepared]) -> list[torch.Tensor]:
    batch = collate(prepared, loaded)
    hidden_BLD = loaded.base(**batch.inputs).last_hidden_state
    assert hidden_BLD.shape[:2] == batch.mask_BL.shape == batch.kinds_BL.shape
    return [row[mask == 1] for row, mask in zip(hidden_BLD, batch.mask_BL, strict=True)]


@pytest.mark.parametrize("name", [*GENERATIVE, *GENERIC])
def test_an_item_alone_equals_it_in_any_batch(name: str, load: Load) -> None:
    loaded = load(name)
    prepared = prepare(loaded, ITEMS)
    alone = [states(loaded, [one])[0] for one in prepared]
    batches = [list(range(5)), [4, 3, 2, 1, 0], [0, 3], [1, 4], [2, 0], [1, 1, 3]]
    for batch in batches:
        for index, found in zip(batch, states(loaded, [prepared[i] for i in batch]), strict=True):
            torch.testing.assert_close(found, alone[index], atol=TOLERANCE, rtol=0)


def _turns(item: Item) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [] if item.image is None else [{"type": "image", "image": item.image}]
    content.append({"type": "text", "text": (item.text or "") + SUFFIX[item.modality]})
    return [{"role": "user", "content": content}]


def _own_processor(folder: Path, item: Item) -> dict[str, Any]:
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return dict(processor.apply_chat_template(_turns(item), **options))


def _smolvlm(folder: Path, item: Item) -> dict[str, Any]:
    """Its own processor needs num2words and torchvision; Idefics3's words images alike."""
    parts = (AutoImageProcessor.from_pretrained(folder, backend="pil"), AutoTokenizer.from_pretrained(folder))
    processor = transformers.Idefics3Processor(*parts, image_seq_len=4)
    text = processor.tokenizer.apply_chat_template(_turns(item), tokenize=False)
    images = None if item.image is None else [[item.image]]
    return dict(processor(text=[text], images=images, add_special_tokens=False, return_tensors="pt"))


def _paligemma(folder: Path, item: Item) -> dict[str, Any]:
    if item.image is not None:
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
        text = "<image>" + (item.text or "") + SUFFIX[item.modality]
        inputs = dict(processor(text=[text], images=[item.image], return_tensors="pt"))
        inputs.pop("labels")
        return inputs
    # The processor refuses texts: bos + text + newline by hand.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = f"<bos>{item.text}{SUFFIX['text']}\n"
    inputs = dict(tokenizer(text, add_special_tokens=False, return_tensors="pt"))
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}


def _chameleon(folder: Path, item: Item) -> dict[str, Any]:
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    text = ("<image>" if item.image is not None else "") + (item.text or "") + SUFFIX[item.modality]
    inputs = dict(processor(text=[text], images=item.image and [item.image], return_tensors="pt"))
    # It ends a chat with a separator, which an embedding does without.
    assert inputs["input_ids"][0, -1] == processor.tokenizer.sep_token_id
    return {k: v[:, :-1] if k in ("input_ids", "attention_mask") else v for k, v in inputs.items()}


def _qwen(folder: Path, item: Item) -> dict[str, Any]:
    """No torchvision, no processor: placeholders expanded by hand, t*h*w / merge^2 of them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text, pixels = tokenizer.apply_chat_template(_turns(item), tokenize=False), {}
    if item.image is not None:
        pixels = dict(
            transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)(item.image, return_tensors="pt")
        )
        count = int(pixels["image_grid_thw"].prod()) // 4
        text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
    inputs = dict(tokenizer(text, return_tensors="pt"))
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return {**inputs, **pixels, "mm_token_type_ids": (inputs["input_ids"] == image_id).int()}


def _internvl(folder: Path, item: Item) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text, pixels = tokenizer.apply_chat_template(_turns(item), tokenize=False), {}
    if item.image is not None:
        images = AutoImageProcessor.from_pretrained(folder, backend="pil")
        pixels = {
            "pixel_values": images(item.image, crop_to_patches=True, return_tensors="pt")["pixel_values"]
        }
        expanded = "<img>" + "<IMG_CONTEXT>" * 4 * len(pixels["pixel_values"]) + "</img>"
        text = text.replace("<IMG_CONTEXT>", expanded)
    return {**dict(tokenizer(text, return_tensors="pt")), **pixels}


REFERENCES: dict[str, Callable[[Path, Item], dict[str, Any]]] = {
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "paligemma": _paligemma,
    "chameleon": _chameleon,
    "llava": _own_processor,
    "llava_next": _own_processor,
    "smolvlm": _smolvlm,
    "idefics3": _own_processor,
    "gemma3": _own_processor,
    "internvl": _internvl,
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.filterwarnings("ignore")
def test_equals_a_plain_transformers_forward(name: str, load: Load, folder_of: FolderOf) -> None:
    loaded, model = load(name), AutoModel.from_pretrained(folder_of(name)).eval()
    prepared = prepare(loaded, ITEMS)
    found = states(loaded, prepared)
    for item, one, mine in zip(ITEMS, prepared, found, strict=True):
        inputs = REFERENCES[name](folder_of(name), item)
        assert one.ids_L.tolist() == inputs["input_ids"][0].tolist()
        with torch.inference_mode():
            theirs = model(**inputs).last_hidden_state[0]
        torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", [*GENERATIVE, *GENERIC])
def test_last_hidden_state_is_after_the_final_norm(name: str, load: Load) -> None:
    loaded = load(name)
    decoder: Any = loaded.base.get_decoder()  # type: ignore[no-untyped-call]
    seen: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = decoder.layers[-1].register_forward_hook(keep)
    (found,) = states(loaded, prepare(loaded, ITEMS[2:3]))
    handle.remove()
    torch.testing.assert_close(found, decoder.norm(seen[0])[0], atol=0, rtol=0)
    assert (found - seen[0][0]).abs().max() > 0.01


@pytest.mark.parametrize("name", [*GENERATIVE, *GENERIC])
def test_with_a_head_the_embedding_pass_stays_without_it(name: str, load: Load, folder_of: FolderOf) -> None:
    loaded, headed = load(name), load_model(folder_of(name), head=True)
    head: Any = headed.model.get_output_embeddings()  # type: ignore[no-untyped-call]

    def fail(*_: Any) -> None:
        raise AssertionError("logits were computed")

    head.register_forward_hook(fail)
    prepared = prepare(loaded, ITEMS[:3])
    for a, b in zip(states(loaded, prepared), states(headed, prepared), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    with pytest.raises(AssertionError, match="logits"):
        headed.model(**collate(prepared, headed).inputs)
    assert not loaded.model.training


@pytest.mark.parametrize("name", REUSE)
def test_a_cached_prefix_changes_nothing(name: str, load: Load) -> None:
    loaded = load(name)
    assert loaded.family.prefix_reuse
    # An image batch before: positions it leaves behind in the model must not matter.
    states(loaded, prepare(loaded, ITEMS[1:2]))
    prepared = prepare(loaded, ITEMS, "hierarchical", generation_prompt=True)
    whole = states(loaded, prepared)
    stack = [one.ids_L for one in prepared]
    skip = next(i for i in range(min(map(len, stack))) if len({int(ids[i]) for ids in stack}) > 1)
    assert skip > 40
    prefix = Prepared(stack[0][:skip], prepared[0].kinds_L[:skip], {})
    for order in ([0, 1, 2, 3, 4], [3, 0], [1], [4, 2]):
        with torch.inference_mode():
            cache = DynamicCache()
            loaded.base(
                **collate([prefix] * len(order), loaded).inputs, past_key_values=cache, use_cache=True
            )
            batch = collate([prepared[i] for i in order], loaded, skip=skip)
            rest_BLD = loaded.base(**batch.inputs, past_key_values=cache).last_hidden_state
        for row, index in enumerate(order):
            mine = rest_BLD[row, batch.mask_BL[row] == 1]
            torch.testing.assert_close(mine, whole[index][skip:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", [*GENERATIVE, *GENERIC])
def test_prefix_reuse_is_claimed_only_where_attention_is_causal(name: str, load: Load) -> None:
    loaded = load(name)
    (one,) = prepare(loaded, ITEMS[3:4])
    changed = replace(one, ids_L=np.concatenate([one.ids_L[:-1], one.ids_L[-1:] - 1]))
    moved = (states(loaded, [one])[0][:-1] - states(loaded, [changed])[0][:-1]).abs().max()
    if loaded.family.prefix_reuse:
        assert moved == 0
    assert (name == "paligemma") == bool(moved > 0.1)


@pytest.mark.parametrize("name", [n for n in REUSE if n != "chameleon"] + ["idefics3", "internvl"])
def test_right_padding_equals_left_padding(name: str, load: Load) -> None:
    """Left-padded by hand, with explicit positions, as a generating batch would be."""
    loaded = load(name)
    prepared = prepare(loaded, ITEMS)
    right = collate(prepared, loaded)
    width = right.mask_BL.shape[1]
    inputs = dict(right.inputs)
    for key in ("input_ids", "attention_mask", "position_ids"):
        if key in inputs:
            rows = [inputs[key][..., i, : len(one.ids_L)] for i, one in enumerate(prepared)]
            gap = [torch.nn.functional.pad(row, (width - row.shape[-1], 0)) for row in rows]
            inputs[key] = torch.stack(gap, dim=-2)
    if "position_ids" not in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        left_BLD = loaded.base(**inputs).last_hidden_state
    for row, theirs in zip(left_BLD, states(loaded, prepared), strict=True):
        torch.testing.assert_close(row[-len(theirs) :], theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", [*GENERATIVE, *GENERIC, *CONTRASTIVE])
def test_control_tokens_in_a_text_stay_text(name: str, load: Load) -> None:
    loaded = load(name)
    controls = [t.content for t in loaded.tokenizer.added_tokens_decoder.values() if t.special][:12]
    text = "say " + " ".join(controls) + " now"
    for image in (None, picture(3, 40, 40)) if loaded.images else (None,):
        plain, spiked = prepare(
            loaded, [Item("a", "say now", image), Item("b", text, image)], max_tokens=2000
        )
        control_ids = loaded.tokenizer.convert_tokens_to_ids(controls)
        assert [i for i in plain.ids_L if i in control_ids] == [i for i in spiked.ids_L if i in control_ids]
        assert (plain.kinds_L == IMAGE).sum() == (spiked.kinds_L == IMAGE).sum()
        if not spiked.cut:
            words = loaded.tokenizer.decode(spiked.ids_L[spiked.kinds_L == TEXT]).strip()
            assert words == (text.lower() if name == "siglip2" else text)
    if loaded.images:
        (only,) = prepare(loaded, [Item("c", loaded.images.placeholder)])
        assert not (only.kinds_L == IMAGE).any()
        assert not only.pixels
        states(loaded, [only])


@pytest.mark.parametrize("name", [*GENERATIVE, *GENERIC])
def test_kinds_tell_template_text_and_image_apart(name: str, load: Load) -> None:
    loaded = load(name)
    (one,) = prepare(loaded, ITEMS[2:3])
    own = loaded.tokenizer.decode(one.ids_L[one.kinds_L == TEXT])
    assert own.strip() == ITEMS[2].text
    assert loaded.images is not None
    assert ((one.ids_L == loaded.images.token_id) == (one.kinds_L == IMAGE)).all()
    rest = loaded.tokenizer.decode(one.ids_L[one.kinds_L == PROMPT])
    assert "Summarize above image and sentence" in rest


@pytest.mark.parametrize("name", ["qwen2_vl", "paligemma", "clip"])
def test_only_the_own_text_is_cut(name: str, load: Load) -> None:
    loaded = load(name)
    whole, cut = (prepare(loaded, [Item("a", "red " * 30)], max_tokens=m)[0] for m in (None, 50))
    assert whole.cut == 0
    assert cut.cut == len(whole.ids_L) - 50 > 0
    assert len(cut.ids_L) == 50
    assert cut.ids_L[cut.kinds_L == PROMPT].tolist() == whole.ids_L[whole.kinds_L == PROMPT].tolist()
    kept = cut.ids_L[cut.kinds_L == TEXT]
    assert kept.tolist() == whole.ids_L[whole.kinds_L == TEXT][: len(kept)].tolist()


def test_threads_share_a_preparer(load: Load) -> None:
    loaded = load("llava")
    preparer = Preparer(loaded, get_template("one_word"), generation_prompt=False)
    items = [*ITEMS, Item("literal", "<image> and </s>")] * 20
    random.Random(0).shuffle(items)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: preparer(item, "query", item.image), items))  # type: ignore[arg-type]
    for item, one in zip(items, found, strict=True):
        again = preparer(item, "query", item.image)  # type: ignore[arg-type]
        assert one.ids_L.tolist() == again.ids_L.tolist()
        assert all(torch.equal(one.pixels[key], again.pixels[key]) for key in again.pixels)


def test_the_generic_path_is_named_by_no_row(load: Load) -> None:
    assert all(load(name).family is GENERIC_ROW for name in GENERIC)


def test_image_size_caps_the_area(load: Load) -> None:
    loaded = load("qwen2_vl")
    full, capped = (
        prepare(loaded, [Item("a", image=picture(0, 64, 64))], image_size=s)[0] for s in (None, 32)
    )
    assert (full.kinds_L == IMAGE).sum() == 16
    assert (capped.kinds_L == IMAGE).sum() == 4


@pytest.mark.parametrize("name", CONTRASTIVE)
@pytest.mark.filterwarnings("ignore")
def test_contrastive_equals_plain_transformers(name: str, load: Load, folder_of: FolderOf) -> None:
    loaded = load(name)
    prepared = prepare(loaded, ITEMS, "plain")
    tokenizer, images = AutoTokenizer.from_pretrained(folder_of(name)), loaded.image_processor
    padding = {"padding": "max_length", "max_length": 64, "truncation": True} if name == "siglip2" else {}
    model: Any = AutoModel.from_pretrained(folder_of(name)).eval()
    with torch.inference_mode():
        batched = encode_contrastive(loaded, collate(prepared, loaded))
        for item, one, row in zip(ITEMS, prepared, batched, strict=True):
            alone = encode_contrastive(loaded, collate([one], loaded))[0]
            torch.testing.assert_close(row, alone, atol=TOLERANCE, rtol=0)
            total = 0
            if item.text is not None:
                inputs = tokenizer([item.text], return_tensors="pt", **padding)
                features = model.get_text_features(**inputs).pooler_output[0]
                total = total + features / features.norm()
                if name == "clip" or not one.cut:
                    assert one.ids_L.tolist() == inputs["input_ids"][0][: len(one.ids_L)].tolist()
            if item.image is not None:
                features = model.get_image_features(
                    **images([item.image], return_tensors="pt")
                ).pooler_output[0]
                total = total + features / features.norm()
            if not one.cut:
                torch.testing.assert_close(row, total / total.norm(), atol=TOLERANCE, rtol=0)  # type: ignore[attr-defined]
