"""`clearsight search`: words, a picture, both, or an item; the nearest items of an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clearsight.errors import DataError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from rich.table import Table

    from clearsight.index import Hit, Results

HERE = (Path("."), Path("index"))


@dataclass(frozen=True)
class SearchConfig:
    """Search an index by words, by a picture, by both, or by an item that is in it.

    The model is the one that the index was made with.
    """

    text: Annotated[str | None, "words to search for"] = field(default=None, metadata={"positional": True})
    image: Annotated[Path | None, "a picture to search with, alone or with the words"] = None
    like: Annotated[str | None, "id of an item in the index: what is like it"] = None
    where: Annotated[str | None, "filter, such as \"year > 2020 and place = 'Bern'\""] = None
    top: Annotated[int, "hits to show, 1 to 10,000"] = 10
    index: Annotated[Path | None, "folder of the index; by default the current folder's, or ./index"] = None
    raw: Annotated[bool, "search the vectors as the model gave them: the state before repair"] = False
    rerank: Annotated[
        str | None, "the model judges the first hits again: likelihood, p_true, number, choice, listwise"
    ] = None
    rerank_top: Annotated[int, "hits to judge again"] = 20
    explain: Annotated[
        Path | None, "folder of a sparse autoencoder of this model: which concepts made the match"
    ] = None
    model: Annotated[str | None, "where the index's model lies now, if it has moved"] = None
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class SearchResult:
    results: Results

    def to_json(self) -> dict[str, Any]:
        from clearsight.files import to_plain

        told = self.results
        hits = [{"rank": rank, **to_plain(hit)} for rank, hit in enumerate(told.hits, 1)]
        for hit in hits:
            hit["why"] = [{"concept": name, "share": share} for name, share in hit["why"]]
        query = told.query
        return {
            "query": {
                "text": query.text,
                "image": None if query.image is None else str(query.image),
                "like": query.like,
                "where": query.where,
                "top": query.top,
                "space": query.space,
            },
            "hits": hits,
            "rows": told.rows,
            "version": told.version,
            "repair": told.repair,
            "seconds": told.seconds,
            "notes": list(told.notes),
        }


def search(config: SearchConfig, ui: Ui | None = None) -> SearchResult:
    """Answer one question.

    Raises:
        UsageError: no question, a filter that does not parse, a modality that the model lacks, `top` out of
            range, an unknown scorer.
        DataError: no index, one of another model or format, no item of that id, an autoencoder that does not
            fit. ItemError: a picture that cannot be read. ModelError: as the model says.
    """
    from clearsight.index import Index, Query
    from clearsight.index.searching import check

    ui = ui or Quiet()
    query = Query(
        config.text,
        config.image,
        config.like,
        config.where,
        config.top,
        "raw" if config.raw else "repaired",
    )
    check(query)
    found = Index.open(
        _place(config.index),
        model_name=config.model,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    with found:
        results = found.search(query)
        if config.rerank is not None:
            results = found.rerank(results, config.rerank, top=config.rerank_top)
        if config.explain is not None:
            from clearsight.formats import load_sae

            results = found.explain(results, load_sae(config.explain), names=concept_names(config.explain))
    for note in results.notes:
        ui.say(note)
    if results.hits:
        ui.show(table(results))
    else:
        ui.say("No item passes the filter." if config.where else "The index holds no items.")
    return SearchResult(results)


def _place(given: Path | None) -> Path:
    """The index that was named, or the one that lies here.

    Raises:
        DataError: there is none.
    """
    from clearsight.index.places import find_index

    if given is not None:
        return find_index(given)
    for place in HERE:
        try:
            return find_index(place)
        except DataError:
            continue
    raise DataError(
        "There is no index here (.clearsight or index).",
        where=str(Path.cwd()),
        do="Name one with --index, or make one: clearsight index PHOTOS/.",
    )


def table(results: Results) -> Table:
    """Hits as one reads them: columns that say nothing are left out."""
    from rich.table import Table

    hits = results.hits
    columns: list[tuple[str, Any]] = [("score", lambda hit: f"{hit.score:.3f}")]
    if any(hit.fine is not None for hit in hits):
        columns.append(("reranked", lambda hit: "-" if hit.fine is None else f"{hit.fine:.2f}"))
    columns.append(("id", lambda hit: hit.id))
    if any(hit.text for hit in hits):
        columns.append(("text", lambda hit: _short(hit.text or "")))
    if any(hit.source not in (None, hit.id) for hit in hits):
        columns.append(("file", lambda hit: hit.source or ""))
    names = dict.fromkeys(name for hit in hits for name in hit.metadata)
    columns += [(name, partial(_value, name=name)) for name in names]
    if any(hit.why for hit in hits):
        columns.append(("why", _why))
    shown = Table("rank", *(title for title, _ in columns), box=None, padding=(0, 2, 0, 0))
    for rank, hit in enumerate(hits, 1):
        shown.add_row(str(rank), *(_plain(cell(hit)) for _, cell in columns))
    return shown


def _short(text: str, most: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _plain(cell: str) -> Any:
    """A cell whose brackets are no markup, and whose control characters do nothing to a terminal."""
    from rich.text import Text

    return Text("".join(char if char.isprintable() else "�" for char in cell))


def _value(hit: Hit, name: str) -> str:
    return str(hit.metadata.get(name, ""))


def _why(hit: Hit) -> str:
    return ", ".join(f"{name} {share:+.2f}" for name, share in hit.why)


def concept_names(folder: Path) -> Mapping[int, str]:
    """Names of concepts, where a diagnosis lies around the autoencoder: of a concept table's column `name`,
    else its number and whether it speaks of pictures, texts or both.
    """
    import pyarrow.parquet as pq

    file = folder.parent.parent / "tables" / f"{folder.name}-concepts.parquet"
    if not file.is_file():
        return {}
    found = pq.read_table(file).to_pydict()
    if "name" in found:
        return {int(n): str(name) for n, name in zip(found["concept"], found["name"], strict=True) if name}
    scores = found.get("modality_score", [])
    return {
        int(n): f"{n} ({'pictures' if score < 0.3 else 'texts' if score > 0.7 else 'both'})"
        for n, score in zip(found["concept"], scores, strict=True)
        if score is not None and score == score
    }
