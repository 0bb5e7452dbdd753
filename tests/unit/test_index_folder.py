"""What lies in a folder becomes entries; contents are read late; what cannot be read is named."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clearsight.data.tables import Faults
from clearsight.errors import DataError, ItemError
from clearsight.index import folder as folder_module
from clearsight.index.folder import Collection, Entry
from clearsight.index.metadata import converted, typed_columns


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def entries(place: Path, on_error: str = "raise", **options: object) -> dict[str, Entry]:
    faults = Faults(on_error)  # type: ignore[arg-type]
    found = Collection(place, faults=faults, **options)  # type: ignore[arg-type]
    return {entry.id: entry for entry in found.entries(faults)}


def test_pictures_texts_captions_and_tables(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("beside")
    picture(tmp_path / "深い" / "写真.png")
    (tmp_path / "note.md").write_text("# a note")
    (tmp_path / "alone.txt").write_text("words")
    (tmp_path / "film.mp4").write_text("?")
    picture(tmp_path / ".hidden" / "x.png")
    picture(tmp_path / ".x.png")
    rows = [
        {"file_name": "深い/写真.png", "caption": "deep", "year": 2021},
        {"caption": "only words", "id": "w"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "bills.csv").write_text("what,euros\nbread,3\n")
    found = entries(tmp_path)
    assert set(found) == {"a.png", "深い/写真.png", "note.md", "alone.txt", "w"}
    deep = found["深い/写真.png"].read()[0]
    assert (deep.text, found["深い/写真.png"].metadata) == ("deep", {"year": 2021})
    assert deep.image == (tmp_path / "深い" / "写真.png").read_bytes()
    assert found["a.png"].read()[0].text == "beside"
    assert found["note.md"].read()[0].modality == "text"


def test_a_tables_ids_and_columns_are_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = tmp_path / "elsewhere" / "t.csv"
    table.parent.mkdir()
    table.write_text("id,photo,title,place\none,a.png,first,Bern\ntwo,a.png,second,\n")
    options = {"tables": [table], "columns": {"image": "photo", "text": "title"}}
    found = entries(tmp_path, **options)
    assert {name: one.text for name, one in found.items()} == {"one": "first", "two": "second"}
    assert found["one"].metadata == {"place": "Bern"}
    assert found["two"].source == "a.png"


def test_an_items_file_alone(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    file = tmp_path / "items.parquet"
    content = (tmp_path / "a.png").read_bytes()
    images = [{"bytes": content, "path": None}, {"bytes": None, "path": "a.png"}]
    pq.write_table(pa.table({"id": ["b", "p"], "image": images, "n": [1, 2]}), file)
    found = entries(file)
    assert found["b"].read()[0].image == found["p"].read()[0].image == content
    assert (found["b"].source, found["p"].source) == (None, "a.png")


def test_links_that_run_in_circles_or_nowhere(tmp_path: Path) -> None:
    picture(tmp_path / "sub" / "a.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ItemError, match=r"gone.png"):
        entries(tmp_path)
    assert set(entries(tmp_path, "skip")) == {"sub/a.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "w") as file:
        file.write("x")
    faults = Faults("skip")
    Collection(tmp_path, faults=faults)
    assert "UTF-8" in faults.skipped[0].reason


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        entries(tmp_path / "none")
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,text\nb.png,x\n")
    with pytest.raises(ItemError, match=r"b.png"):
        entries(tmp_path)
    (tmp_path / "t.csv").write_text("id,text\none,x\none,y\n")
    with pytest.raises(DataError, match="twice"):
        entries(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_taken_as_read_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("before")
    os.utime(file, ns=(1, 1_234_567_891))
    entry = entries(tmp_path)["a.txt"]
    assert entry.read()[1] == entry.stamp
    real = os.fstat

    def changing(handle: int) -> os.stat_result:
        seen = real(handle)
        file.write_text("after, and longer")
        return seen

    monkeypatch.setattr(folder_module.os, "fstat", changing)
    item, stamp = entry.read()
    monkeypatch.undo()
    assert item.text == "after, and longer"
    assert stamp not in (entry.stamp, entries(tmp_path)["a.txt"].stamp)


def test_a_file_written_this_moment_is_looked_at_again(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    now = folder_module.time.time_ns()
    os.utime(file, ns=(now, now))
    entry = entries(tmp_path)["a.txt"]
    assert entry.read()[1] != entry.stamp


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", None], "int64"),
        (["1", "2.5"], "double"),
        (["1", True], "string"),
        (["true", "False"], "bool"),
        (["007", "8"], "string"),
        (["+49", "1"], "string"),
        (["nan"], "string"),
        (["2024-05-01", "1999-12-31"], "date"),
        (["2024-05-01", "2024-05-01 18:30"], "timestamp"),
        (["2024-13-01"], "string"),
        ([1, 2.5], "double"),
        ([2**70], "string"),
        ([[1, 2]], "string"),
        ([dt.date(2020, 1, 1)], "date"),
    ],
)
def test_columns_have_the_most_special_type_that_fits(values: list[object], kind: str) -> None:
    rows = [{"c": value} for value in values]
    assert typed_columns(rows) == {"c": kind}
    for row in rows:
        converted(row, {"c": kind}, item_id="x")


def test_a_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(ItemError, match=r"'year' is 'x', and the column holds whole numbers"):
        converted({"year": "x"}, {"year": "int64"}, item_id="a")
