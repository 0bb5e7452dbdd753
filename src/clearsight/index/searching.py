"""Questions to an index: checked, embedded in one batch, repaired by what the store's vectors were made with.

Legend of shapes: Q queries, D width of raw vectors, E width of repaired ones, K hits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, ItemError, UsageError
from clearsight.index import model
from clearsight.index.metadata import columns_of
from clearsight.index.nouns import Hit, Query, Results
from clearsight.index.repairing import GROWN
from clearsight.index.statistics import drift, matrix
from clearsight.store.door import META
from clearsight.types import Item

if TYPE_CHECKING:
    from clearsight.index.fitted import Fitted
    from clearsight.index.index import Index
    from clearsight.store.door import View

MOST_HITS = 10_000
Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Asked:
    """A query on its way: its vector in the space that it searches."""

    query: Query
    vector_E: Rows
    notes: tuple[str, ...]


class Searcher:
    """Answers queries of one index; one at a time embeds, any number search."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._embedding = threading.Lock()
        self._centres: dict[str, tuple[str, int, Rows]] = {}

    def many(self, queries: Sequence[Query]) -> list[Results]:
        """See `Index.search_many`."""
        start = time.perf_counter()
        for query in queries:
            check(query)
        view = self._index.store.view()
        fitted = self._index.fitted(view.repair)
        groups: dict[tuple[str, str | None, int], list[int]] = {}
        wheres = {query.where: _parsed(query.where, view) for query in queries}
        asked = self._asked(queries, view, fitted)
        for place, one in enumerate(asked):
            top = one.query.top + (one.query.like is not None)
            groups.setdefault((one.query.space, one.query.where, top), []).append(place)
        columns = ["id", "modality", "text", "source", *columns_of(view.fields)]
        notes = self._notes(view, fitted)
        answers: dict[int, Results] = {}
        for (space, where, top), places in groups.items():
            rows_QE = np.stack([asked[place].vector_E for place in places])
            found = view.search(rows_QE, top, space=space, where=wheres[where], columns=columns)  # type: ignore[arg-type]
            for place, best in zip(places, found, strict=True):
                query = asked[place].query
                hits = [hit for hit in hits_of(best.rows.to_pylist(), best.score_K) if hit.id != query.like]
                answers[place] = Results(
                    query,
                    tuple(hits[: query.top]),
                    view.rows,
                    view.version,
                    view.repair if space == "repaired" else "",
                    0.0,
                    (*asked[place].notes, *notes),
                )
        seconds = time.perf_counter() - start
        return [_timed(answers[place], seconds) for place in range(len(queries))]

    def _asked(self, queries: Sequence[Query], view: View, fitted: Fitted) -> list[Asked]:
        """Queries with their vectors; those of words and pictures pass the model together."""
        items = {place: _item(query, place) for place, query in enumerate(queries) if query.like is None}
        raw = self.embed(list(items.values()), view) if items else np.empty((0, 0), np.float32)
        row_of = dict(zip(items, raw, strict=True))
        like = _likes(view, {query.like for query in queries if query.like is not None})
        vector_of: dict[int, Rows] = {}
        notes: dict[int, tuple[str, ...]] = {}
        for place, query in enumerate(queries):
            column = "raw" if query.space == "raw" else "vector"
            vector_of[place] = row_of[place] if query.like is None else like[query.like][column]
        asked = {place: item.modality for place, item in items.items() if queries[place].space != "raw"}
        for modality in set(asked.values()):
            places = [place for place, its in asked.items() if its == modality]
            rows_QE = self.repaired(np.stack([row_of[place] for place in places]), modality, fitted)
            vector_of.update(zip(places, rows_QE, strict=True))
            notes.update(dict.fromkeys(places, _borrowed(fitted, modality)))
        self._learn(items, row_of)
        return [Asked(query, vector_of[place], notes.get(place, ())) for place, query in enumerate(queries)]

    def embed(self, items: Sequence[Item], view: View) -> Rows:
        """Raw vectors of queries.

        Raises:
            UsageError: the model does not read such a query. ItemError: a picture or text that it refuses.
        """
        encoder = self._index.encoder
        able = model.reads(encoder)
        for item in items:
            if item.modality not in able:
                raise UsageError(
                    f"The model '{encoder.loaded.name}' reads no query of {item.modality}.",
                    where="query",
                    do=f"Ask with {' or '.join(sorted(able))}, or build an index with another model.",
                )
        counterpart: Any = "image" if encoder.template.looks_across else None
        with self._embedding:
            try:
                return encoder.embed(items, "query", counterpart=counterpart).rows_ND
            except ItemError as fault:
                raise ItemError(fault.what, where="query", do=fault.do) from fault

    def repaired(self, rows_QD: Rows, modality: str, fitted: Fitted) -> Rows:
        """Query vectors under a repair, centred by what was learnt of queries."""
        learnt = self._index.queries
        name = f"query {modality}"
        if learnt is None or fitted.repair is None or name not in fitted.spreads:
            return fitted(rows_QD, modality, "query")
        count = learnt.counts().get(modality, 0)
        if count == 0:
            return fitted(rows_QD, modality, "query")
        known = self._centres.get(name)
        if known is None or known[0] != fitted.name or count > known[1] * 1.05:
            mean_D = learnt.mean_D(modality, fitted.spreads[name].mean_D)
            whole = fitted.repair.repairs_[fitted.group(modality)].affine_
            centre_E = whole.apply(mean_D[None])[0].astype(np.float32)
            known = self._centres[name] = (fitted.name, count, centre_E)
        return replace(fitted, centres={**fitted.centres, name: known[2]})(rows_QD, modality, "query")

    def _learn(self, items: Mapping[int, Item], row_of: Mapping[int, Rows]) -> None:
        learnt = self._index.queries
        if learnt is None or not items:
            return
        by_modality: dict[str, list[Rows]] = {}
        for place, item in items.items():
            by_modality.setdefault(item.modality, []).append(row_of[place])
        for modality, rows in by_modality.items():
            learnt.add(np.stack(rows), modality)

    def _notes(self, view: View, fitted: Fitted) -> tuple[str, ...]:
        notes: tuple[str, ...] = self._index.cached(
            "notes", view.version, lambda: (*grown(fitted, view.rows), *self._index.drift_notes(fitted))
        )
        return notes


