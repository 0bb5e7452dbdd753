"""The file between mining and training: written, read back, and refused where it is not one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearsight.errors import DataError
from clearsight.mining import Clusters, LeftOver, Member, read_clusters, write_clusters
from clearsight.mining.clusters import KEY, SCHEMA

ROWS = [
    ("a", 0, 0, "q0", "c0", 1.0, 1, None),
    ("a", 0, 1, "q2", "c2", 0.25, 1, None),
    ("a", 0, 2, "q1", "c1", 0.5, 1, None),
    ("a", 1, 0, "q3", "c3", 1.0, 2, None),
    ("b", 2, 0, "q0", "c0", 1.0, 1, None),
    ("b", 2, 1, None, "c9", 0.75, 1, None),
    ("a", None, 0, "q4", None, None, 0, "no positive"),
]


def table(rows=ROWS) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in SCHEMA]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def test_clusters_are_read_as_written(tmp_path):
    path = tmp_path / "folder" / "clusters.parquet"
    write_clusters(path, Clusters(table()), {"model": "tiny", "negatives": 2})
    clusters = read_clusters(path)
    assert clusters.manifest == {"model": "tiny", "negatives": 2}
    assert len(clusters) == 3
    assert clusters[0] == (Member("q0", "c0", 1.0), Member("q2", "c2", 0.25), Member("q1", "c1", 0.5))
    assert clusters[2] == (Member("q0", "c0", 1.0), Member(None, "c9", 0.75))
    assert list(clusters) == [clusters[0], clusters[1], clusters[2]]
    assert clusters.sizes_G.tolist() == [3, 1, 2]
    assert clusters.phase_G.tolist() == [1, 2, 1]
    assert clusters.dataset_G == ("a", "a", "b")
    assert clusters.left_over == (LeftOver("a", "q4", "no positive"),)
    with pytest.raises(IndexError):
        clusters[3]


def test_no_cluster_at_all_is_a_table_too(tmp_path):
    write_clusters(tmp_path / "c.parquet", Clusters(table(ROWS[-1:])), {})
    clusters = read_clusters(tmp_path / "c.parquet")
    assert len(clusters) == 0
    assert list(clusters) == []
    assert len(clusters.left_over) == 1
    assert len(Clusters(table([]))) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [rows[1], rows[0], *rows[2:]], "no anchor"),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "count from 0"),
        (lambda rows: [*rows[:3], ("a", 5, *rows[3][2:]), *rows[4:]], "numbered from 0"),
        (lambda rows: [rows[-1], *rows[:-1]], "at the end"),
        (lambda rows: [(*rows[0][:4], None, *rows[0][5:]), *rows[1:]], "no positive"),
        (lambda rows: [(*rows[0][:3], None, *rows[0][4:]), *rows[1:]], "anchor has no query"),
        (lambda rows: [*rows[:2], (*rows[2][:5], 0.1, *rows[2][6:]), *rows[3:]], "ascend"),
        (lambda rows: [*rows[:-1], (*rows[-1][:-1], None)], "reason"),
    ],
)
def test_broken_clusters_are_refused(change, said):
    with pytest.raises(DataError, match=said):
        Clusters(table(change(ROWS)))


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="'phase' \\(int8\\)"):
        Clusters(table().drop_columns(["phase"]))


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_clusters(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("anchor, negative")
    with pytest.raises(DataError, match="no parquet file"):
        read_clusters(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "items.parquet")
    with pytest.raises(DataError, match="holds no clusters; its columns are id"):
        read_clusters(tmp_path / "items.parquet")
    newer = table().replace_schema_metadata({KEY: b'{"version": 2, "manifest": {}}'})
    pq.write_table(newer, tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="version 2"):
        read_clusters(tmp_path / "newer.parquet")
    broken = table([*ROWS[:2], ROWS[3]]).drop_columns(["phase"])
    pq.write_table(
        broken.replace_schema_metadata({KEY: b'{"version": 1, "manifest": {}}'}), tmp_path / "b.parquet"
    )
    with pytest.raises(DataError, match="phase") as raised:
        read_clusters(tmp_path / "b.parquet")
    assert raised.value.where == str(tmp_path / "b.parquet")
