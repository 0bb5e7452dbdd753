"""A table of millions is parsed once; what changed is parsed again; what is broken is told with its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from clearsight.data import indexed
from clearsight.data.indexed import cache_folder, indexed_jsonl, indexed_parquet
from clearsight.data.item_table import ItemTable
from clearsight.data.parquet import ParquetImages
from clearsight.data.tables import Faults
from clearsight.errors import DataError

COLUMNS = ("did", "txt", "img_path")


def shape(batch: pa.RecordBatch) -> pa.RecordBatch:
    text = pc.utf8_upper(batch.column("txt"))
    return pa.record_batch({"id": batch.column("did"), "text": text, "image": batch.column("img_path")})


def write(path: Path, rows, end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


def rows(count: int):
    return [
        {"did": f"d{i}", "txt": None if i % 3 else f"text {i}", "img_path": f"{i}.png", "extra": {"x": [i]}}
        for i in range(count)
    ]


def read(path: Path, cache: Path, version: str = "1", faults: Faults | None = None) -> pa.Table:
    return indexed_jsonl(path, COLUMNS, shape, version=version, cache=cache, faults=faults)


def test_a_table_is_what_the_file_says_and_null_columns_have_a_type(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed, "_BLOCK_BYTES", 200)
    table = read(write(tmp_path / "pool.jsonl", rows(50)), tmp_path / "cache")
    items = ItemTable(table, images=Path("images"))
    assert [item.text for item in items] == [None if i % 3 else f"TEXT {i}" for i in range(50)]
    assert items[49].image == str(Path("images/49.png"))
    assert table.column("text").num_chunks > 1


def test_it_is_parsed_once_and_again_when_file_or_shape_changed(tmp_path, monkeypatch):
    parsed = []
    inner = indexed._json_batches
    monkeypatch.setattr(indexed, "_json_batches", lambda *given: parsed.append(1) or inner(*given))
    path, cache = write(tmp_path / "pool.jsonl", rows(5)), tmp_path / "cache"
    first = read(path, cache)
    assert read(path, cache).equals(first)
    assert len(parsed) == 1
    read(path, cache, version="2")
    assert len(parsed) == 2
    facts = path.stat()
    path.write_text(path.read_text().replace("text 0", "text X"))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert read(path, cache).column("text")[0].as_py() == "TEXT X", "same size, same time"
    assert first.column("text")[0].as_py() == "TEXT 0", "a table that is open stays as it was"
    assert not list(cache.glob(".*")), "nothing temporary is left"


FIRST = '{"did": "a", "txt": null, "img_path": null}\n'


@pytest.mark.parametrize(
    ("content", "what", "where", "do"),
    [
        ('{"did": "b", "tx', "not JSON", "line 2", "fetch it again"),
        ('hello\n{"did": "b"}\n', "not JSON", "line 2", "Correct the line"),
        ('[1]\n{"did": "b"}\n', "holds list", "line 2", "Correct the line"),
        ('{"did": ["c"]}\n{"did": "b"}\n', "'did' holds list", "line 2", "Correct the line"),
    ],
)
def test_broken_lines_are_told_each_time_and_the_rest_is_read(tmp_path, content, what, where, do):
    path, cache = tmp_path / "pool.jsonl", tmp_path / "cache"
    path.write_text(FIRST + content)
    with pytest.raises(DataError, match=what) as caught:
        read(path, cache)
    assert where in caught.value.where
    assert do in caught.value.do
    for _ in range(2):
        faults = Faults("skip")
        table = read(path, cache, faults=faults)
        assert len(faults.skipped) == 1
        assert table.column("id").to_pylist() == (["a", "b"] if content.endswith("\n") else ["a"])
    assert not list(cache.glob("*")), "what lacks lines is not kept"


def test_a_parsed_table_that_cannot_be_read_is_made_again(tmp_path):
    path, cache = write(tmp_path / "pool.jsonl", rows(5)), tmp_path / "cache"
    first = read(path, cache).to_pylist()
    [kept] = cache.glob("*.arrow")
    kept.write_bytes(kept.read_bytes()[:100])
    assert read(path, cache).to_pylist() == first


def test_what_one_parser_refuses_and_another_reads_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed, "_BLOCK_BYTES", 100)  # a line is longer than a block
    long = [{"did": "a", "txt": "x" * 1000, "img_path": None}, *rows(3)]
    assert len(read(write(tmp_path / "pool.jsonl", long), tmp_path / "cache")) == 4


def test_no_file_no_rows_no_room(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.jsonl", tmp_path)
    for content, says in (("", "is empty"), ("\n\n", "no rows")):
        (tmp_path / "empty.jsonl").write_text(content)
        with pytest.raises(DataError, match=says):
            read(tmp_path / "empty.jsonl", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be kept"):
        read(write(tmp_path / "pool.jsonl", rows(2)), tmp_path / "file")


def test_the_cache_lies_where_the_user_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CLEARSIGHT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "clearsight" / "tables"
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "tables"


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def parquet(folder: Path) -> list[Path]:
    paths = []
    for part in range(2):
        numbers = range(10 * part, 10 * part + 10)
        image = [{"bytes": b"image %d" % i, "path": None} if i % 4 else None for i in numbers]
        table = pa.table(
            {"id": [f"i{i}" for i in numbers], "text": ["t"] * 10, "image": pa.array(image, IMAGE)}
        )
        paths.append(folder / f"part-{part}.parquet")
        pq.write_table(table, paths[-1], row_group_size=3)
    return paths


def test_parquet_images_are_read_by_row_group_and_never_all(tmp_path, monkeypatch):
    paths = parquet(tmp_path)
    count = iter(range(20))

    def numbered(batch):
        return pa.record_batch(
            {
                "id": batch.column("id"),
                "text": batch.column("text"),
                "image": pa.array([next(count) for _ in range(batch.num_rows)]),
            }
        )

    table = indexed_parquet(paths, ("id", "text"), numbered, version="1", cache=tmp_path / "cache")
    groups = []
    inner = ParquetImages._read_group
    monkeypatch.setattr(ParquetImages, "_read_group", lambda self, g: groups.append(g) or inner(self, g))
    items = ItemTable(table, images=ParquetImages(paths, "image"))
    assert [item.image for item in items] == [b"image %d" % i if i % 4 else b"" for i in range(20)]
    assert groups == list(range(8)), "each group once"
    assert items[13].image == b"image 13"
    assert items[::-1][2].image == b"image 17"


def test_half_a_parquet_file(tmp_path):
    [path, _] = parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read") as caught:
        indexed_parquet([path], ("id",), shape, version="1", cache=tmp_path)
    assert "broken off: fetch" in caught.value.do
    with pytest.raises(DataError, match="cannot be read"):
        ParquetImages([path], "image")


def test_missing_columns_and_files(tmp_path):
    paths = parquet(tmp_path)
    with pytest.raises(DataError, match="lacks the columns 'name'"):
        indexed_parquet(paths, ("name",), shape, version="1", cache=tmp_path)
    with pytest.raises(DataError, match=r"lacks the columns 'picture'"):
        ParquetImages(paths, "picture")
    with pytest.raises(DataError, match="no parquet files"):
        indexed_parquet([], ("id",), shape, version="1", cache=tmp_path)
    with pytest.raises(IndexError):
        ParquetImages(paths, "image").read([20])