def grown(fitted: Fitted, rows: int) -> tuple[str, ...]:
    """A sentence where a collection has outgrown its repair."""
    then = sum(fitted.facts.get("rows", {}).values())
    if not then or rows < GROWN * then:
        return ()
    return (
        f"The collection has grown from {then:,} to {rows:,} items since the repair was fitted: refit it "
        "(clearsight index ... --refit).",
    )


def query_drift(index: Index, fitted: Fitted) -> list[Any]:
    """How far the queries of today lie from those that a repair expects."""
    if index.queries is None:
        return []
    return [
        drift(fitted.spreads[f"query {modality}"], now, side="query", modality=modality)
        for modality, now in index.queries.spreads().items()
        if f"query {modality}" in fitted.spreads
    ]


def check(query: Query) -> None:
    """Nothing, where a query can be asked.

    Raises:
        UsageError: it asks nothing, two things at once, or for no or too many hits.
    """
    if query.like is None and query.text is None and query.image is None:
        raise UsageError("The query is empty.", where="query", do="Give words, a picture, or an item's id.")
    if query.like is not None and (query.text is not None or query.image is not None):
        raise UsageError("`like` is a question of its own.", where="like", do="Leave out text and picture.")
    if query.text is not None and not query.text.strip():
        raise UsageError("The query has no words.", where="query", do="Give words, or none.")
    if isinstance(query.top, bool) or not isinstance(query.top, int) or not 1 <= query.top <= MOST_HITS:
        raise UsageError(f"top is {query.top}.", where="top", do=f"Give a number from 1 to {MOST_HITS:,}.")
    if query.space not in ("raw", "repaired"):
        raise UsageError(f"space is '{query.space}'.", where="space", do="Give 'raw' or 'repaired'.")


def hits_of(rows: Sequence[Mapping[str, Any]], score_K: Any) -> list[Hit]:
    """Rows of a store as hits; metadata that is null is left out."""
    return [
        Hit(
            row["id"],
            float(score),
            row["modality"],
            row["text"],
            row["source"],
            {
                name.removeprefix(META): value
                for name, value in row.items()
                if name.startswith(META) and value is not None
            },
        )
        for row, score in zip(rows, score_K, strict=True)
    ]


def _item(query: Query, place: int) -> Item:
    return Item(f"query {place}", query.text, query.image)


def _parsed(text: str | None, view: View) -> Any:
    from clearsight.store.where import parse_where

    return None if text is None else parse_where(text, view.fields)


def _likes(view: View, ids: set[str]) -> dict[str, dict[str, Any]]:
    """Both vectors of items. Raises DataError where one is not there."""
    found: dict[str, dict[str, Any]] = {}
    if ids:
        for batch in view.read(["id", "raw", "vector"], ids=sorted(ids)):
            raw_ND, vector_NE = matrix(batch.column("raw")), matrix(batch.column("vector"))
            for place, item_id in enumerate(batch.column("id").to_pylist()):
                found[item_id] = {"raw": raw_ND[place], "vector": vector_NE[place]}
    for item_id in ids - found.keys():
        do = "Give the id of an item of the index."
        raise DataError(f"There is no item '{item_id}'.", where=item_id, do=do)
    return found


def _borrowed(fitted: Fitted, modality: str) -> tuple[str, ...]:
    other = fitted.stands_in(modality)
    if other is None:
        return ()
    return (f"The repair knows no items of {modality}; it treats the query as {other}.",)


def _timed(results: Results, seconds: float) -> Results:
    return replace(results, seconds=seconds)
