"""Tasks from one's own files, and the shape that image-text benchmarks share.

A folder with three tables, each in any kind that `tables` reads:

| file | columns |
|---|---|
| queries.* , candidates.* | those of items: id, text, image, instruction |
| relevance.jsonl, .csv, .tsv, .parquet | query, candidate, grade (absent: 1); or query-id, corpus-id, score |
| relevance.qrels, .trec, .txt | TREC's `query 0 candidate grade`, and M-BEIR's five columns |

Or pairs: one file with an image and a text in every row, or a folder of images with captions beside them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clearsight.data.records import items_of_file, unique
from clearsight.data.tables import READERS, Faults, Row, read_rows, table_in
from clearsight.data.vector_files import FORMATS
from clearsight.data.vectors import load_vectors
from clearsight.errors import DataError
from clearsight.types import ROLES, Embeddings, Item, Task

Direction: TypeAlias = Literal["i2t", "t2i"]

_TREC_SUFFIXES = (".qrels", ".trec", ".txt")
_RELEVANCE_SUFFIXES = (*READERS, *_TREC_SUFFIXES)
_QUERY_COLUMNS = ("query", "query-id", "query_id", "qid")
_CANDIDATE_COLUMNS = ("candidate", "corpus-id", "candidate_id", "did")
_GRADE_COLUMNS = ("grade", "score", "relevance")


def folder_task(
    folder: Path,
    *,
    n: int | None = None,
    columns: Mapping[str, str] | None = None,
    faults: Faults | None = None,
) -> Task:
    """The task of a folder holding queries, candidates and relevance.

    Args:
        n: the first n queries only.
        columns: documented name -> the column of the items' tables.
        faults: where bad rows go; without it the first raises.

    Raises:
        DataError: a table is missing or broken, an id repeats, relevance names an id that does not exist.
    """
    faults = faults or Faults()
    queries, candidates = (
        tuple(
            unique(items_of_file(table_in(folder, stem), columns=columns, faults=faults), faults, what=stem)
        )
        for stem in ("queries", "candidates")
    )
    relevance = read_relevance(
        table_in(folder, "relevance", _RELEVANCE_SUFFIXES),
        query_ids={i.id for i in queries},
        candidate_ids={i.id for i in candidates},
        faults=faults,
    )
    kept = queries[:n]
    return Task(
        folder.resolve().name, kept, candidates, {i.id: relevance[i.id] for i in kept if i.id in relevance}
    )


def read_relevance(
    path: Path,
    *,
    query_ids: set[str],
    candidate_ids: set[str],
    faults: Faults | None = None,
) -> dict[str, dict[str, float]]:
    """query id -> candidate id -> grade, from a file of the kinds on top of this module.

    Raises:
        DataError: a row lacks its columns, its grade is no finite number, a pair has two grades, or an id
            does not exist (the message names row and id).
    """
    faults = faults or Faults()
    rows = _trec_rows(path) if path.suffix.lower() in _TREC_SUFFIXES else read_rows(path)
    relevance: dict[str, dict[str, float]] = {}
    for row in rows:
        try:
            query, candidate, grade = _judgement(row)
            if query not in query_ids:
                raise _unknown("query", query, row.where)
            if candidate not in candidate_ids:
                raise _unknown("candidate", candidate, row.where)
            if relevance.setdefault(query, {}).setdefault(candidate, grade) != grade:
                raise DataError(
                    f"Query '{query}' and candidate '{candidate}' have two grades.",
                    where=row.where,
                    do="Keep one.",
                )
        except DataError as fault:
            faults.meet(fault)
    return relevance


def pairs_task(
    path: Path,
    direction: Direction,
    *,
    n: int | None = None,
    columns: Mapping[str, str] | None = None,
    faults: Faults | None = None,
) -> Task:
    """Image -> text, or text -> image, from rows that hold both.

    Rows that name the same image file are one image with several texts; its id is that of its first row.

    Args:
        n: the first n rows only.

    Raises:
        DataError: as `load_items`; a row has no image or no text.
    """
    faults = faults or Faults()
    images: dict[tuple[str | None, str | None], Item] = {}  # by file, or by row
    texts: list[Item] = []
    image_of: dict[str, str] = {}
    pairs = islice(unique(items_of_file(path, columns=columns, faults=faults), faults, what="row"), n)
    for item in pairs:
        if item.modality != "image+text":
            lacks = "text" if item.text is None else "image"
            faults.meet(
                DataError(f"The pair has no {lacks}.", where=item.id, do="Give both an image and a text.")
            )
            continue
        file = os.fspath(item.image) if isinstance(item.image, str | os.PathLike) else None
        image = images.setdefault(
            (file, None if file else item.id), Item(item.id, image=item.image, instruction=item.instruction)
        )
        texts.append(Item(item.id, text=item.text, instruction=item.instruction))
        image_of[item.id] = image.id
    return image_text_task(
        f"{path.stem}/{direction}", tuple(images.values()), tuple(texts), image_of, direction
    )


def image_text_task(
    name: str,
    images: Sequence[Item],
    texts: Sequence[Item],
    image_of: Mapping[str, str],
    direction: Direction,
) -> Task:
    """The task in which every text describes one image, in one direction.

    Args:
        images, texts: tuples, or tables of items.
        image_of: text id -> id of its image; every text of an image is relevant to it, with grade 1.

    Raises:
        DataError: no images or texts; ids repeat or do not exist.
    """
    if not images or not texts:
        raise DataError("There are no pairs of image and text.", where=name, do="Give at least one good row.")
    relevance: dict[str, dict[str, float]] = {}
    for text_id, image_id in image_of.items():
        query, candidate = (image_id, text_id) if direction == "i2t" else (text_id, image_id)
        relevance.setdefault(query, {})[candidate] = 1.0
    sides = (images, texts)
    queries, candidates = sides if direction == "i2t" else sides[::-1]
    return Task(name, queries, candidates, relevance)


def load_vector_task(
    folder: str | os.PathLike[str],
) -> tuple[Task, Embeddings, Embeddings, tuple[Embeddings, Embeddings] | None]:
    """A task of vectors one already has: task, queries, candidates, and pairs where there are some.

    The folder holds vectors `queries.*` and `candidates.*` (kinds: see `vector_files`), `relevance.*`, and
    for self-alignment `pair_images.*` and `pair_captions.*`, row by row. The task's items know their ids
    alone, which stand for their texts.

    Raises:
        DataError: a file is missing or broken, relevance to unknown ids, pairs of different lengths.
    """
    place = Path(folder)
    queries, candidates = (
        load_vectors(table_in(place, stem, FORMATS), side=side)
        for stem, side in (("queries", ROLES[0]), ("candidates", ROLES[1]))
    )
    relevance = read_relevance(
        table_in(place, "relevance", _RELEVANCE_SUFFIXES),
        query_ids=set(queries.ids),
        candidate_ids=set(candidates.ids),
    )
    named, ranked = (tuple(Item(name, text=name) for name in side.ids) for side in (queries, candidates))
    return Task(place.resolve().name, named, ranked, relevance), queries, candidates, _pairs(place)


def _pairs(folder: Path) -> tuple[Embeddings, Embeddings] | None:
    if not (any(folder.glob("pair_images.*")) or any(folder.glob("pair_captions.*"))):
        return None
    images = load_vectors(table_in(folder, "pair_images", FORMATS), modality="image")
    captions = load_vectors(table_in(folder, "pair_captions", FORMATS), modality="text")
    if len(images) != len(captions):
        raise DataError(
            f"{len(images)} pair_images and {len(captions)} pair_captions.",
            where=str(folder),
            do="Row i of both is one pair.",
        )
    return images, captions


def _judgement(row: Row) -> tuple[str, str, float]:
    if row.fault is not None:
        raise DataError(row.fault, where=row.where, do="Correct the row.")
    query, candidate = (_first(row, names) for names in (_QUERY_COLUMNS, _CANDIDATE_COLUMNS))
    if query is None or candidate is None:
        raise DataError(
            f"Relevance needs columns 'query' and 'candidate'; here are {', '.join(row.values)}.",
            where=row.where,
            do="Name the columns so; a file of TREC lines without a header ends in .qrels.",
        )
    given = _first(row, _GRADE_COLUMNS)
    try:
        grade = 1.0 if given is None else float(given)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise DataError(f"The grade is {given!r}.", where=row.where, do="Give a number, or no grade column.")
    return str(query), str(candidate), grade


def _first(row: Row, names: Iterable[str]) -> Any:
    return next((row.values[name] for name in names if row.values.get(name) is not None), None)


def _trec_rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            cells = line.split()
            if len(cells) in (4, 5):  # M-BEIR's fifth column is its task id
                values = {"query": cells[0], "candidate": cells[2], "grade": cells[3]}
                yield Row(f"{path.name} line {number}", values)
            elif cells:
                fault = f"A line of relevance has 4 or 5 columns, this one {len(cells)}."
                yield Row(f"{path.name} line {number}", {}, fault)


def _unknown(kind: str, name: str, where: str) -> DataError:
    return DataError(
        f"Relevance names the unknown {kind} '{name}'.", where=where, do="Correct the id or add the item."
    )
