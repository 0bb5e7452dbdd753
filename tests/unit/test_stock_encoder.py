"""Any sentence-transformers model as an encoder: the library's own vectors, in the house's ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

import clearsight.models.stock.folder as stock_folder
from clearsight import Captioner, Encoder, Item
from clearsight.errors import ItemError, ModelError, UsageError
from clearsight.harvest import harvest
from clearsight.models.folder import Folder
from clearsight.models.load import load_model
from small import stock

WRITERS = ("clip", "old_clip", "text", "two_sided", "static", "fused")
ENCODE = {"query": "encode_query", "candidate": "encode_document"}


@pytest.fixture(scope="module")
def folder_of_stock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def write(name: str) -> Path:
        return getattr(stock, f"write_{name}")(tmp_path_factory.mktemp("stock") / name)

    return write


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (40, 30 + 9 * seed, 3), dtype=np.uint8)
    return Image.fromarray(values)


def items_for(encoder: Encoder) -> list[Item]:
    """Texts of many lengths among images, where the model reads them."""
    stock = encoder.loaded.stock
    assert stock is not None
    items = [Item(f"text {i}", text="a red square " * i + "above") for i in (3, 0, 1, 4)]
    if "image" in stock.accepts:
        items[1:1] = [Item(f"image {i}", image=picture(i)) for i in range(3)]
    if "image+text" in stock.accepts:
        items[2:2] = [Item(f"both {i}", text="which colour?" * i + "?", image=picture(i)) for i in range(3)]
    return items


def given(item: Item, model: Any) -> Any:
    """The item as a user of the library writes it."""
    if item.image is None:
        return item.text
    return item.image if item.text is None else {"image": item.image, "text": item.text}


def library_rows(model: Any, items: Sequence[Item], role: str, **options: Any) -> np.ndarray:
    """One item a call: the library's own answer, whatever it would do to a batch."""
    encode = getattr(model, ENCODE[role])
    return np.stack([encode(given(item, model), **options) for item in items])


def unit(rows_ND: np.ndarray) -> np.ndarray:
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("role", ["query", "candidate"])
@pytest.mark.parametrize("name", WRITERS)
def test_equals_the_library(folder_of_stock: Callable[[str], Path], name: str, role: Any) -> None:
    folder = folder_of_stock(name)
    encoder = Encoder.load(folder, token_budget=40)
    items = items_for(encoder)
    ours = encoder.embed(items, role)
    theirs = library_rows(
        SentenceTransformer(str(folder), device="cpu"), items, role, normalize_embeddings=True
    )
    np.testing.assert_allclose(unit(ours.rows_ND), theirs, atol=1e-5)
    assert ours.ids == tuple(item.id for item in items)
    assert np.abs(theirs - np.roll(theirs, 1, axis=0)).max() > 0.01, (
        "items must differ for this to say anything"
    )


@pytest.mark.parametrize("name", ["text", "fused"])
def test_rows_are_those_before_the_last_normalize(folder_of_stock: Callable[[str], Path], name: str) -> None:
    encoder = Encoder.load(folder_of_stock(name))
    items = items_for(encoder)
    model = SentenceTransformer(str(folder_of_stock(name)), device="cpu")
    theirs = library_rows(
        SentenceTransformer(modules=list(model)[:-1], device="cpu", prompts=model.prompts), items, "query"
    )
    rows_ND = encoder.embed(items, "query").rows_ND
    np.testing.assert_allclose(rows_ND, theirs, atol=1e-5)
    assert np.linalg.norm(rows_ND, axis=1).std() > 0.01
    assert encoder.origin()["normalize_taken_off"] is True


def test_two_sides_lose_their_normalize_each(folder_of_stock: Callable[[str], Path]) -> None:
    encoder = Encoder.load(folder_of_stock("two_sided"))
    items = items_for(encoder)
    query, candidate = (encoder.embed(items, role).rows_ND for role in ("query", "candidate"))
    assert np.linalg.norm(query, axis=1).std() > 0.001
    assert np.abs(unit(query) - unit(candidate)).max() > 0.1
    assert encoder.origin()["normalize_taken_off"] is True


def test_origin_says_what_changes_a_vector(folder_of_stock: Callable[[str], Path]) -> None:
    origin = Encoder.load(folder_of_stock("text")).origin(counterpart="image")
    assert origin["family"] == "sentence-transformers"
    assert origin["prompt"] == "own"
    assert origin["prompts"] == {"query": "Instruct: Find it\nQuery:", "candidate": "passage: "}
    assert origin["modules"] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert origin["counterpart"] is None, "the other side changes nothing here"
    assert json.loads(json.dumps(origin)) == origin


