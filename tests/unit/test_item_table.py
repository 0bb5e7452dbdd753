"""Items in columns are the items themselves, and their ids are found without making any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearsight import Item, Task
from clearsight.data.item_table import ItemTable
from clearsight.errors import DataError
from clearsight.names import Names
from clearsight.types import MODALITIES, kinds_of

ROWS = [
    {"id": "a", "text": "one", "image": None, "instruction": None},
    {"id": "b", "text": None, "image": "b.png", "instruction": "find it"},
    {"id": "c", "text": "three", "image": "sub/c.png", "instruction": None},
]


def table(rows=ROWS, **types):
    return pa.Table.from_pylist(rows, pa.schema({name: types.get(name, pa.string()) for name in rows[0]}))


def test_rows_are_items_and_paths_start_at_the_folder():
    items = ItemTable(table(), images=Path("folder"))
    expected = [
        Item("a", "one"),
        Item("b", None, str(Path("folder/b.png")), "find it"),
        Item("c", "three", str(Path("folder/sub/c.png"))),
    ]
    assert list(items) == expected
    assert [items[i] for i in range(-3, 3)] == expected * 2
    assert list(items[1:]) == expected[1:]
    assert list(items[::-2]) == expected[::-2]
    assert list(items.batches(2)) == [expected[:2], expected[2:]]
    assert tuple(items[1:].ids) == ("b", "c")
    with pytest.raises(IndexError):
        items[3]


def test_images_as_structs_and_as_numbers():
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [
        {"id": "a", "image": {"bytes": b"x", "path": None}},
        {"id": "b", "image": {"bytes": None, "path": "p"}},
    ]
    assert [item.image for item in ItemTable(table(rows, image=struct))] == [b"x", "p"]

    class Album:
        asked: list[list[int]] = []  # noqa: RUF012

        def read(self, numbers):
            self.asked.append(list(numbers))
            return [b"%d" % number for number in numbers]

    rows = [{"id": str(n), "text": "t", "image": None if n == 1 else n} for n in range(5)]
    items = ItemTable(table(rows, image=pa.int64()), images=Album())
    assert [item.image for item in items[1:4]] == [None, b"2", b"3"]
    assert Album.asked == [[2, 3]], "nothing else was read"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "x"}], "the table has text"),
        ([{"id": "a", "colour": "x"}], "the table has id, colour"),
        ([{"id": None, "text": "x"}], "1 ids are null"),
    ],
)
def test_refusals(rows, says):
    with pytest.raises(DataError, match=says):
        ItemTable(table(rows))
    with pytest.raises(DataError, match="holds int64"):
        ItemTable(table([{"id": 3}], id=pa.int64()))


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3), unique=True), st.integers(1, 4))
def test_names_behave_as_the_strings_they_are(names, wanted, chunk):
    parts = [pa.array(names[i : i + chunk], pa.string()) for i in range(0, len(names), chunk)]
    column = Names(pa.chunked_array(parts, pa.string()))
    assert list(column) == names
    assert len(column) == len(names)
    assert [column[i] for i in range(len(names))] == names
    assert column.rows(wanted).tolist() == [names.index(w) if w in names else -1 for w in wanted]
    twice = column.repeated()
    assert (twice is None) == (len(set(names)) == len(names))
    assert twice is None or names.count(twice) > 1
    assert list(column[1::2]) == names[1::2]
    for index in (np.arange(len(names))[::-1], np.arange(len(names) // 2)):
        assert column.take(index) == tuple(names[i] for i in index)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"candidates": ItemTable(table([ROWS[0], ROWS[0]]))}, "candidate id 'a' appears twice"),
        ({"queries": ItemTable(table([ROWS[0], ROWS[0]]))}, "query id 'a' appears twice"),
        ({"relevance": {"nobody": {"a": 1}}}, "relevance names an unknown query: 'nobody'"),
        ({"relevance": {"a": {"b": 1}, "b": {"c": 1, "x": 1}}}, "relevance of query 'b'.*candidate: 'x'"),
        ({"pools": {"a": ["y"]}}, "pools of query 'a'.*candidate: 'y'"),
        ({"excluded": {"a": ["y"]}}, "excluded of query 'a'.*candidate: 'y'"),
        ({"groups": {"nobody": "g"}}, "groups names an unknown query: 'nobody'"),
    ],
)
@pytest.mark.parametrize("columns", [True, False])
def test_a_task_over_columns_is_checked_as_one_over_items(wrong, says, columns):
    right = {"queries": ItemTable(table()), "candidates": ItemTable(table()), "relevance": {"a": {"b": 1}}}
    given_ = {
        name: value if columns or not isinstance(value, ItemTable) else tuple(value)
        for name, value in (right | wrong).items()
    }
    Task("right", **right)
    with pytest.raises(DataError, match=says):
        Task("wrong", **given_)


def test_a_task_of_many_items_makes_none_of_them(monkeypatch):
    def never(*_):
        raise AssertionError("an item was made")

    ids = pa.array([f"item {i}" for i in range(100_000)])
    candidates = ItemTable(pa.table({"id": ids, "text": ids}))
    monkeypatch.setattr(ItemTable, "_items", never)
    relevance = {f"item {i}": {f"item {3 * i}": 1.0} for i in range(1000)}
    Task("large", candidates[:1000], candidates, relevance)


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
PICTURES = {
    "paths": (pa.string(), ["a.png", None, "sub/b.png", None], ["a.png", "sub/b.png"]),
    "structs": (
        STRUCT,
        [
            {"bytes": b"x", "path": "named.png"},
            None,
            {"bytes": None, "path": "b.png"},
            {"bytes": None, "path": None},
        ],
        ["b.png"],
    ),
    "bytes alone": (
        pa.struct({"bytes": pa.binary()}),
        [{"bytes": b"x"}, None, {"bytes": b"y"}, {"bytes": None}],
        [],
    ),
    "numbers": (pa.int64(), [3, None, 0, None], []),
}


class Counted:
    def read(self, numbers):
        return [b"%d" % number for number in numbers]


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("chunks", [1, 4])
def test_columns_tell_what_items_are(kind, chunks, monkeypatch):
    column, values, paths = PICTURES[kind]
    rows = pa.table(
        {"id": list("abcd"), "text": ["one", "two", None, "four"], "image": pa.array(values, column)}
    )
    if chunks > 1:
        rows = pa.concat_tables([rows.slice(n, 1) for n in range(4)])
    images = Counted() if kind == "numbers" else Path("folder")
    items = ItemTable(rows, images=images)
    expected = [item.modality for item in items]
    assert expected == ["image+text", "text", "image", "text"]
    some, tail = [items[0], items[2]], items[1:].kind_N.tolist()
    monkeypatch.setattr(ItemTable, "_read", None)
    assert [MODALITIES[place] for place in kinds_of(items)] == expected
    assert tail == items.kind_N[1:].tolist()
    assert list(items.image_paths()) == [str(Path("folder") / path) for path in paths]
    assert items.brings_images == (kind != "paths")
    chosen, only = items.take(np.array([2, 0])), items.only(["c", "nobody", "a"])
    assert (tuple(chosen.ids), tuple(only.ids)) == (("c", "a"), ("a", "c"))
    monkeypatch.undo()
    assert list(only) == some == list(chosen)[::-1]


def test_texts_alone_have_no_images():
    items = ItemTable(table([{"id": "a", "text": "x"}]))
    assert (items.kind_N.tolist(), list(items.image_paths()), items.brings_images) == ([0], [], False)
    assert ItemTable(table([ROWS[0]])[:0]).kind_N.shape == (0,)
