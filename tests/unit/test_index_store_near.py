"""Rows that come with the approximate index's own scan are those that a second look would read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from clearsight.store import open_store
from clearsight.store.columns import vector_column

N, TOP = 600, 10
COLUMNS = ("text", "id", "modality", "meta_year", "vector")


@pytest.fixture(scope="module", params=[16, 12], ids=["bits", "bytes"])
def view(request, tmp_path_factory):
    """Widths that 8 divides have an index of bits, others one of bytes."""
    random = np.random.default_rng(5)
    rows_ND = random.standard_normal((N, request.param), dtype=np.float32)
    rows_ND[40:80] = rows_ND[40]  # ties
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    ids = [f"i{n:03d}" for n in random.permutation(N)]
    columns = {
        "id": ids,
        "key": ids,
        "modality": ["text"] * N,
        "text": [f"text of {name}" for name in ids],
        "meta_year": pa.array(range(N), pa.int64()),
        "raw": vector_column(rows_ND),
        "vector": vector_column(unit_ND),
    }
    store = open_store(str(tmp_path_factory.mktemp("near") / "items.lance"), request.param, create=True)
    store.add(pa.table(columns))
    facts = store.build(force=True)["index"]["vector"]
    assert facts["kind"] == ("IVF_SQ" if request.param % 8 else "IVF_RQ")
    assert facts["recall@10"] >= 0.9
    return store.view()


@pytest.mark.parametrize("where", [None, "year < 500"])
def test_columns_are_those_of_the_rows(view, where):
    from clearsight.store.where import parse_where

    queries = np.random.default_rng(6).standard_normal((5, view.layout.width), dtype=np.float32)
    condition = None if where is None else parse_where(where, view.fields)
    bare = view.search(queries, TOP, where=condition)
    full = view.search(queries, TOP, where=condition, columns=COLUMNS)
    for left, right in zip(bare, full, strict=True):
        assert left.rows["id"].to_pylist() == right.rows["id"].to_pylist()
        assert (left.score_K == right.score_K).all()
        assert right.rows.column_names == list(COLUMNS)
        read = pa.Table.from_batches(view.read(COLUMNS, ids=right.rows["id"].to_pylist()))
        assert right.rows.sort_by("id").to_pylist() == read.sort_by("id").to_pylist()