def test_instruction_fills_its_place(folder_of_stock: Callable[[str], Path]) -> None:
    folder = folder_of_stock("text")
    model = SentenceTransformer(str(folder), device="cpu")
    asked = Item("q", text="a red square", instruction="Find the blue circle")
    ours = Encoder.load(folder).embed([asked, Item("plain", text="a red square")], "query").rows_ND
    theirs = model.encode(["a red square"], prompt="Instruct: Find the blue circle\nQuery:")
    np.testing.assert_allclose(unit(ours)[:1], theirs, atol=1e-5)
    assert np.abs(unit(ours)[0] - unit(ours)[1]).max() > 1e-3


def test_instruction_is_the_system_turn_of_a_chat_model(folder_of_stock: Callable[[str], Path]) -> None:
    folder = folder_of_stock("fused")
    item = Item("q", text="a red square", image=picture(1), instruction="Find the blue circle")
    ours = Encoder.load(folder).embed([item], "query").rows_ND
    model = SentenceTransformer(str(folder), device="cpu")
    theirs = model.encode([given(item, model)], prompt="Find the blue circle")
    np.testing.assert_allclose(unit(ours), theirs, atol=1e-5)


def test_instruction_without_a_place_is_left_out(folder_of_stock: Callable[[str], Path]) -> None:
    encoder = Encoder.load(folder_of_stock("clip"))
    pair = [Item("a", text="a square", instruction="Find it"), Item("b", text="a square")]
    rows_ND = encoder.embed(pair, "query").rows_ND
    np.testing.assert_allclose(rows_ND[0], rows_ND[1], atol=1e-5)


