"""One's own files become items and tasks; what is wrong with them is said by line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clearsight.data import TASK_SOURCES, load_items, load_task, open_image, task_sources
from clearsight.data.own_tasks import image_text_task
from clearsight.data.sources import TaskOptions
from clearsight.data.tables import Skipped
from clearsight.errors import DataError, UsageError
from clearsight.types import Item, Task

Rows = list[dict[str, Any]]


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


def write_delimited(delimiter: str, path: Path, rows: Rows) -> None:
    import csv

    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".jsonl": write_jsonl,
    ".ndjson": write_jsonl,
    ".csv": partial(write_delimited, ","),
    ".tsv": partial(write_delimited, "\t"),
    ".parquet": write_parquet,
}
every_kind = pytest.mark.parametrize("kind", WRITERS)


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), colour).save(path)
    return path


ROWS: Rows = [
    {"id": "a", "text": 'a "red", round\nthing', "image": None, "instruction": "Find it."},
    {"id": "b", "text": None, "image": "pictures/b.png", "instruction": None},
    {"id": "ü", "text": "täxt 😀", "image": "b.png", "instruction": None},
]


@every_kind
def test_every_kind_of_table_gives_the_same_items(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"items{kind}"
    WRITERS[kind](path, ROWS)
    loaded = load_items(path)
    assert list(loaded) == [
        Item("a", 'a "red", round\nthing', None, "Find it."),
        Item("b", None, str(tmp_path / "pictures/b.png")),
        Item("ü", "täxt 😀", str(tmp_path / "b.png")),
    ]
    assert (len(loaded), loaded[1].id, loaded.skipped) == (3, "b", ())


@every_kind
def test_columns_have_other_names_by_mapping(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"items{kind}"
    WRITERS[kind](path, [{"key": "k1", "caption": "one"}, {"key": "k2", "caption": "two"}])
    items = load_items(path, columns={"id": "key", "text": "caption"})
    assert [(i.id, i.text) for i in items] == [("k1", "one"), ("k2", "two")]
    with pytest.raises(DataError, match=r"no row has a column 'captoin'|neither text nor image"):
        load_items(path, columns={"text": "captoin"})
    with pytest.raises(DataError, match="No row has a column 'name'"):
        load_items(path, columns={"text": "caption", "id": "name"})
    with pytest.raises(DataError, match=r"no field 'txt'.*Did you mean 'text'"):
        load_items(path, columns={"txt": "caption"})
    with pytest.raises(DataError, match=r"neither text nor image.*It has key, caption"):
        load_items(path)


def test_ids_are_row_numbers_where_there_is_no_column(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("text\none\ntwo\n")
    assert [i.id for i in load_items(path)] == ["1", "2"]


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "i.jsonl", [{"id": 7, "text": "x"}])
    assert load_items(tmp_path / "i.jsonl")[0].id == "7"


def test_null_columns_in_jsonl_in_any_row(tmp_path: Path) -> None:
    """A type guessed from the first rows would fail here: the image column is null at first."""
    rows: Rows = [{"id": str(i), "text": "t", "image": None} for i in range(300)]
    rows.append({"id": "last", "text": "t", "image": "p.png", "instruction": "new column"})
    write_jsonl(tmp_path / "i.jsonl", rows)
    items = load_items(tmp_path / "i.jsonl")
    assert items[-1] == Item("last", "t", str(tmp_path / "p.png"), "new column")


def test_a_text_of_many_megabytes_is_read_from_csv(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text(f"text\n{'x' * 3_000_000}\n")
    assert len(load_items(tmp_path / "i.csv")[0].text or "") == 3_000_000


def test_marks_and_carriage_returns_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_bytes("id,text\r\na,é\r\n\r\nb,ü\r\n".encode("utf-8-sig"))
    (tmp_path / "i.jsonl").write_bytes(
        '{"id": "a", "text": "é"}\r\n\r\n{"id": "b", "text": "ü"}'.encode("utf-8-sig")
    )
    for name in ("i.csv", "i.jsonl"):
        assert [(i.id, i.text) for i in load_items(tmp_path / name)] == [("a", "é"), ("b", "ü")]


BAD_ROWS = {  # name -> the bad line of a jsonl file, what is said of it
    "not json": (b'{"id": "x", "text"', "not JSON"),
    "not an object": (b'["x"]', "list, not an object"),
    "not utf-8": b'{"id": "x", "text": "\xff"}',
    "empty text": (b'{"id": "x", "text": ""}', "text is empty"),
    "blank text": (b'{"id": "x", "text": " \\n"}', "text is empty"),
    "lone surrogate": (b'{"id": "x", "text": "a\\ud800"}', r"lone surrogate \(U\+D800\)"),
    "surrogate in the id": (b'{"id": "\\ud800", "text": "a"}', "lone surrogate"),
    "number for a text": (b'{"id": "x", "text": 3}', "text is of type int"),
    "number for an image": (b'{"id": "x", "image": 3}', "image is of type int"),
    "empty image path": (b'{"id": "x", "image": ""}', "image is of type str"),
    "nothing": (b'{"id": "x", "text": null}', "neither text nor image"),
    "no id": (b'{"id": null, "text": "a"}', "id is None"),
    "list as id": (b'{"id": [1], "text": "a"}', "id is"),
    "duplicate id": (b'{"id": "good", "text": "a"}', "'good' appears twice"),
}
BAD_ROWS["not utf-8"] = (BAD_ROWS["not utf-8"], "not UTF-8")  # type: ignore[assignment]


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_named_or_skipped(name: str, tmp_path: Path) -> None:
    line, reason = BAD_ROWS[name]
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"id": "good", "text": "fine"}\n' + line + b'\n{"id": "last", "text": "fine"}\n')
    with pytest.raises(DataError, match=reason) as caught:
        load_items(path)
    assert caught.value.do
    assert name == "duplicate id" or "items.jsonl line 2" in str(caught.value.where)
    loaded = load_items(path, on_error="skip")
    assert [i.id for i in loaded] == ["good", "last"]
    [skipped] = loaded.skipped
    assert isinstance(skipped, Skipped)
    assert skipped == (caught.value.where, caught.value.what)


def test_bad_rows_of_csv_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b'id,text\na,"two\nlines"\nb,x,extra\nc\nd,\xff\ne,fine\nf,""\n')
    loaded = load_items(path, on_error="skip")
    assert [i.id for i in loaded] == ["a", "e"]
    assert [s.where.split(",")[0] for s in loaded.skipped] == [f"items.csv line {n}" for n in (4, 5, 6, 8)]
    assert [s.reason for s in loaded.skipped[:3]] == [
        "The row has 3 cells, the header 2.",
        "The row has 1 cells, the header 2.",
        "The row is not UTF-8.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.jsonl", None, "does not exist"),
        ("items.xlsx", b"x", r"'\.xlsx' are not read.*\.jsonl"),
        ("empty.jsonl", b"", "no items"),
        ("header.csv", b"id,text\n", "no items"),
        ("empty.csv", b"", "header"),
        ("twice.csv", b"text,text\na,b\n", "repeats a name"),
        ("broken.parquet", b"PAR1 not really", "parquet file cannot be read"),
        ("columns.csv", b"name,words\na,b\n", "It has name, words"),
    ],
)
def test_files_that_cannot_be_used(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        load_items(tmp_path / name)


def test_when_every_row_is_skipped_the_first_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text('text\n" "\n" "\n')
    with pytest.raises(DataError, match=r"2 were skipped.*The text is empty"):
        load_items(tmp_path / "i.csv", on_error="skip")


def test_an_unknown_way_with_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'ignore'.*'skip'"):
        load_items(tmp_path, on_error="ignore")  # type: ignore[arg-type]


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.png", ".hidden.png", ".git/d.png", "sub/.e.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.md").write_text("not an item")
    (tmp_path / "a.txt").write_text("a caption\n", encoding="utf-8")
    items = load_items(tmp_path)
    assert [(i.id, i.text, i.modality) for i in items] == [
        ("a", "a caption", "image+text"),
        ("b", None, "image"),
        ("sub/c", None, "image"),
    ]
    assert all(open_image(i.image).size == (2, 2) for i in items if i.image is not None)


def test_ids_of_a_folder_keep_suffixes_where_two_would_be_equal(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        picture(tmp_path / name)
    assert [i.id for i in load_items(tmp_path)] == ["a.jpg", "a.png", "b.png"]


@pytest.mark.parametrize(("content", "reason"), [(b" \n", "text is empty"), (b"\xff", "not UTF-8")])
def test_bad_captions_beside_images(content: bytes, reason: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        load_items(tmp_path)
    loaded = load_items(tmp_path, on_error="skip")
    assert ([i.id for i in loaded], loaded.skipped[0].where) == (["b"], "a")


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        load_items(tmp_path)


def test_images_in_parquet_stay_encoded(tmp_path: Path) -> None:
    content = picture(tmp_path / "p.png").read_bytes()
    rows: Rows = [
        {"id": "bytes", "image": {"bytes": content, "path": "elsewhere.png"}},
        {"id": "path", "image": {"bytes": None, "path": "p.png"}},
    ]
    write_parquet(tmp_path / "i.parquet", rows)
    write_parquet(tmp_path / "plain.parquet", [{"id": "raw", "image": content}])
    items = [*load_items(tmp_path / "i.parquet"), *load_items(tmp_path / "plain.parquet")]
    assert [i.image for i in items] == [content, str(tmp_path / "p.png"), content]


def test_a_dataset_of_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    content = picture(tmp_path / "p.png").read_bytes()
    dataset = datasets.Dataset.from_dict(
        {"text": ["one", None], "image": [None, {"bytes": content, "path": None}]},
        features=datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()}),
    )
    expected = [Item("1", "one"), Item("2", image=content)]
    assert list(load_items(dataset)) == expected
    dataset.save_to_disk(tmp_path / "saved")
    assert list(load_items(tmp_path / "saved")) == expected
    datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match="several splits: test"):
        load_items(tmp_path / "splits")
    assert list(load_items(tmp_path / "splits" / "test")) == expected


def test_without_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match=r"pip install 'clearsight\[datasets\]'"):
        load_items(tmp_path)
    with pytest.raises(DataError, match="cannot be read from a list"):
        load_items([{"text": "x"}])


QUERIES: Rows = [{"id": "q1", "text": "red"}, {"id": "q2", "text": "blue"}, {"id": "q3", "text": "none"}]
CANDIDATES: Rows = [{"id": "c1", "text": "rose"}, {"id": "c2", "text": "sky"}, {"id": "q1", "text": "sea"}]
RELEVANCE = {"q1": {"c1": 1.0}, "q2": {"c2": 2.0, "q1": 0.0}}


def task_folder(
    folder: Path, kind: str = ".jsonl", relevance: str = "relevance.tsv", content: str | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    WRITERS[kind](folder / f"queries{kind}", QUERIES)
    WRITERS[kind](folder / f"candidates{kind}", CANDIDATES)
    default = "query\tcandidate\tgrade\nq1\tc1\t1\nq2\tc2\t2\nq2\tq1\t0\n"
    (folder / relevance).write_text(default if content is None else content)
    return folder


@every_kind
def test_a_folder_with_a_task(kind: str, tmp_path: Path) -> None:
    task = load_task(task_folder(tmp_path / "mine", kind))
    assert task.name == "mine"
    assert [i.text for i in task.queries] == ["red", "blue", "none"]
    assert [i.id for i in task.candidates] == ["c1", "c2", "q1"]
    assert task.relevance == RELEVANCE


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("relevance.csv", "query,candidate,grade\nq1,c1,1\nq2,c2,2\nq2,q1,0\n"),
        ("relevance.tsv", "query-id\tcorpus-id\tscore\nq1\tc1\t1\nq2\tc2\t2\nq2\tq1\t0\n"),
        (
            "relevance.jsonl",
            '{"query": "q1", "candidate": "c1"}\n{"query": "q2", "candidate": "c2", "grade": 2}\n'
            '{"query": "q2", "candidate": "q1", "grade": 0}\n',
        ),
        ("relevance.qrels", "q1 0 c1 1\nq2 0 c2 2\n\nq2 0 q1 0\n"),
        ("relevance.txt", "q1 0 c1 1 0\nq2 0 c2 2 0\nq2 0 q1 0 0\n"),
        ("relevance.trec", "q1\tQ0\tc1\t1\nq2\tQ0\tc2\t2\nq2\tQ0\tq1\t0\nq2\tQ0\tq1\t0\n"),
    ],
)
def test_relevance_in_every_form(name: str, content: str, tmp_path: Path) -> None:
    assert load_task(task_folder(tmp_path, relevance=name, content=content)).relevance == RELEVANCE


def test_relevance_in_parquet(tmp_path: Path) -> None:
    folder = task_folder(tmp_path)
    (folder / "relevance.tsv").unlink()
    write_parquet(folder / "relevance.parquet", [{"query-id": "q1", "corpus-id": "c2", "score": 1}])
    assert load_task(folder).relevance == {"q1": {"c2": 1.0}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("q9\tc1\t1", "unknown query 'q9'.*relevance.tsv line 3"),
        ("q1\tc9\t1", "unknown candidate 'c9'.*relevance.tsv line 3"),
        ("q1\tc1\t2", "'q1' and candidate 'c1' have two grades"),
        ("q1\tc2\tgood", "grade is 'good'"),
        ("q1\tc2\tnan", "grade is 'nan'"),
        ("q1\tc2", "2 cells"),
        ("\tc2\t1", "needs columns 'query' and 'candidate'"),
    ],
)
def test_bad_relevance(row: str, reason: str, tmp_path: Path) -> None:
    content = f"query\tcandidate\tgrade\nq1\tc1\t1\n{row}\nq2\tc2\t2\nq2\tq1\t0\n"
    folder = task_folder(tmp_path, content=content)
    with pytest.raises(DataError, match=reason):
        load_task(folder)
    skipped: list[Skipped] = []
    assert load_task(folder, skipped=skipped).relevance == RELEVANCE
    [one] = skipped
    assert one.where == "relevance.tsv line 3"


def test_relevance_without_a_header_says_how_to_name_it(tmp_path: Path) -> None:
    folder = task_folder(tmp_path, content="q1\t0\tc1\t1\nq2\t0\tc2\t1\n")
    with pytest.raises(DataError, match=r"\.qrels"):
        load_task(folder)


def test_trec_lines_of_other_lengths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"4 or 5 columns, this one 3.*line 1"):
        load_task(task_folder(tmp_path, relevance="relevance.qrels", content="q1 c1 1\n"))


def test_duplicate_ids_name_their_side(tmp_path: Path) -> None:
    folder = task_folder(tmp_path)
    write_jsonl(folder / "candidates.jsonl", [*CANDIDATES, CANDIDATES[0]])
    with pytest.raises(DataError, match=r"'c1' appears twice.*candidates"):
        load_task(folder)


@pytest.mark.parametrize(
    ("remove", "add"), [("candidates.jsonl", None), ("relevance.tsv", None), (None, "queries.csv")]
)
def test_tables_that_are_missing_or_doubled(remove: str | None, add: str | None, tmp_path: Path) -> None:
    folder = task_folder(tmp_path)
    if remove:
        (folder / remove).unlink()
    if add:
        (folder / add).write_text("id,text\nx,y\n")
    with pytest.raises(DataError, match=r"has no file of|more than one file of queries"):
        load_task(folder)


def test_the_first_n_queries(tmp_path: Path) -> None:
    task = load_task(task_folder(tmp_path), n=1)
    assert ([i.id for i in task.queries], len(task.candidates), task.relevance) == (
        ["q1"],
        3,
        {"q1": {"c1": 1.0}},
    )
    with pytest.raises(UsageError, match="n is 0"):
        load_task(tmp_path, n=0)


def test_pairs_both_ways(tmp_path: Path) -> None:
    rows: Rows = [
        {"image": "a.png", "text": "a one"},
        {"image": "b.png", "text": "b one"},
        {"image": "a.png", "text": "a two"},
    ]
    write_delimited(",", tmp_path / "pairs.csv", rows)
    there, back = load_task(tmp_path / "pairs.csv"), load_task("pairs/t2i", data=tmp_path / "pairs.csv")
    assert [i.image for i in there.queries] == [str(tmp_path / n) for n in ("a.png", "b.png")]
    assert [i.text for i in there.candidates] == ["a one", "b one", "a two"]
    assert there.relevance == {"1": {"1": 1.0, "3": 1.0}, "2": {"2": 1.0}}
    assert back.relevance == {"1": {"1": 1.0}, "2": {"2": 1.0}, "3": {"1": 1.0}}
    assert (back.queries, back.candidates) == (there.candidates, there.queries)
    assert {i.modality for i in there.queries} == {"image"}


def test_a_folder_of_images_with_captions_is_pairs(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"caption of {name}")
    assert load_task(str(tmp_path)).relevance == {"a": {"a": 1.0}, "b": {"b": 1.0}}
    picture(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"no text.*c"):
        load_task(tmp_path)
    skipped: list[Skipped] = []
    assert len(load_task(tmp_path, skipped=skipped).queries) == 2
    assert skipped == [("c", "The pair has no text.")]


def test_no_pairs_at_all() -> None:
    with pytest.raises(DataError, match="no pairs"):
        image_text_task("x", [], [], {}, "i2t")


def test_names_and_strangers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mine(options: TaskOptions) -> Task:
        item = Item(f"{options.seed}", "x")
        return Task("mine", (item,) * (options.n or 1), (item,), {})

    monkeypatch.setattr(TASK_SOURCES, "_values", dict(TASK_SOURCES._values))
    TASK_SOURCES.add("strange/mine", mine)
    assert "strange/mine" in task_sources()
    assert load_task("strange/mine", seed=3).queries[0].id == "3"
    with pytest.raises(UsageError, match=r"'coco/i2i' is neither.*Did you mean 'coco/"):
        load_task("coco/i2i")
    with pytest.raises(UsageError, match="needs data"):
        load_task("coco/i2t")
    with pytest.raises(DataError, match="does not exist"):
        load_task("coco/i2t", data=tmp_path / "absent")
    with pytest.raises(DataError, match="does not exist"):
        load_task(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "shapes"), [("i2t", "image text"), ("t2i", "text image"), ("composed", "image+text image")]
)
def test_the_shipped_world(name: str, shapes: str) -> None:
    task, again = (load_task(f"world/{name}", n=4, seed=7) for _ in range(2))
    assert (task.name, len(task.queries)) == (f"world/{name}", 4)
    assert f"{task.queries[0].modality} {task.candidates[0].modality}" == shapes
    assert [i.id for i in task.queries] == [i.id for i in again.queries]
    assert [i.id for i in task.queries] != [i.id for i in load_task(f"world/{name}", n=4, seed=8).queries]


def test_a_plug_in_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from clearsight import registry
    from clearsight.registry import Registry

    point = EntryPoint("theirs/t", "tests_plugin:source", "clearsight.task_source")
    module = type(sys)("tests_plugin")
    module.source = lambda options: Task("theirs", (Item("q", "x"),), (Item("c", "y"),), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_plugin", module)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    fresh: Registry[Any] = Registry("task_source")
    monkeypatch.setattr("clearsight.data.sources.TASK_SOURCES", fresh)
    assert load_task("theirs/t").name == "theirs"
