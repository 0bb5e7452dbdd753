"""Vectors come back bit by bit; a file that cannot be trusted says why."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from clearsight.data import load_vector_task, load_vectors, save_vectors, vector_files
from clearsight.data.vector_files import FORMATS, ORIGIN_KEY
from clearsight.errors import DataError, UsageError
from clearsight.store import VectorTable
from clearsight.types import Embeddings

every_kind = pytest.mark.parametrize("kind", FORMATS)
ORIGIN = {"model": "org/name", "layer": -1, "repairs": [{"name": "centre", "groups": None}], "ü": 0.1}
IDS = ["plain", "ümlaut 😀", "with\nnewline", "nul\0", '"quoted", comma', "0"]


def sample(ids: list[str] = IDS, width: int = 5) -> Embeddings:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((len(ids), width)).astype(np.float32) * 1e-20
    side = np.array(["query", "candidate"] * len(ids))[: len(ids)]
    modality = np.array(["text", "image", "image+text"] * len(ids))[: len(ids)]
    return Embeddings(tuple(ids), rows, side, modality, ORIGIN)


def same(a: Embeddings, b: Embeddings) -> bool:
    return (
        a.ids == b.ids
        and a.rows_ND.tobytes() == b.rows_ND.tobytes()
        and a.rows_ND.dtype == b.rows_ND.dtype
        and a.side_N.tolist() == b.side_N.tolist()
        and a.modality_N.tolist() == b.modality_N.tolist()
        and dict(a.origin) == dict(b.origin)
    )


@every_kind
def test_exact_round_trip(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / f"vectors{kind}"
    save_vectors(path, sample())
    assert same(load_vectors(path), sample())
    save_vectors(str(path), sample(IDS[:2], 3))
    assert same(load_vectors(str(path)), sample(IDS[:2], 3)), "written over"


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([k for k in FORMATS if k != ".lance"]),
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=6, unique=True
    ),
    st.integers(1, 4),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_round_trip_of_any_ids_and_values(kind: str, ids: list[str], width: int, value: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        embeddings = Embeddings.of(ids, np.full((len(ids), width), value, np.float32))
        save_vectors(Path(folder) / f"v{kind}", embeddings)
        assert same(load_vectors(Path(folder) / f"v{kind}"), embeddings)


@every_kind
def test_a_failed_write_leaves_the_old_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"vectors{kind}"
    save_vectors(path, sample())
    names = sorted(p.name for p in tmp_path.iterdir())

    def full(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr("lance.write_dataset", full)
    with pytest.raises(DataError, match="no space left"):
        save_vectors(path, sample(IDS[:2]))
    assert same(load_vectors(path), sample())
    assert sorted(p.name for p in tmp_path.iterdir()) == names, "no temporary file is left"


def test_npy_and_its_labels_must_belong_together(tmp_path: Path) -> None:
    save_vectors(tmp_path / "v.npy", sample())
    other = np.load(tmp_path / "v.npy")
    other[0, 0] = 1
    np.save(tmp_path / "v.npy", other)
    with pytest.raises(DataError, match="not written together"):
        load_vectors(tmp_path / "v.npy")


def test_an_origin_that_is_not_json(tmp_path: Path) -> None:
    bad = Embeddings.of(["a"], np.ones((1, 2)), origin={"x": object()})
    with pytest.raises(UsageError, match="not JSON"):
        save_vectors(tmp_path / "v.npz", bad)


ROWS = np.arange(6).reshape(3, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", ">f4"])
def test_every_number_becomes_float32(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS.astype(dtype))
    loaded = load_vectors(tmp_path / "v.npy")
    assert np.array_equal(loaded.rows_ND, ROWS.astype(np.float32))
    assert loaded.rows_ND.dtype == np.float32
    assert loaded.ids == ("0", "1", "2"), "row numbers, where there are no ids"
    assert (set(loaded.side_N), set(loaded.modality_N)) == ({"candidate"}, {"text"})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    ids = torch.frombuffer(bytearray(b'["a", "b", "c"]'), dtype=torch.uint8)
    save_torch({"rows": torch.tensor(ROWS, dtype=dtype), "ids": ids}, tmp_path / "v.safetensors")
    loaded = load_vectors(tmp_path / "v.safetensors")
    assert (loaded.ids, loaded.rows_ND.tolist()) == (("a", "b", "c"), ROWS.tolist())


def test_safetensors_with_ids_in_the_metadata_and_another_name(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    save_file({"embeddings": ROWS.astype(np.float32)}, path, metadata={"ids": '["a", "b", "c"]'})
    assert load_vectors(path).ids == ("a", "b", "c")
    save_file({"x": np.ones((2, 2)), "y": np.ones((2, 2))}, path)
    with pytest.raises(DataError, match=r"no array 'rows'.*x, y"):
        load_vectors(path)
    assert len(load_vectors(path, columns={"vector": "y"})) == 2


@pytest.mark.parametrize("kind", ["list", "large list", "fixed size", "half"])
def test_parquet_lists_of_every_type(kind: str, tmp_path: Path) -> None:
    vector = {
        "list": pa.array(ROWS.tolist(), pa.list_(pa.float32())),
        "large list": pa.array(ROWS.tolist(), pa.large_list(pa.float64())),
        "fixed size": pa.array(ROWS.tolist(), pa.list_(pa.float32(), 2)),
        "half": pa.array([[np.float16(x) for x in row] for row in ROWS], pa.list_(pa.float16())),
    }[kind]
    table = pa.table({"name": ["a", "b", "c"], "emb": vector, "modality": ["image", "text", "image"]})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=2)
    loaded = load_vectors(tmp_path / "v.parquet", columns={"id": "name", "vector": "emb"}, side="query")
    assert (loaded.ids, loaded.rows_ND.tolist()) == (("a", "b", "c"), ROWS.tolist())
    assert loaded.modality_N.tolist() == ["image", "text", "image"]
    assert loaded.side_N.tolist() == ["query"] * 3


def test_the_stores_own_table_is_a_file_of_vectors(tmp_path: Path) -> None:
    store = VectorTable.open(tmp_path, {"model": "m"})
    store.add(["k1", "k2"], ["a", "b"], ROWS[:2])
    loaded = load_vectors(store.path)
    assert (loaded.ids, loaded.rows_ND.tolist(), loaded.origin) == (
        ("a", "b"),
        ROWS[:2].tolist(),
        {"model": "m"},
    )
    from clearsight.store.vectors import ORIGIN_KEY as STORED

    assert STORED == ORIGIN_KEY


@pytest.mark.parametrize(
    "name", ["ids.txt", "ids.json", "ids.parquet", "v.ids.txt", "v.ids.json", "v.ids.parquet"]
)
def test_ids_in_a_file(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS)
    path = tmp_path / name
    if name.endswith(".txt"):
        path.write_text("a\nb b\nü\n", encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(["a", "b b", "ü"]), encoding="utf-8")
    else:
        pq.write_table(pa.table({"id": ["a", "b b", "ü"]}), path)
    given = None if name.startswith("v.") else path
    assert load_vectors(tmp_path / "v.npy", ids=given).ids == ("a", "b b", "ü")
    assert load_vectors(tmp_path / "v.npy", ids=["x", "y", "z"]).ids == ("x", "y", "z")


def test_labels_from_a_table_of_groups(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS)
    groups = tmp_path / "groups.csv"
    groups.write_text("id,side,modality\n0,query,image\n2,,image+text\n")
    loaded = load_vectors(tmp_path / "v.npy", groups=groups, modality="text")
    assert loaded.side_N.tolist() == ["query", "candidate", "candidate"]
    assert loaded.modality_N.tolist() == ["image", "text", "image+text"]
    for content, reason in (("id,side\n9,query\n", "labels '9'"), ("id,x\n0,query\n", "labels '0'")):
        groups.write_text(content)
        with pytest.raises(DataError, match=reason):
            load_vectors(tmp_path / "v.npy", groups=groups)
    groups.write_text("id,side\n0,left\n")
    with pytest.raises(DataError, match="no side 'left'"):
        load_vectors(tmp_path / "v.npy", groups=groups)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("kind", [".npy", ".npz", ".parquet", ".safetensors"])
def test_rows_that_are_not_finite_are_named(value: float, kind: str, tmp_path: Path) -> None:
    rows = ROWS.astype(np.float64)
    rows[1, 0] = value
    path = tmp_path / f"v{kind}"
    match kind:
        case ".npy":
            np.save(path, rows)
        case ".npz":
            np.savez(path, rows=rows)
        case ".parquet":
            pq.write_table(pa.table({"id": ["0", "1", "2"], "vector": rows.tolist()}), path)
        case _:
            save_file({"rows": rows}, path)
    with pytest.raises(DataError, match="1 of 3 rows hold NaN or infinity") as caught:
        load_vectors(path)
    assert caught.value.where == "1"


def parquet_bytes(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def npy_bytes(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


class Bomb:
    """Unpickled, it would leave a mark."""

    mark = False

    def __reduce__(self) -> Any:
        return (setattr, (Bomb, "mark", True))


def npz_bytes(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


OBJECTS = np.array([Bomb()], dtype=object)
REFUSED = {
    "one dimension": (".npy", npy_bytes(np.ones(3)), r"shape \(3,\)"),
    "three dimensions": (".npy", npy_bytes(np.ones((3, 2, 1))), "matrix of numbers"),
    "no rows": (".npy", npy_bytes(np.ones((0, 2))), r"shape \(0, 2\)"),
    "no width": (".npy", npy_bytes(np.ones((2, 0))), r"shape \(2, 0\)"),
    "strings": (".npy", npy_bytes(np.array([["a"]])), "type <U1"),
    "complex": (".npy", npy_bytes(np.ones((1, 1), complex)), "complex"),
    "pickled npy": (".npy", npy_bytes(OBJECTS, allow_pickle=True), "pickle"),
    "a pickle": (".npy", pickle.dumps(Bomb()), "pickle"),
    "pickled npz": (".npz", npz_bytes(rows=np.ones((1, 1)), ids=OBJECTS), "pickle"),
    "truncated npy": (".npy", npy_bytes(np.ones((9, 9)))[:-5], "cannot be read"),
    "truncated npz": (".npz", npz_bytes(rows=np.ones((9, 9)))[:-30], "cannot be read"),
    "npy called npz": (".npz", npy_bytes(np.ones((1, 1))), "cannot be read"),
    "npz called npy": (".npy", npz_bytes(rows=np.ones((1, 1))), "cannot be read"),
    "no npz": (".npz", b"zip?", "cannot be read"),
    "two matrices": (".npz", npz_bytes(a=np.ones((1, 1)), b=np.ones((1, 1))), "no array 'rows'"),
    "broken parquet": (".parquet", b"PAR1", "cannot be read"),
    "broken safetensors": (".safetensors", b"\xff" * 64, "cannot be read"),
    "no vectors": (
        ".parquet",
        parquet_bytes(id=["a"], embedding=[[1.0]]),
        "no column 'vector'.*id, embedding",
    ),
    "texts for vectors": (".parquet", parquet_bytes(id=["a"], vector=["x"]), "of type string"),
    "lists of texts": (".parquet", parquet_bytes(id=["a"], vector=[["x"]]), "lists of numbers"),
    "ragged": (".parquet", parquet_bytes(id=["a", "b"], vector=[[1.0, 2.0], [1.0]]), r"width 2.*rows 2\b"),
    "null vector": (".parquet", parquet_bytes(id=["a", "b"], vector=[None, [1.0]]), r"null.*rows 1\b"),
    "null number": (
        ".parquet",
        parquet_bytes(id=["a", "b"], vector=[[1.0, 2.0], [None, 1.0]]),
        r"NaN.*\[b\]",
    ),
    "null id": (".parquet", parquet_bytes(id=["a", None], vector=[[1.0], [2.0]]), "id of row 1 is None"),
    "twice one id": (".parquet", parquet_bytes(id=["a", "a"], vector=[[1.0], [2.0]]), "'a' appears twice"),
    "unknown side": (".parquet", parquet_bytes(id=["a"], vector=[[1.0]], side=["left"]), "no side 'left'"),
    "unknown kind": (".pt", b"x", r"'\.pt'.*\.parquet"),
    "pickle by name": (".pkl", pickle.dumps(Bomb()), r"'\.pkl'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(name: str, tmp_path: Path) -> None:
    kind, content, reason = REFUSED[name]
    path = tmp_path / f"v{kind}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        load_vectors(path)
    assert caught.value.do
    assert not Bomb.mark, "something was unpickled"


def test_refused_arguments(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS)
    with pytest.raises(DataError, match="2 ids for 3 rows"):
        load_vectors(tmp_path / "v.npy", ids=["a", "b"])
    with pytest.raises(DataError, match="does not exist"):
        load_vectors(tmp_path / "absent.npy")
    (tmp_path / "ids.csv").write_text("a\n")
    with pytest.raises(DataError, match=r"Ids are not read from '\.csv'"):
        load_vectors(tmp_path / "v.npy", ids=tmp_path / "ids.csv")
    with pytest.raises(DataError, match="No such file"):
        load_vectors(tmp_path / "v.npy", ids=tmp_path / "absent.txt")
    (tmp_path / "ids.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="not a JSON list"):
        load_vectors(tmp_path / "v.npy", ids=tmp_path / "ids.json")
    (tmp_path / "v.lance").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_vectors(tmp_path / "v.lance")


def test_a_file_written_before_is_still_read(tmp_path: Path) -> None:
    """The names of format fields are a promise; here they are spelt out once more by hand."""
    names = np.frombuffer(b'["a", "b", "c"]', np.uint8)
    sides = np.array(["query", "query", "candidate"])
    np.savez(
        tmp_path / "v.npz", rows=ROWS, ids=names, side=sides, origin=np.frombuffer(b'{"m": 1}', np.uint8)
    )
    loaded = load_vectors(tmp_path / "v.npz")
    assert (loaded.ids, loaded.side_N.tolist(), loaded.origin) == (("a", "b", "c"), sides.tolist(), {"m": 1})
    table = pa.table({"id": ["a"], "vector": [[1.0]], "side": ["query"]}).replace_schema_metadata(
        {"clearsight.origin": '{"m": 1}'}
    )
    pq.write_table(table, tmp_path / "v.parquet")
    assert load_vectors(tmp_path / "v.parquet").origin == {"m": 1}
    assert vector_files.LABELS == ("ids", "side", "modality")


@pytest.mark.parametrize("kind", [".npy", ".parquet", ".lance"])
def test_a_task_of_vectors(kind: str, tmp_path: Path) -> None:
    save_vectors(tmp_path / f"queries{kind}", Embeddings.of(["q1", "q2"], np.eye(2)))
    save_vectors(
        tmp_path / f"candidates{kind}", Embeddings.of(["c1", "c2", "c3"], np.ones((3, 2)), modality="image")
    )
    (tmp_path / "relevance.qrels").write_text("q1 0 c1 1\nq2 0 c3 1\n")
    task, queries, candidates, pairs = load_vector_task(tmp_path)
    assert task.relevance == {"q1": {"c1": 1.0}, "q2": {"c3": 1.0}}
    assert ([i.id for i in task.queries], set(queries.side_N), queries.rows_ND.tolist()) == (
        ["q1", "q2"],
        {"query"},
        np.eye(2).tolist(),
    )
    assert (candidates.ids, set(candidates.modality_N), set(candidates.side_N)) == (
        ("c1", "c2", "c3"),
        {"image"},
        {"candidate"},
    )
    assert pairs is None
    save_vectors(tmp_path / f"pair_images{kind}", Embeddings.of(["a", "b"], np.eye(2)))
    with pytest.raises(DataError, match="no file of pair_captions"):
        load_vector_task(tmp_path)
    save_vectors(tmp_path / f"pair_captions{kind}", Embeddings.of(["a", "b"], -np.eye(2)))
    images, captions = load_vector_task(tmp_path)[3] or (None, None)
    assert images is not None
    assert captions is not None
    assert (set(images.modality_N), set(captions.modality_N)) == ({"image"}, {"text"})
    save_vectors(tmp_path / f"pair_captions{kind}", Embeddings.of(["a"], np.ones((1, 2))))
    with pytest.raises(DataError, match="2 pair_images and 1 pair_captions"):
        load_vector_task(tmp_path)
    (tmp_path / "relevance.qrels").write_text("q1 0 c9 1\n")
    with pytest.raises(DataError, match="unknown candidate 'c9'"):
        load_vector_task(tmp_path)
