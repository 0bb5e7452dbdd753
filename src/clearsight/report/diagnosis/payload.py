"""What the page's script reads: the concepts, the examples, the items and the maps as one compact JSON text.

C concepts, E examples, P points. Numbers are rounded to what is shown. Only items that a concept or a map
refers to are written; positions are those of the written items. NaN is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clearsight.report.data import Card
from clearsight.report.diagnosis.data import NO_ITEM, DiagnosisData, Examples, MapView, ModelDiagnosis
from clearsight.report.diagnosis.legend import IMAGE_UP_TO, TEXT_FROM, score_row
from clearsight.report.diagnosis.sheets import ACROSS, CELL, sheets
from clearsight.report.text import clean, shorten

MAP_RANGE: Final = 4000
"""Places on a map are whole numbers 0..MAP_RANGE along the longer side."""
TEXT_LIMIT: Final = 320
"""Characters of a text that the page keeps."""
KINDS: Final = ("image", "text", "image+text")
"""What an item can be; the page knows it by its place here."""


def payload(data: DiagnosisData) -> str:
    """The JSON, safe to stand inside a script element: every `<` is escaped, everything is ASCII.

    Raises:
        DataError: a picture cannot be decoded.
    """
    used = _used_items(data)
    place_I = np.full(len(data.items) + 1, NO_ITEM, dtype=np.int64)  # the last one stands for NO_ITEM = -1
    place_I[used] = np.arange(len(used))
    cards = [data.items[item] for item in used]
    pictured = [card for card in cards if card.image is not None]
    value = {
        "sheets": sheets([(card.id, card.image) for card in pictured if card.image is not None]),
        "cell": CELL,
        "across": ACROSS,
        "items": _items(cards),
        "pairs": _pairs(data, place_I),
        "bounds": (IMAGE_UP_TO, TEXT_FROM),
        "range": MAP_RANGE,
        "models": [_model(model, place_I) for model in data.models],
    }
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _used_items(data: DiagnosisData) -> NDArray[np.int64]:
    """Positions of the items shown, ascending; partners of an item shown come along to name it."""
    shown = [
        positions.ravel()
        for model in data.models
        for positions in (model.concepts.most.items_CE, model.concepts.least.items_CE)
    ]
    shown += [view.items_P for model in data.models for view in model.maps]
    used = np.unique(np.concatenate([np.empty(0, np.int64), *shown]))
    touched = data.pairs_Q2[np.isin(data.pairs_Q2, used).any(axis=1)]
    every = np.union1d(used, touched.ravel()).astype(np.int64)
    there: NDArray[np.int64] = every[every != NO_ITEM]
    return there


def _items(cards: Sequence[Card]) -> dict[str, Any]:
    """Columns: id, text, kind (see `KINDS`) and the cell on the sheets, or -1."""
    cell = 0
    cells = []
    for card in cards:
        cells.append(-1 if card.image is None else cell)
        cell += card.image is not None
    return {
        "id": [clean(shorten(card.id, 80)) for card in cards],
        "text": [clean(shorten(card.text or "", TEXT_LIMIT)) for card in cards],
        "kind": [KINDS.index(kind_of(card)) for card in cards],
        "cell": cells,
    }


def kind_of(card: Card) -> str:
    """`image`, `text` or `image+text`; an item with neither is a text without words."""
    if card.image is None:
        return "text"
    return "image" if card.text is None else "image+text"


def _pairs(data: DiagnosisData, place_I: NDArray[np.int64]) -> list[int]:
    """Flat: item, item, item, item ..."""
    placed = place_I[data.pairs_Q2]
    return [int(place) for place in placed[(placed >= 0).all(axis=1)].ravel()]


def _model(model: ModelDiagnosis, place_I: NDArray[np.int64]) -> dict[str, Any]:
    concepts = model.concepts
    dead_C = np.zeros(len(concepts.energy_C), bool) if concepts.dead_C is None else concepts.dead_C
    return {
        "name": clean(model.name),
        "scores": [_score(name, values_C) for name, values_C in concepts.scores().items()],
        "dead": np.flatnonzero(dead_C).tolist(),
        "names": {str(n): clean(name) for n, name in enumerate(concepts.names) if name},
        "most": _examples(concepts.most, place_I),
        "least": _examples(concepts.least, place_I),
        "maps": [_map(view, place_I) for view in model.maps],
    }


def _score(name: str, values_C: NDArray[Any]) -> dict[str, Any]:
    row = score_row(clean(name))
    return {
        "name": row.name,
        "label": row.label,
        "says": row.says,
        "share": row.share,
        "values": rounded(values_C),
    }


def _examples(examples: Examples, place_I: NDArray[np.int64]) -> dict[str, Any]:
    """Flat rows of E: items (-1 where there is none) and activations (0 there)."""
    placed_CE = place_I[examples.items_CE]
    activation_CE = np.where(placed_CE >= 0, examples.activation_CE, 0.0)
    return {
        "each": int(placed_CE.shape[1]),
        "items": placed_CE.ravel().tolist(),
        "activation": rounded(activation_CE.ravel()),
    }


def _map(view: MapView, place_I: NDArray[np.int64]) -> dict[str, Any]:
    """Places in whole numbers from the upper left corner, of one scale on both axes."""
    low_2 = view.points_P2.min(axis=0, initial=math.inf)
    spread = float((view.points_P2.max(axis=0, initial=-math.inf) - low_2).max()) if len(view.items_P) else 0
    scaled_P2 = (view.points_P2 - low_2) * (MAP_RANGE / spread if spread > 0 else 0.0)
    return {
        "label": clean(view.label),
        "items": place_I[view.items_P].tolist(),
        "places": np.rint(scaled_P2).astype(np.int64).ravel().tolist() if len(view.items_P) else [],
    }


def rounded(values: NDArray[Any], digits: int = 4) -> list[float | int | None]:
    """Values to `digits` significant digits, whole ones without a point, NaN and infinity as null."""
    return [_short(value, digits) for value in np.asarray(values, dtype=np.float64).ravel().tolist()]


def _short(value: float, digits: int) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    if not math.isfinite(short):  # rounded up beyond the largest float
        return value
    return int(short) if short.is_integer() and abs(short) < 2**53 else short
