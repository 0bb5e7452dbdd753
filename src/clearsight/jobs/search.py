"""`clearsight search`: words, a picture, both, or an item; the nearest items of an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clearsight.errors import DataError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from clearsight.index import Hit, Results

HERE = (Path("."), Path("index"))
LEAST_SHARE = 0.005
"""Of a concept that is shown: less reads 0.00."""


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
    """Hits as one reads them, at any width: below an item's id what it says, what is known of it, and why."""
    from rich.table import Table

    hits = results.hits
    judged = any(hit.fine is not None for hit in hits)
    shown = Table("rank", "score", *(["reranked"] if judged else []), "item", box=None, padding=(0, 2, 0, 0))
    for rank, hit in enumerate(hits, 1):
        fine = [] if not judged else ["-" if hit.fine is None else f"{hit.fine:.2f}"]
        shown.add_row(str(rank), f"{hit.score:.3f}", *fine, _item(hit))
    return shown


def _item(hit: Hit) -> Text:
    """The id, which `--like` takes, and a line each of what else there is."""
    from rich.text import Text

    lines = [(_printable(hit.id), "bold")]
    if hit.text:
        lines.append((_short(_printable(hit.text)), ""))
    known = {name: value for name, value in hit.metadata.items() if value is not None}
    if hit.source not in (None, hit.id):
        known = {"file": hit.source, **known}
    if known:
        lines.append((_printable("; ".join(f"{name}: {value}" for name, value in known.items())), "dim"))
    why = [f"{_printable(name)} {share:+.2f}" for name, share in hit.why if share >= LEAST_SHARE]
    if why:
        lines.append((f"why: {', '.join(why)}", "dim"))
    return Text("\n").join(Text(line, style) for line, style in lines)


def _short(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _printable(text: str) -> str:
    """Text whose control characters do nothing to a terminal; ends of lines are spaces."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


def concept_names(folder: Path) -> Mapping[int, str]:
    """Names of concepts, where a diagnosis lies around the autoencoder: the number, and the words of the
    diagnosis, else whether the concept speaks of pictures, texts or both.
    """
    import pyarrow.parquet as pq

    file = folder.parent.parent / "tables" / f"{folder.name}-concepts.parquet"
    if not file.is_file():
        return {}
    found = pq.read_table(file).to_pydict()
    scores, numbers = found.get("modality_score", []), found["concept"]
    said = {
        n: "pictures" if score < 0.3 else "texts" if score > 0.7 else "both"
        for n, score in zip(numbers, scores, strict=True)
        if score is not None and score == score
    }
    said |= {
        n: name for n, name in zip(numbers, found.get("name", [None] * len(numbers)), strict=True) if name
    }
    return {int(n): f"{n} ({words})" for n, words in said.items()}