def test_text_is_text_even_if_it_looks_like_an_image(
    folder_of_stock: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "cat.png"
    picture(1).save(path)
    encoder = Encoder.load(folder_of_stock("clip"))
    texts = [Item("path", text=str(path)), Item("url", text="http://127.0.0.1:9/cat.png")]
    rows_ND = encoder.embed([*texts, Item("image", image=path)]).rows_ND
    model = SentenceTransformer(str(folder_of_stock("clip")), device="cpu")
    theirs = model.encode([{"text": item.text} for item in texts])
    np.testing.assert_allclose(rows_ND[:2], theirs, atol=1e-5)
    assert np.abs(rows_ND[0] - rows_ND[2]).max() > 0.1


@pytest.mark.parametrize(
    ("name", "item", "reads"),
    [
        ("text", Item("i", image=picture(1)), "reads text alone"),
        ("clip", Item("i", image=picture(1), text="a square"), "reads text and image alone"),
    ],
)
def test_modality_is_refused_before_any_embedding(
    folder_of_stock: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    item: Item,
    reads: str,
) -> None:
    encoder = Encoder.load(folder_of_stock(name))
    monkeypatch.setattr(encoder.loaded.stock.pipeline, "forward", lambda *a, **k: pytest.fail("embedded"))
    with pytest.raises(UsageError, match=f"1 that are {item.modality.replace('+', '.')}; the model {reads}"):
        encoder.embed([Item("t", text="a square"), item])
    encoder.on_error = "skip"
    with pytest.raises(UsageError, match="Choose a task of these modalities"):
        encoder.embed([item])


def test_skip_leaves_unread_items_out(folder_of_stock: Callable[[str], Path]) -> None:
    encoder = Encoder.load(folder_of_stock("text"), on_error="skip")
    found = encoder.embed([Item("t", text="a square"), Item("i", image=picture(1))])
    assert found.ids == ("t",)
    assert "does not read image items; it reads text" in found.skipped["i"]


def test_broken_image_is_named_or_skipped(folder_of_stock: Callable[[str], Path]) -> None:
    items = [Item("good", image=picture(1)), Item("bad", image=b"no image")]
    encoder = Encoder.load(folder_of_stock("clip"))
    with pytest.raises(ItemError, match="bad"):
        encoder.embed(items)
    encoder.on_error = "skip"
    found = encoder.embed(items)
    assert found.ids == ("good",)
    assert "not an image" in found.skipped["bad"]


def test_item_that_the_library_refuses_leaves_the_others(folder_of_stock: Callable[[str], Path]) -> None:
    """An image token in a text asks the processor for an image that is not there."""
    encoder = Encoder.load(folder_of_stock("fused"), on_error="skip")
    good = [Item(f"good {i}", text="a square", image=picture(i)) for i in range(3)]
    found = encoder.embed([good[0], Item("bad", text="<image> a square", image=picture(1)), *good[1:]])
    assert found.ids == tuple(item.id for item in good)
    assert "refuses this item" in found.skipped["bad"]
    np.testing.assert_allclose(found.rows_ND, encoder.embed(good).rows_ND, atol=1e-5)
    encoder.on_error = "raise"
    with pytest.raises(ItemError, match="bad"):
        encoder.embed([Item("bad", text="<image> a square", image=picture(1))])


def test_each_distinct_item_once_and_never_again(
    folder_of_stock: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(folder_of_stock("clip"), cache=tmp_path)
    pipeline, seen = encoder.loaded.stock.pipeline, []
    forward = pipeline.forward

    def counted(features: Any, **options: Any) -> Any:
        out = forward(features, **options)
        seen.append(len(out["sentence_embedding"]))
        return out

    monkeypatch.setattr(pipeline, "forward", counted)
    items = [Item(f"{i}", text=f"square {i % 2}") for i in range(5)] + [Item("i", image=picture(1))]
    first = encoder.embed(items)
    assert sum(seen) == 3
    again = encoder.embed(items)
    assert sum(seen) == 3
    np.testing.assert_array_equal(first.rows_ND, again.rows_ND)
    encoder.embed(items, "query")
    assert sum(seen) == 6, "the other side has its own words"


def test_what_was_done_is_kept_when_an_item_stops_the_call(
    folder_of_stock: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(folder_of_stock("clip"), cache=tmp_path)
    items = [*(Item(f"{i}", text=f"square {i}") for i in range(4)), Item("late", image=picture(1))]
    preprocess = encoder.loaded.stock.pipeline.preprocess

    def stops_at_images(inputs: Any, **options: Any) -> Any:
        if not isinstance(inputs[0], dict):
            raise KeyboardInterrupt
        return preprocess(inputs, **options)

    monkeypatch.setattr(encoder.loaded.stock.pipeline, "preprocess", stops_at_images)
    with pytest.raises(KeyboardInterrupt):
        encoder.embed(items)
    monkeypatch.setattr(
        encoder.loaded.stock.pipeline, "preprocess", lambda inputs, **o: pytest.fail("embedded again")
    )
    assert len(encoder.embed(items[:4])) == 4


@pytest.mark.parametrize("change", ["weights", "prompts", "module"])
def test_revision_changes_with_every_file_that_matters(tmp_path: Path, change: str) -> None:
    folder = stock.write_text(tmp_path / "model")
    before = load_model(folder)
    if change == "weights":
        stock.write_text(tmp_path / "other", seed=1)
        name = "model.safetensors"
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    elif change == "prompts":
        path = folder / "config_sentence_transformers.json"
        path.write_text(path.read_text().replace("passage: ", "document: "))
    else:
        path = folder / "2_Dense" / "config.json"
        path.write_text(path.read_text().replace("Tanh", "Sigmoid").replace("tanh", "sigmoid"))
    after = load_model(folder)
    assert before.revision != after.revision
    assert load_model(folder).revision == after.revision


def test_long_text_is_cut_and_counted(folder_of_stock: Callable[[str], Path]) -> None:
    """The folder names no length: the library alone fails at the 78th token of a CLIP."""
    encoder = Encoder.load(folder_of_stock("clip"))
    long = Item("long", text="q" * 100)
    found = encoder.embed([long, Item("short", text="q")])
    assert found.cut == {"long": 102 - 77}
    model = SentenceTransformer(str(folder_of_stock("clip")), device="cpu")
    model.max_seq_length = 77
    np.testing.assert_allclose(found.rows_ND[0], model.encode("q" * 100), atol=1e-5)


def test_max_tokens(folder_of_stock: Callable[[str], Path]) -> None:
    encoder = Encoder.load(folder_of_stock("text"), max_tokens=30)
    found = encoder.embed([Item("long", text="z" * 50)])
    model = SentenceTransformer(str(folder_of_stock("text")), device="cpu")
    model.max_seq_length = 30
    np.testing.assert_allclose(unit(found.rows_ND)[0], model.encode_document("z" * 50), atol=1e-5)
    assert found.cut["long"] > 20
    assert encoder.origin()["max_tokens"] == 30


def test_truncated_vectors(tmp_path: Path) -> None:
    folder = stock.write_text(tmp_path / "short", truncate=5)
    rows_ND = Encoder.load(folder).embed([Item("a", text="a square")]).rows_ND
    theirs = SentenceTransformer(str(folder), device="cpu").encode_document(["a square"])
    assert rows_ND.shape == (1, 5)
    np.testing.assert_allclose(unit(rows_ND), unit(theirs), atol=1e-5)


def test_half_precision_ends_in_float32(tmp_path: Path) -> None:
    """The library would cast pooling and Dense to bfloat16 with the model."""
    folder = stock.write_text(tmp_path / "model")
    loaded = load_model(folder, dtype=torch.bfloat16)
    pipeline = loaded.stock.pipeline
    kinds = [next(module.parameters()).dtype for module in pipeline if list(module.parameters())]
    assert kinds == [torch.bfloat16, torch.float32]
    assert Encoder(loaded).origin()["dtype"] == "bfloat16"
    items = [Item("a", text="a red square"), Item("b", text="what colour is the circle?")]
    exact, half = (Encoder(one).embed(items).rows_ND for one in (load_model(folder), loaded))
    assert 0 < np.abs(unit(exact) - unit(half)).max() < 0.02


def test_empty_text_is_refused(folder_of_stock: Callable[[str], Path]) -> None:
    with pytest.raises(ItemError, match="empty"):
        Encoder.load(folder_of_stock("clip")).embed([Item("a", text=" ")])


def test_what_a_finished_vector_cannot_give(folder_of_stock: Callable[[str], Path], tmp_path: Path) -> None:
    loaded = load_model(folder_of_stock("fused"), head=True)
    with pytest.raises(UsageError, match="no layers"):
        Encoder(loaded, layer=-2)
    with pytest.raises(UsageError, match="does not fit"):
        Encoder(loaded, pooling="last")
    with pytest.raises(UsageError, match="cannot describe"):
        Encoder(loaded, source="describe")
    with pytest.raises(UsageError, match="no language head"):
        Captioner(loaded)
    with pytest.raises(UsageError, match="no token states"):
        harvest(Encoder(loaded), [Item("a", text="a square")], tmp_path)


def test_missing_library_is_told_with_the_line_that_installs_it(
    folder_of_stock: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'clearsight\[sentence-transformers\]'"):
        Encoder.load(folder_of_stock("clip"))


def _copy(source: Path, target: Path) -> Path:
    for file in source.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("config_sentence_transformers.json", "SentenceTransformer", "CrossEncoder", "reranker"),
        ("config_sentence_transformers.json", "SentenceTransformer", "SparseEncoder", "sparse vectors"),
        ("config_sentence_transformers.json", "SentenceTransformer", "Other", "not an embedding model"),
        ("modules.json", "[", "", "not JSON"),
        ("modules.json", '"path"', '"place"', "does not list modules"),
        ("modules.json", '"1_Pooling"', '"../1_Pooling"', "leads out"),
        ("modules.json", "sentence_transformers.base.modules.dense.Dense", "own.Dense", "own|remote"),
        ("2_Dense/model.safetensors", None, None, "cannot be loaded|cannot load"),
    ],
)  # fmt: skip
def test_bad_folders(
    folder_of_stock: Callable[[str], Path], tmp_path: Path, file: str, old: str, new: str, what: str
) -> None:
    folder = _copy(folder_of_stock("text"), tmp_path / "model")
    path = folder / file
    if old is None:
        path.unlink()
    else:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=what):
        load_model(folder)


def test_modules_of_a_hub_model_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders below the first are left out when a model is fetched: only a list of modules names them."""
    snapshot = tmp_path / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    rows = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]
    (snapshot / "modules.json").write_text(json.dumps(rows))
    asked: list[Any] = []

    def fetch(hub_id: str, **options: Any) -> str:
        asked.append((hub_id, options["revision"], options["allow_patterns"]))
        raise OSError("no network")

    monkeypatch.setattr(stock_folder, "snapshot_download", fetch)
    folder = Folder("owner/name", snapshot)
    paths = stock_folder.module_folders(folder)
    stock_folder.fetch_modules(folder, paths)
    assert asked == [("owner/name", "a" * 40, ["1_Pooling/*", "2_Normalize/*"])]
    for path in paths:
        path.mkdir()
    stock_folder.fetch_modules(folder, paths)
    assert len(asked) == 1
    assert stock_folder.revision(folder, paths) == "a" * 40
