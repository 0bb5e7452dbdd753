"""What binds M-BEIR's queries to its pool: relevance, instructions, references; and the task of it all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clearsight.data.benchmarks.mbeir_sets import DATASET_IDS, MbeirSet
from clearsight.data.benchmarks.mbeir_tables import HOLDS
from clearsight.data.tables import Faults, check_file
from clearsight.errors import DataError
from clearsight.types import Item, Modality, Relevance, Task


def make_task(
    one: MbeirSet,
    queries: Sequence[Item],
    candidates: Sequence[Item],
    query_ids: Iterable[str],
    relevance: Relevance,
    excluded: Mapping[str, Sequence[str]],
) -> Task:
    """The task of a set; of relevance and exclusions, what concerns `query_ids` (those of `queries`)."""
    kept = set(query_ids)
    return Task(
        f"mbeir/{one.name}",
        queries,
        candidates,
        {query: grades for query, grades in relevance.items() if query in kept},
        excluded={query: ids for query, ids in excluded.items() if query in kept},
        measures=one.measures,
    )


def draw_instructions(path: Path, one: MbeirSet, count: int, seed: int) -> pa.Array:
    """One of the set's instructions for each of `count` queries, in their order.

    The draw depends on seed, set and split alone: a query keeps its instruction in either pool.

    Raises:
        DataError: as `read_instructions`; the file has none for the set.
    """
    key = (str(DATASET_IDS[one.dataset]), one.kind.query, one.kind.candidate)
    choices = read_instructions(path).get(key)
    if not choices:
        raise DataError(
            f"There is no instruction for {one.base}: data set {key[0]}, {one.kind.words}.",
            where=str(path),
            do="Fetch the file again.",
        )
    generator = np.random.default_rng([seed, *f"mbeir instructions {one.base} {one.split}".encode()])
    drawn = generator.integers(len(choices), size=count)
    return pa.array([choices[i] for i in drawn], pa.string())


def pairs_of_references(
    queries: Iterable[tuple[str, object]], candidates: Iterable[tuple[str, object]], where: str
) -> dict[str, list[str]]:
    """query id -> the candidates that hold the query's own image.

    Args:
        queries, candidates: (id, what tells the image: its path, or a digest of its bytes).

    Raises:
        DataError: no query's image is among the candidates.
    """
    asked = list(queries)
    holders: dict[object, list[str]] = {image: [] for _, image in asked}
    for candidate, image in candidates:
        if image in holders:
            holders[image].append(candidate)
    found = {query: holders[image] for query, image in asked if holders[image]}
    if not found:
        raise DataError(
            "No query's own image is in the pool, so there is none to leave out.",
            where=where,
            do="Use the set without '-reference'.",
        )
    return found


def read_qrels(
    path: Path, *, candidate_ids: pa.ChunkedArray, query_ids: set[str], faults: Faults
) -> dict[str, dict[str, float]]:
    """query id -> candidate id -> grade, from lines of `query 0 candidate grade task`.

    A positive of another data set's number (OVEN's in InfoSeek, and the other way) belongs to another local
    pool: where it is not among the candidates it is not judged. Grades of 0 are kept as they are.

    Raises:
        DataError: a line without 4 or 5 columns or without a whole grade, an unknown query, or a candidate of
            the query's own data set that is in no pool.
    """
    check_file(path)
    found: list[tuple[int, str, str, float]] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            cells = line.split()
            try:
                if len(cells) in (4, 5):
                    found.append((number, cells[0], cells[2], float(int(cells[3]))))
                elif cells:
                    raise ValueError
            except ValueError:
                faults.meet(
                    DataError(
                        "A line of relevance is `query 0 candidate grade task`; this one is not.",
                        where=f"{path.name} line {number}",
                        do="Fetch the file again.",
                    )
                )
    return judged(found, where=path.name, candidate_ids=candidate_ids, query_ids=query_ids, faults=faults)


def judged(
    found: Iterable[tuple[int, str, str, float]],
    *,
    where: str,
    candidate_ids: pa.ChunkedArray,
    query_ids: set[str],
    faults: Faults,
) -> dict[str, dict[str, float]]:
    """As `read_qrels`, from (line, query id, candidate id, grade)."""
    found = list(found)
    named = pa.array({candidate for _, _, candidate, _ in found}, pa.string())
    known = set(pc.filter(candidate_ids, pc.is_in(candidate_ids, named)).to_pylist())
    relevance: dict[str, dict[str, float]] = {}
    for number, query, candidate, grade in found:
        if query not in query_ids or candidate not in known:
            kind, name = ("query", query) if query not in query_ids else ("candidate", candidate)
            if kind == "query" or query.partition(":")[0] == candidate.partition(":")[0]:
                faults.meet(
                    DataError(
                        f"Relevance names the unknown {kind} '{name}'.",
                        where=f"{where} line {number}",
                        do="Fetch queries, pool and relevance of one split.",
                    )
                )
            continue
        relevance.setdefault(query, {})[candidate] = grade
    return relevance


def read_instructions(path: Path) -> dict[tuple[str, Modality, Modality], tuple[str, ...]]:
    """(data set's number, query's modality, candidate's modality) -> instructions to choose from.

    The file has a header, then query_modality, cand_modality, the data set's name, its number, and up to
    four instructions; empty cells are none.

    Raises:
        DataError: see `check_file`; a line has fewer than five columns or an unknown modality.
    """
    check_file(path)
    choices = {}
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip().strip('"').strip() for cell in line.split("\t")]
        if not any(cells):
            continue
        if len(cells) < 5 or cells[0] not in HOLDS or cells[1] not in HOLDS:
            raise DataError(
                "A line holds query modality, candidate modality, data set, its number, and instructions.",
                where=f"{path.name} line {number}",
                do="Fetch the file again.",
            )
        choices[cells[3], HOLDS[cells[0]], HOLDS[cells[1]]] = tuple(cell for cell in cells[4:] if cell)
    return choices
