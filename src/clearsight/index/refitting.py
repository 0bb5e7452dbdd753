"""Refitting: the collection's pictures are captioned, a repair is fitted, the stored vectors rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.records import IMAGE_SUFFIXES
from clearsight.errors import DataError, ItemError
from clearsight.index import model
from clearsight.index.captions import CaptionLog
from clearsight.index.fitted import Fitted
from clearsight.index.pictures import original_of
from clearsight.index.repairing import LEAST_PAIRS, LEAST_ROWS, Pairs, Wanted, fit
from clearsight.index.settings import RepairName, Settings
from clearsight.index.statistics import matrix, moments_of
from clearsight.moments import Moments
from clearsight.progress import Progress, Silent
from clearsight.types import Embeddings, Item

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.index.index import Index
    from clearsight.models.encoder import Encoder
    from clearsight.store.door import View

KEPT = 3
"""Repairs whose files stay: the one in force, and those that views opened before it may still use."""
AT_ONCE = 32
"""Pictures captioned between two writes of the log."""
MOST_TEXTS = 500
_PAIRED: frozenset[RepairName] = frozenset({"auto", "self_aligned", "chosen"})


def refit(index: Index, wanted: Settings, progress: Progress) -> Fitted:
    """Fit what is wanted, save it, and rewrite the store's vectors. See `Index.refit`."""
    view = index.store.view()
    if not view.rows:
        raise DataError(
            "There is nothing to fit a repair to.", where=str(index.folder), do="Add items first."
        )
    moments = moments_of(view)
    pairs = texts = None
    if wanted.repair != "none":
        pairs, texts = _stand_ins(index, wanted, view, moments, progress)
    fitted = fit(
        view,
        _next_name(index.folder / "repairs", view.repair),
        Wanted(
            wanted.repair,
            moments,
            pairs,
            texts,
            {} if index.queries is None else _enough(index.queries.spreads()),
        ),
        generative=model.writes(index.encoder),
    )
    if fitted.repair is None and not view.repair:
        return fitted
    fitted.save(index.folder / "repairs")

    left = view.rows

    def vectors(batch: pa.RecordBatch) -> NDArray[np.float32]:
        nonlocal left
        modality_N = np.array(batch.column("modality").to_pylist(), dtype=str)
        told = min(batch.num_rows, left)  # Lance shows the first row of each file twice
        progress.advance(told)
        left -= told
        return fitted.rows(matrix(batch.column("raw")), modality_N)

    progress.start(view.rows, "repairing")
    try:
        index.store.rewrite(fitted.name, vectors)
        index.store.build()
    finally:
        progress.close()
    _prune(index.folder / "repairs", fitted.name)
    return fitted


def _enough(spreads: Mapping[str, Any]) -> dict[str, Any]:
    """Of learnt queries those that are enough to centre a side on."""
    from clearsight.index.repairing import LEAST_TO_CENTRE

    return {name: one for name, one in spreads.items() if one.count >= LEAST_TO_CENTRE}


def _stand_ins(
    index: Index, wanted: Settings, view: View, moments: Mapping[str, Moments], progress: Progress
) -> tuple[Pairs | None, Embeddings | None]:
    """Pictures with the model's captions, and texts that stand for queries where there are few."""
    encoder = index.encoder
    own_texts = int(moments["text"].count) if "text" in moments else 0
    pictured = _pictured(view, wanted.unlabelled)
    needed = wanted.repair in _PAIRED or own_texts < max(LEAST_ROWS, len(pictured))
    if model.writes(encoder) and needed and len(pictured) >= LEAST_ROWS:
        pairs = _captioned(index, encoder, view, pictured, progress)
        enough = len(pairs[0]) >= LEAST_PAIRS or wanted.repair != "auto"
        return (pairs if enough else None), pairs[1]
    if "text" not in model.reads(encoder):
        return None, None
    beside = [Item(f"text of {name}", text=text) for name, text in _texts_beside(view)]
    return None, (encoder.embed(beside, "query", counterpart="image") if len(beside) >= LEAST_ROWS else None)


