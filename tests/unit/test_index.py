"""An index: incremental, interrupted, asked; with an encoder of numpy in place of a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearsight.data.images import open_image
from clearsight.errors import ClearsightError, DataError, ItemError, UsageError
from clearsight.index import Index, Query, making, settings
from clearsight.index import folder as folder_module
from clearsight.index import index as index_module
from clearsight.types import Item
from small.toy_index import ToyEncoder, vector_of

Maker = Callable[..., Index]
OLD = 1_600_000_000_123_456_789


def old(path: Path) -> Path:
    """The file as if it had lain there for long."""
    os.utime(path, ns=(OLD, OLD))
    return path


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return old(path)


def text(path: Path, words: str) -> Path:
    path.write_text(words, encoding="utf-8")
    return old(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    picture(place / "a.png", "red")
    picture(place / "Ж" / "b.png", "blue")
    text(place / "c.md", "some words")
    text(place / "m.csv", "image,caption,year\na.png,a red square,2019\nЖ/b.png,,2021\n")
    return place


@pytest.fixture
def make(photos: Path) -> Maker:
    def create(**options: Any) -> Index:
        encoder = options.pop("encoder", None) or ToyEncoder()
        options.setdefault("address", f"memory:{photos}")
        return Index.create(photos / ".clearsight", encoder, items=photos, overwrite=True, **options)

    return create


def counts(done: Any) -> tuple[int, int, int, int]:
    return done.new, done.changed, done.same, done.gone


def test_only_what_is_new_changed_or_gone_is_taken(
    make: Maker, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ToyEncoder()
    index = make(encoder=encoder)
    assert counts(index.sync()) == (3, 0, 0, 0)
    assert sorted(encoder.embedded) == ["a.png", "c.md", "Ж/b.png"]
    encoder.calls.clear()
    read: list[str] = []
    real = folder_module._bytes_of
    monkeypatch.setattr(
        folder_module, "_bytes_of", lambda path, name: (read.append(name), real(path, name))[1]
    )
    assert counts(index.sync()) == (0, 0, 3, 0)
    assert not read
    picture(photos / "new.png", "green")
    text(photos / "c.md", "other words")
    os.utime(photos / "c.md", ns=(OLD, OLD + 1))
    (photos / "Ж" / "b.png").rename(photos / "moved.png")
    text(photos / "m.csv", "image,caption,year\na.png,a red square,2018\n")
    done = index.sync()
    assert counts(done) == (2, 2, 0, 1)
    assert done.moved == 1
    assert sorted(encoder.embedded) == ["c.md", "new.png"]
    assert sorted(read) == ["a.png", "c.md", "moved.png", "new.png"]
    assert index.items(["a.png"])[0].metadata == {"year": 2018}
    assert {hit.id for hit in index.sample(9)} == {"a.png", "c.md", "moved.png", "new.png"}


def test_one_content_twice_is_two_rows_embedded_once(make: Maker, photos: Path) -> None:
    (photos / "twin.png").write_bytes((photos / "a.png").read_bytes())
    encoder = ToyEncoder()
    index = make(encoder=encoder)
    assert index.sync().new == 4
    assert len(encoder.embedded) == 3
    (photos / "third.png").write_bytes((photos / "a.png").read_bytes())
    assert counts(index.sync())[0] == 1
    assert len(encoder.embedded) == 3
    assert [hit.score for hit in index.search(image=photos / "a.png", top=3).hits] == pytest.approx([1, 1, 1])


def test_a_touched_file_keeps_its_vector_and_counts_as_before(make: Maker, photos: Path) -> None:
    encoder = ToyEncoder()
    index = make(encoder=encoder)
    index.sync()
    os.utime(photos / "a.png", ns=(OLD, OLD + 5))
    encoder.calls.clear()
    assert counts(index.sync()) == (0, 0, 3, 0)
    assert not encoder.embedded


def test_an_interrupted_run_keeps_its_chunks_and_goes_on(
    make: Maker, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "FIRST_CHUNK", 2)
    monkeypatch.setattr(making, "MOST_CHUNK", 2)
    for number in range(6):
        text(photos / f"t{number}.txt", f"text {number}")
    encoder = ToyEncoder()
    index = make(encoder=encoder)
    real = ToyEncoder.embed

    def third_is_last(self: ToyEncoder, items: Any, *role: Any, **more: Any) -> Any:
        if len(self.calls) == 3:
            raise KeyboardInterrupt
        return real(self, items, *role, **more)

    monkeypatch.setattr(ToyEncoder, "embed", third_is_last)
    with pytest.raises(KeyboardInterrupt):
        index.sync()
    assert index.store.view().rows == 4
    monkeypatch.setattr(ToyEncoder, "embed", real)
    done = index.sync()
    assert counts(done) == (5, 0, 4, 0)
    assert sorted(encoder.embedded) == sorted({*encoder.embedded})


def test_bad_files_are_named_and_the_others_indexed(make: Maker, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "empty.txt").write_text(" ")
    (photos / "gone.png").symlink_to(photos / "nothing")
    index = make()
    done = index.sync()
    assert done.new == 3
    assert set(done.skipped) == {"broken.png", "empty.txt", "gone.png"}
    with pytest.raises(ItemError, match="gone"):
        index.sync(on_error="raise")
    picture(photos / "broken.png", "pink")
    assert index.sync().new == 1
    (photos / "broken.png").write_bytes(b"no picture again")
    assert "broken.png" in index.sync().skipped
    assert index.items(["broken.png"]), "what cannot be read now stays as it was"


@pytest.mark.parametrize(
    ("rule", "reads", "modality"),
    [
        ("auto", {"text", "image"}, "image"),
        ("text", {"text", "image"}, "text"),
        ("both", {"text", "image", "image+text"}, "image+text"),
        ("both", {"text", "image"}, "image"),
        ("auto", {"text"}, "text"),
    ],
)
def test_what_of_an_item_is_embedded(make: Maker, rule: str, reads: set[str], modality: str) -> None:
    index = make(encoder=ToyEncoder(reads=frozenset(reads)), embed=rule)
    done = index.sync()
    (hit,) = index.items(["a.png"])
    assert (hit.modality, hit.text) == (modality, "a red square")
    assert ("Ж/b.png" in done.skipped) == ("image" not in reads)


def test_an_empty_folder_and_one_that_was_emptied(make: Maker, photos: Path, tmp_path: Path) -> None:
    index = make()
    index.sync()
    for name in ("a.png", "c.md", "m.csv", "Ж/b.png"):
        (photos / name).unlink()
    with pytest.raises(DataError, match=r"nothing to index.*3 items of the index were left"):
        index.sync()
    assert index.store.view().rows == 3


def test_a_folder_that_cannot_be_listed_loses_nothing(
    make: Maker, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    index.sync()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("Ж"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    text(photos / "m.csv", "image,caption,year\na.png,a red square,2019\n")
    monkeypatch.setattr(os, "scandir", scandir)
    done = index.sync()
    assert done.gone == 0
    assert any("Permission denied" in why for why in done.skipped.values())


def test_items_added_by_hand_stay_when_the_folder_is_read(make: Maker, photos: Path) -> None:
    encoder = ToyEncoder()
    index = make(encoder=encoder)
    items = [
        Item("x", text="hello"),
        Item("y", image=photos / "a.png"),
        Item("z", image=Image.new("RGB", (9, 9))),
    ]
    added = index.add(items, metadata={"x": {"year": 2020}})
    assert (added.new, added.changed, added.same) == (3, 0, 0)
    again = index.add(items, metadata={"x": {"year": 2020}})
    assert (again.new, again.changed, again.same) == (0, 0, 3)
    assert len(encoder.embedded) == 3
    assert index.add([Item("x", text="hello")], metadata={"x": {"year": 2021}}).changed == 1
    assert index.sync().gone == 0
    assert index.store.view().rows == 6
    assert index.original("y") == (photos / "a.png").read_bytes()
    assert (index.delete(["x", "never"]), index.store.view().rows) == (1, 5)
    with pytest.raises(ItemError, match=r"'year' is 'soon'"):
        index.add([Item("w", text="w")], metadata={"w": {"year": "soon"}})


def test_answers(make: Maker, photos: Path) -> None:
    encoder = ToyEncoder()
    index = make(encoder=encoder)
    index.sync()
    encoder.calls.clear()
    queries = [Query("some words"), Query(image=photos / "a.png", space="raw"), Query(like="c.md", top=9)]
    words, red, like = index.search_many(queries)
    assert [len(call) for call in encoder.calls] == [2], "one batch for all"
    assert words.hits[0].id == "c.md"
    assert words.hits[0].score == pytest.approx(1)
    assert (red.hits[0].id, red.hits[0].metadata, red.hits[0].text) == (
        "a.png",
        {"year": 2019},
        "a red square",
    )
    assert (red.repair, red.rows, red.query) == ("", 3, queries[1])
    assert [hit.id for hit in like.hits] != ["c.md"]
    assert "c.md" not in [hit.id for hit in like.hits]
    assert len(like.hits) == 2
    naive = vector_of(Item("q", text="some words")) @ vector_of(Item("i", image=photos / "a.png"))
    lengths = [
        np.linalg.norm(vector_of(one))
        for one in (Item("q", text="some words"), Item("i", image=photos / "a.png"))
    ]
    found = next(hit.score for hit in words.hits if hit.id == "a.png")
    assert found == pytest.approx(float(naive / lengths[0] / lengths[1]), abs=1e-5)
    assert [hit.id for hit in index.search("x", where="year > 2020").hits] == ["Ж/b.png"]
    assert index.search("x", where="year > 3000").hits == ()
    assert len(index.search("x", top=10_000).hits) == 3


@pytest.mark.parametrize(
    ("query", "kind", "words"),
    [
        (Query(), UsageError, "empty"),
        (Query("  "), UsageError, "no words"),
        (Query("a", top=0), UsageError, "1 to 10,000"),
        (Query("a", top=1_000_000), UsageError, "1 to 10,000"),
        (Query("a", like="b"), UsageError, "of its own"),
        (Query(like="nobody"), DataError, "nobody"),
        (Query("a", where="year >"), UsageError, "filter"),
        (Query("a", where="yeer = 1"), UsageError, "yeer"),
        (Query("a", space="both"), UsageError, "space"),  # type: ignore[arg-type]
        (Query(image=b"no picture"), ItemError, "not an image"),
        (Query(image="none.png"), ItemError, "does not exist"),
    ],
)
def test_questions_that_cannot_be_answered(
    make: Maker, query: Query, kind: type[ClearsightError], words: str
) -> None:
    index = make()
    index.sync()
    with pytest.raises(kind, match=words) as caught:
        index.search(query)
    assert caught.value.do


def test_a_modality_that_the_model_lacks(make: Maker, photos: Path) -> None:
    index = make(encoder=ToyEncoder(reads=frozenset({"text"})), embed="text")
    index.sync()
    with pytest.raises(UsageError, match="reads no query of image"):
        index.search(image=photos / "a.png")


def test_pictures_come_back_from_the_folder_alone(make: Maker, photos: Path, tmp_path: Path) -> None:
    outside = picture(tmp_path / "secret.png", "black")
    (photos / "link.png").symlink_to(outside)
    index = make()
    index.sync()
    assert open_image(index.thumbnail("a.png") or b"").size == (8, 8)
    assert index.original("a.png") == (photos / "a.png").read_bytes()
    assert index.thumbnail("c.md") is index.original("c.md") is None
    with pytest.raises(DataError, match="outside the indexed folder"):
        index.original("link.png")
    (photos / "a.png").unlink()
    assert index.original("a.png") is None
    for ask in (index.original, index.thumbnail):
        with pytest.raises(DataError, match="no item 'nobody'"):
            ask("nobody")
    assert [hit.id for hit in index.items(["c.md", "nobody", "a.png"])] == ["c.md", "a.png"]


def test_an_index_of_another_model_or_format_is_said_with_what_mends_it(make: Maker, photos: Path) -> None:
    index = make()
    index.sync()
    place = photos / ".clearsight"
    assert Index.open(photos, encoder=ToyEncoder()).search("x").hits
    with pytest.raises(DataError, match=r"another model.*--overwrite"):
        Index.open(place, encoder=ToyEncoder(revision="2"))
    facts = json.loads((place / "index.json").read_text())
    for number, words in ((0, r"format 0.*--overwrite"), (settings.FORMAT + 1, "newer version.*pip install")):
        (place / "index.json").write_text(json.dumps({**facts, "format": number}))
        with pytest.raises(DataError, match=words):
            Index.open(place)
    (place / "index.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Index.open(place)
    with pytest.raises(DataError, match="no index here"):
        Index.open(photos / "Ж")
    with pytest.raises(DataError, match="other things"):
        Index.create(photos, ToyEncoder())


def test_an_index_is_not_overwritten_unasked_and_is_of_one_folder(
    make: Maker, photos: Path, tmp_path: Path
) -> None:
    index = make()
    index.sync()
    with pytest.raises(DataError, match="an index already"):
        Index.create(photos / ".clearsight", ToyEncoder())
    picture(tmp_path / "other" / "x.png")
    with pytest.raises(DataError, match=r"The index is of .*photos"):
        index.sync(tmp_path / "other")


def test_a_second_writer_is_told_who_writes(
    make: Maker, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    index.sync()
    monkeypatch.setattr(index_module, "SOON", 0.05)
    code = (
        "import sys, time; from clearsight.store.lock import writer_lock\n"
        "with writer_lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(photos / ".clearsight")], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(DataError, match=f"process {other.pid}"):
                index.sync()
            assert index.search("some words").hits, "readers never wait"
        finally:
            other.kill()
    assert index.sync().same == 3, "the lock went with its process"


def test_a_full_disk_leaves_what_was_there(
    make: Maker, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make()
    index.sync()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(settings, "write_atomic", full)
    with pytest.raises(DataError, match="No space left"):
        index.learn_queries(True)
    monkeypatch.undo()
    assert Index.open(photos, encoder=ToyEncoder()).sync().same == 3


def test_a_store_on_disk_is_read_by_others(make: Maker, photos: Path) -> None:
    make(address=None).sync()
    other = Index.open(photos, encoder=ToyEncoder())
    assert other.search("some words").hits[0].id == "c.md"
    text(photos / "d.txt", "more")
    Index.open(photos, encoder=ToyEncoder()).sync()
    assert other.search("more").hits[0].id == "d.txt", "what was committed by another index shows at once"
    assert other.info()["rows"] == 4


def test_settings_that_are_none() -> None:
    with pytest.raises(UsageError, match="embed is 'picture'"):
        settings.Settings("m", "r", 8, embed="picture")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unlabelled"):
        settings.Settings("m", "r", 8, unlabelled=-1)


def test_the_map_and_the_facts(make: Maker, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pacmap", None)  # it compiles for half a minute
    for number in range(60):
        text(photos / f"t{number}.txt", f"text {number}")
    index = make()
    index.sync()
    found = index.map()
    assert len(found["ids"]) == len(found["modality"]) == 63
    for space in ("raw", "repaired"):
        assert found[space].shape == (63, 2)
        assert found[space].dtype == np.float32
        assert np.abs(found[space]).max() == pytest.approx(1)
    again = Index.open(photos, encoder=ToyEncoder()).map()
    np.testing.assert_array_equal(found["raw"], again["raw"])
    assert list((photos / ".clearsight" / "map").iterdir())
    facts = index.info()
    assert facts["modalities"] == {"image": 2, "text": 61}
    assert facts["metadata"] == {"year": "int64"}
    assert facts["geometry"]["before"].keys() == facts["geometry"]["after"].keys()
