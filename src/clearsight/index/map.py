"""The map of a collection: a place on a plane for every item, before and after the repair.

Legend of shapes: N items, S items that are placed first, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.files import write_atomic
from clearsight.index.statistics import raw_rows
from clearsight.metrics.maps import embed_map
from clearsight.repair.affine import unit_rows

if TYPE_CHECKING:
    from clearsight.store.door import View

MOST_PLACED = 20_000
"""Items that the map is made of; the others are put between the nearest of them."""
NEAREST = 3
BLOCK = 1024
Plane = NDArray[np.float32]


def placed(view: View, folder: Path, *, most: int = MOST_PLACED) -> Mapping[str, Any]:
    """See `Index.map`; read from `folder` where it was made for this version.

    The same rows give the same map on the same machine.
    """
    file = folder / f"{view.version}.parquet"
    known = _read(file)
    if known is not None:
        return known
    ids, modality_N = _names(view)
    found: dict[str, Any] = {"ids": ids, "modality": modality_N}
    found |= {"version": view.version, "repair": view.repair}
    notes: dict[str, str] = {}
    for space, column in (("raw", "raw"), ("repaired", "vector")):
        found[space], notes[space] = _plane(view, column, ids, most)
    found |= {"method": notes["repaired"], "notes": notes}
    _write(file, found)
    return found


def _names(view: View) -> tuple[list[str], list[str]]:
    """Ids and modalities, in the order of the ids."""
    rows = [row for batch in view.read(["id", "modality"]) for row in batch.to_pylist()]
    rows.sort(key=lambda row: row["id"])
    return [row["id"] for row in rows], [row["modality"] for row in rows]


def _plane(view: View, column: str, ids: list[str], most: int) -> tuple[Plane, str]:
    if len(ids) < 2:
        return np.zeros((len(ids), 2), np.float32), "one item"
    place_of = {name: n for n, name in enumerate(ids)}
    chosen_S = np.arange(len(ids))
    if len(ids) > most:
        chosen_S = np.sort(np.random.default_rng(0).choice(len(ids), most, replace=False))
    seat_N = np.full(len(ids), -1)
    seat_N[chosen_S] = np.arange(len(chosen_S))
    rows_SD: NDArray[np.float32] | None = None
    for names, _, rows_BD in raw_rows(view, column):
        if rows_SD is None:
            rows_SD = np.zeros((len(chosen_S), rows_BD.shape[1]), np.float32)
        seat_B = seat_N[[place_of[name] for name in names]]
        rows_SD[seat_B[seat_B >= 0]] = unit_rows(rows_BD[seat_B >= 0])
    assert rows_SD is not None
    plane = embed_map(rows_SD)
    said = " ".join(filter(None, (plane.method + ".", plane.note)))
    if len(chosen_S) == len(ids):
        return _square(plane.points_N2), said
    xy_N2 = np.zeros((len(ids), 2), np.float32)
    xy_N2[chosen_S] = plane.points_N2
    for names, _, rows_BD in raw_rows(view, column):
        place_B = np.array([place_of[name] for name in names])
        other_B = seat_N[place_B] < 0
        xy_N2[place_B[other_B]] = _between(unit_rows(rows_BD[other_B]), rows_SD, plane.points_N2)
    return _square(xy_N2), f"{said} Made of {len(chosen_S):,} items; the others lie between their nearest."


def _between(unit_BD: NDArray[np.float32], rows_SD: NDArray[np.float32], plane_S2: Plane) -> Plane:
    """The mean place of each row's nearest, weighted by how near they are."""
    out = np.empty((len(unit_BD), 2), np.float32)
    for start in range(0, len(unit_BD), BLOCK):
        score_BS = unit_BD[start : start + BLOCK] @ rows_SD.T
        near_BK = np.argpartition(score_BS, -NEAREST, axis=1)[:, -NEAREST:]
        score_BK = np.take_along_axis(score_BS, near_BK, axis=1)
        weight_BK = 1 / np.maximum(1 - score_BK, 1e-6)
        weight_BK /= weight_BK.sum(axis=1, keepdims=True)
        out[start : start + BLOCK] = np.einsum("bk,bkx->bx", weight_BK, plane_S2[near_BK])
    return out


def _square(xy_N2: Plane) -> Plane:
    """Places within -1..1, both axes by one scale."""
    low_2, high_2 = xy_N2.min(axis=0), xy_N2.max(axis=0)
    half = float((high_2 - low_2).max()) / 2
    centred_N2 = xy_N2 - (low_2 + high_2) / 2
    scaled: Plane = (centred_N2 / half if half > 0 else centred_N2).astype(np.float32)
    return scaled.clip(-1, 1)


def _write(file: Path, found: Mapping[str, Any]) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": found["ids"], "modality": found["modality"]}
    for space in ("raw", "repaired"):
        columns |= {f"{space}_x": found[space][:, 0], f"{space}_y": found[space][:, 1]}
    facts = json.dumps({name: found[name] for name in ("version", "repair", "method", "notes")})
    out = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({"clearsight.map": facts}), out)
    try:
        for old in file.parent.glob("*.parquet"):
            old.unlink(missing_ok=True)
        write_atomic(file, out.getvalue())
    except OSError:  # a map that cannot be kept is made again
        return


def _read(file: Path) -> dict[str, Any] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, partitioning=None)
        facts = json.loads((table.schema.metadata or {})[b"clearsight.map"])
    except (OSError, ValueError, KeyError, pa.ArrowInvalid):
        return None
    found = {"ids": table.column("id").to_pylist(), "modality": table.column("modality").to_pylist(), **facts}
    for space in ("raw", "repaired"):
        axes = [table.column(f"{space}_{axis}").to_numpy() for axis in "xy"]
        found[space] = np.column_stack(axes).astype(np.float32)
    return found
