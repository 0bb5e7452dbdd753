"""The ways of searching that `bench_search.py` puts side by side: how each is built, opened and asked.

A folder holds SPACE.npy (rows of length 1) for both spaces, and a folder or file for each of the ways.

Legend of shapes: N rows, Q queries, D width of a space, K hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 16_384
Ask = Callable[[np.ndarray, int], np.ndarray]
"""Queries (Q, D) and K to row numbers (Q, K)."""


@dataclass(frozen=True)
class Way:
    """One contender.

    Attributes:
        imports: modules whose loading is no part of the memory it is charged with.
        build: (folder, space) -> seconds by part.
        opened: (folder, space, effort) -> `Ask`.
        files: what it keeps on disk, in the folder of the benchmark.
        efforts: of `opened`, least first: the first that reaches the wanted recall is taken. Empty: its own.
        of: another way, whose build it searches.
    """

    imports: Sequence[str]
    build: Callable[[Path, str], Mapping[str, float]] | None
    opened: Callable[[Path, str, int | None], Ask]
    files: str
    efforts: Sequence[int] = field(default=())
    of: str | None = None


def rows_of(folder: Path, space: str) -> np.ndarray:
    """All rows of a space, where they lie."""
    return np.load(folder / f"{space}.npy", mmap_mode="r")


def blocks(folder: Path, space: str) -> Iterator[tuple[int, np.ndarray]]:
    """Rows read, not mapped: pages of a map would count as memory of who builds."""
    rows = rows_of(folder, space)
    count, width = rows.shape
    with (folder / f"{space}.npy").open("rb") as file:
        file.seek(count * -4 * width, 2)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            yield start, np.fromfile(file, np.float32, size * width).reshape(size, width)


# ---- Clearsight -----------------------------------------------------------------------------------------


def ours_build(folder: Path, _: str) -> dict[str, float]:
    """One store, with both spaces."""
    import time

    import pyarrow as pa

    from clearsight.store import open_store

    width = rows_of(folder, "raw").shape[1]
    began = time.perf_counter()
    store = open_store(str(folder / "ours" / "items.lance"), width, create=True)
    for (start, part_D), (_, part_E) in zip(blocks(folder, "raw"), blocks(folder, "repaired"), strict=True):
        numbers = range(start, start + len(part_D))
        rows = {
            "id": pa.array([f"i{n:08d}" for n in numbers]),
            "key": pa.array([f"{n:032x}" for n in numbers]),
            "modality": pa.array(["image"] * len(part_D)),
            "source": pa.array([f"folder{n % 997:03d}/picture_{n:08d}.jpg" for n in numbers]),
            "text": pa.array(
                [f"A caption of about a dozen words that describes picture {n}" for n in numbers]
            ),
            "raw": _fixed(part_D),
            "vector": _fixed(part_E),
        }
        store.add(pa.table(rows))
    added = time.perf_counter() - began
    index = store.build(force=True)["index"]
    return {"rows": added, **{one: index[_column(one)]["build_seconds"] for one in ("raw", "repaired")}}


def _column(space: str) -> str:
    return "raw" if space == "raw" else "vector"


def _fixed(rows_ND: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.ravel()), rows_ND.shape[1])


def ours_opened(*, exact: bool, columns: Sequence[str] = ("id",)) -> Callable[..., Ask]:
    def opened(folder: Path, space: str, _: int | None) -> Ask:
        from clearsight.store import open_store

        store = open_store(str(folder / "ours" / "items.lance"))

        def ask(query_QD: np.ndarray, top: int) -> np.ndarray:
            found = store.view().search(query_QD, top, space=space, exact=exact, columns=columns)
            return np.array([[int(one[1:]) for one in best.rows["id"].to_pylist()] for best in found])

        return ask

    return opened


# ---- LanceDB --------------------------------------------------------------------------------------------


def lancedb_build(name: str, config: Callable[[int], Any]) -> Callable[[Path, str], dict[str, float]]:
    def build(folder: Path, space: str) -> dict[str, float]:
        import time

        import lancedb
        import pyarrow as pa

        width = rows_of(folder, space).shape[1]

        def batches() -> Iterator[Any]:
            for start, part in blocks(folder, space):
                ids = pa.array([f"i{n:08d}" for n in range(start, start + len(part))])
                yield pa.record_batch({"id": ids, "vector": _fixed(part)})

        began = time.perf_counter()
        schema = pa.schema({"id": pa.string(), "vector": pa.list_(pa.float32(), width)})
        table = lancedb.connect(folder / f"{name}_{space}").create_table("items", batches(), schema=schema)
        added = time.perf_counter() - began
        table.create_index("vector", config=config(width))
        return {"rows": added, "index": time.perf_counter() - began - added}

    return build


def best_index(width: int) -> Any:
    """IVF_RQ takes widths that 8 divides; the next best takes all."""
    from lancedb.index import IvfRq, IvfSq

    return IvfSq(distance_type="cosine") if width % 8 else IvfRq(distance_type="cosine")


def default_index(_: int) -> Any:
    """What `create_index` makes where no kind is named, for cosines."""
    from lancedb.index import IvfPq

    return IvfPq(distance_type="cosine")


def lancedb_opened(name: str, *, refine: int | None = None, flat: bool = False) -> Callable[..., Ask]:
    def opened(folder: Path, space: str, effort: int | None) -> Ask:
        import lancedb

        table = lancedb.connect(folder / f"{name}_{space}").open_table("items")

        def one(query_D: np.ndarray, top: int) -> list[int]:
            search = table.search(query_D).distance_type("cosine").select(["id", "_distance"]).limit(top)
            if refine is not None:
                search = search.refine_factor(refine)
            if effort is not None:
                search = search.nprobes(effort)
            if flat:
                search = search.bypass_vector_index()
            return [int(name[1:]) for name in search.to_arrow()["id"].to_pylist()]

        return lambda query_QD, top: np.array([one(query_D, top) for query_D in query_QD])

    return opened


# ---- faiss ----------------------------------------------------------------------------------------------


def faiss_build(name: str) -> Callable[[Path, str], dict[str, float]]:
    def build(folder: Path, space: str) -> dict[str, float]:
        import time

        import faiss

        rows = rows_of(folder, space)
        count, width = rows.shape
        index = _faiss_index(name, count, width)
        began = time.perf_counter()
        if not index.is_trained:
            chosen = np.random.default_rng(3).choice(count, min(count, 64 * index.nlist), replace=False)
            index.train(np.array(rows[np.sort(chosen)]))
        for _, part in blocks(folder, space):
            index.add(part)
        seconds = time.perf_counter() - began
        faiss.write_index(index, str(folder / f"{name}_{space}.faiss"))
        return {"index": seconds, "written": time.perf_counter() - began - seconds}

    return build


def _faiss_index(name: str, count: int, width: int) -> Any:
    import faiss

    flat = faiss.IndexFlatIP(width)
    if name == "faiss_ivf":
        index = faiss.IndexIVFFlat(flat, width, int(4 * count**0.5), faiss.METRIC_INNER_PRODUCT)
        flat.this.disown()
        index.own_fields = True
        return index
    if name == "faiss_hnsw":
        return faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
    return flat


def faiss_opened(name: str) -> Callable[..., Ask]:
    def opened(folder: Path, space: str, effort: int | None) -> Ask:
        import faiss

        index = faiss.read_index(str(folder / f"{name}_{space}.faiss"))
        if name == "faiss_ivf":
            index.nprobe = effort
        elif name == "faiss_hnsw":
            index.hnsw.efSearch = effort
        return lambda query_QD, top: index.search(query_QD, top)[1]

    return opened


# ---- the floor ------------------------------------------------------------------------------------------


def floor_opened(folder: Path, space: str, _: int | None) -> Ask:
    """Every row read once and multiplied; the choice of the best is left out of what is timed least."""
    rows = np.array(rows_of(folder, space))

    def ask(query_QD: np.ndarray, top: int) -> np.ndarray:
        scores = query_QD @ rows.T if len(query_QD) > 1 else (rows @ query_QD[0])[None]
        return np.argpartition(-scores, top, axis=1)[:, :top]

    return ask


PROBES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
SEARCHED = ("numpy", "pyarrow", "lance", "clearsight.store.lance", "clearsight.store.lance_search")
WAYS: dict[str, Way] = {
    "ours": Way(SEARCHED, ours_build, ours_opened(exact=False), "ours"),
    "ours_hits": Way(
        SEARCHED,
        None,
        ours_opened(exact=False, columns=("id", "modality", "text", "source")),
        "ours",
        of="ours",
    ),
    "ours_exact": Way(SEARCHED, None, ours_opened(exact=True), "ours", of="ours"),
    "lancedb_tuned": Way(
        ("numpy", "lancedb"),
        lancedb_build("lancedb_tuned", best_index),
        lancedb_opened("lancedb_tuned", refine=10),
        "lancedb_tuned",
        PROBES,
    ),
    "lancedb_default": Way(
        ("numpy", "lancedb"),
        lancedb_build("lancedb_default", default_index),
        lancedb_opened("lancedb_default"),
        "lancedb_default",
    ),
    "lancedb_flat": Way(
        ("numpy", "lancedb"),
        None,
        lancedb_opened("lancedb_tuned", flat=True),
        "lancedb_tuned",
        of="lancedb_tuned",
    ),
    "faiss_ivf": Way(
        ("numpy", "faiss"), faiss_build("faiss_ivf"), faiss_opened("faiss_ivf"), "faiss_ivf", PROBES
    ),
    "faiss_hnsw": Way(
        ("numpy", "faiss"), faiss_build("faiss_hnsw"), faiss_opened("faiss_hnsw"), "faiss_hnsw", PROBES[2:]
    ),
    "faiss_flat": Way(
        ("numpy", "faiss"), faiss_build("faiss_flat"), faiss_opened("faiss_flat"), "faiss_flat"
    ),
    "floor": Way(("numpy",), None, floor_opened, ""),
}