def _pictured(view: View, most: int) -> list[dict[str, Any]]:
    """At most so many different pictures: those whose keys come first, which is a draw that stays."""
    found: dict[str, dict[str, Any]] = {}
    for batch in view.read(["id", "key", "modality", "source"]):
        for row in batch.to_pylist():
            picture = "image" in row["modality"] or Path(row["source"] or "").suffix.lower() in IMAGE_SUFFIXES
            if picture and (row["key"] not in found or row["id"] < found[row["key"]]["id"]):
                found[row["key"]] = row
    return [found[key] for key in sorted(found)[:most]]


def _texts_beside(view: View) -> list[tuple[str, str]]:
    """Ids and texts of at most so many embedded pictures that have one beside them."""
    found: list[tuple[str, str, str]] = []
    for batch in view.read(["id", "key", "modality", "text"]):
        rows = (row for row in batch.to_pylist() if row["text"] and row["modality"] == "image")
        found += [(row["key"], row["id"], row["text"]) for row in rows]
    return [(name, text) for _, name, text in sorted(found)[:MOST_TEXTS]]


def _captioned(
    index: Index, encoder: Encoder, view: View, rows: Sequence[Mapping[str, Any]], progress: Progress
) -> Pairs:
    """Vectors of the pictures and of the model's captions of them, each worded for its side."""
    captioner = encoder.captioner
    log = CaptionLog(index.folder, {"revision": encoder.loaded.revision, "prompt": captioner.template.name})
    missing = [row for row in rows if row["key"] not in log.texts]
    progress.start(len(rows), "captioning")
    try:
        progress.advance(len(rows) - len(missing))
        for start in range(0, len(missing), AT_ONCE):
            chunk = missing[start : start + AT_ONCE]
            items = {n: item for n, row in enumerate(chunk) if (item := _picture(index, row)) is not None}
            written = captioner.captions(items, refuse=_pass_over, progress=Silent())
            log.add({chunk[n]["key"]: text for n, text in written.items()})
            progress.advance(len(chunk))
    finally:
        progress.close()
    told = [row for row in rows if log.texts.get(row["key"])]
    images = _image_rows(index, encoder, view, told)
    there = {name: n for n, name in enumerate(images.ids)}
    told = [row for row in told if row["id"] in there]
    texts = [Item(row["id"], text=log.texts[row["key"]]) for row in told]
    captions = encoder.embed(texts, "query", counterpart="image", progress=progress)
    return images.take([there[name] for name in captions.ids]), captions


def _pass_over(_: int, fault: ItemError) -> None:
    """A picture that cannot be captioned is one pair less."""


def _picture(index: Index, row: Mapping[str, Any]) -> Item | None:
    """A picture as it lies in the folder, else the small one of the store."""
    content: bytes | None = None
    if row["source"] is not None and index.root is not None:
        try:
            content = original_of(index.root, row["source"], item_id=row["id"])
        except DataError:  # it lies outside, or cannot be read now
            content = None
    content = content or index.thumbnail(row["id"])
    return None if content is None else Item(row["id"], image=content)


def _image_rows(index: Index, encoder: Encoder, view: View, rows: Sequence[Mapping[str, Any]]) -> Embeddings:
    """Vectors of the pictures alone: the store's own where pictures were embedded."""
    stored = [row["id"] for row in rows if row["modality"] == "image"]
    ids: list[str] = []
    parts: list[NDArray[np.float32]] = []
    if stored:
        for batch in view.read(["id", "raw"], ids=stored):
            ids += batch.column("id").to_pylist()
            parts.append(matrix(batch.column("raw")))
    other = [_picture(index, row) for row in rows if row["modality"] != "image"]
    items = [item for item in other if item is not None]
    if items:
        embedded = encoder.embed(items, "candidate", counterpart="text")
        ids += embedded.ids
        parts.append(embedded.rows_ND)
    rows_ND = np.concatenate(parts) if parts else np.empty((0, index.settings.width), np.float32)
    return Embeddings.of(ids, rows_ND, modality="image")


def _next_name(folder: Path, current: str) -> str:
    numbers = [
        int(name) for name in (current, *(one.stem for one in folder.glob("*.safetensors"))) if name.isdigit()
    ]
    return f"{max(numbers, default=0) + 1:06d}"


def _prune(folder: Path, current: str) -> None:
    old = sorted(one for one in folder.glob("*.safetensors") if one.stem != current)
    for one in old[: max(0, len(old) - KEPT + 1)]:
        one.unlink(missing_ok=True)
