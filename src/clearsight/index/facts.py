"""What an index is, for people: rows, model, repair and what it did to the space, store, drift."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.files import to_json, write_atomic
from clearsight.index.fitted import Fitted
from clearsight.index.metadata import kinds_of
from clearsight.index.searching import grown, query_drift
from clearsight.index.statistics import Drift, Spread, drift, moments_of, raw_rows

if TYPE_CHECKING:
    from clearsight.index.index import Index
    from clearsight.store.door import View

FILE = "facts.json"
SAMPLE = 2_000
LEAST = 10
"""Rows of a modality below which nothing is said of how it lies to the other."""
MOST_FOR_DRIFT = 20_000


def facts(index: Index) -> dict[str, Any]:
    """See `Index.info`; what takes time is measured once a version and kept."""
    view = index.store.view()
    fitted = index.fitted(view.repair)
    measured = index.cached("facts", view.version, lambda: _measured(view, fitted, index.folder))
    of_queries = query_drift(index, fitted)
    settings = index.settings
    items = settings.place_of_items(index.folder)
    notes = [
        *grown(fitted, view.rows),
        *measured["notes"],
        *(one.sentence() for one in of_queries if one.moved),
    ]
    return {
        "index": str(index.folder),
        "items": None if items is None else str(items),
        "rows": view.rows,
        "modalities": measured["modalities"],
        "metadata": kinds_of(view.fields),
        "model": settings.model,
        "revision": settings.revision,
        **{name: settings.encoder.get(name) for name in ("prompt", "pooling", "layer")},
        "embed": settings.embed,
        "width": settings.width,
        "repair": view.repair,
        "repaired": {
            "asked": settings.repair,
            "in_force": fitted.facts.get("repair", "none") if view.repair else "none",
            "fitted_on": {name: fitted.facts.get(name) for name in ("rows", "pairs", "held_out")},
        },
        "geometry": measured["geometry"],
        "drift": [*measured["drift"], *(_told(one) for one in of_queries)],
        "queries": {} if index.queries is None else index.queries.counts(),
        "learn_queries": settings.learn_queries,
        "version": view.version,
        "store": dict(view.facts()),
        "notes": notes,
    }


def known_notes(folder: Path, version: int) -> tuple[str, ...]:
    """What was measured of this version, if it was."""
    measured = _read(folder, version)
    return () if measured is None else tuple(measured["notes"])


def _measured(view: View, fitted: Fitted, folder: Path) -> dict[str, Any]:
    known = _read(folder, view.version)
    if known is not None:
        return known
    modalities = Counter[str]()
    for batch in view.read(["modality"]):
        modalities.update(batch.column("modality").to_pylist())
    ids = _sampled(view, MOST_FOR_DRIFT)
    moved = [
        drift(fitted.spreads[name], Spread.of(now), side="candidate", modality=modality)
        for modality, now in (moments_of(view, ids=ids) if fitted.spreads else {}).items()
        if (name := f"candidate {modality}") in fitted.spreads
        and now.count >= 2
        and fitted.spreads[name].count >= 2
    ]
    measured = {
        "version": view.version,
        "modalities": dict(modalities),
        "geometry": _geometry(view),
        "drift": [_told(one) for one in moved],
        "notes": [one.sentence() for one in moved if one.moved],
    }
    with suppress(OSError):  # measured again next time
        write_atomic(folder / FILE, to_json(measured))
    return measured


def _read(folder: Path, version: int) -> dict[str, Any] | None:
    try:
        known = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and known.get("version") == version else None


def _told(one: Drift) -> dict[str, Any]:
    return asdict(one) | {"moved": one.moved}


def _sampled(view: View, most: int) -> list[str] | None:
    """Ids of so many rows, drawn evenly; None for all."""
    if view.rows <= most:
        return None
    ids = sorted(name for batch in view.read(["id"]) for name in batch.column("id").to_pylist())
    chosen = np.random.default_rng(0).choice(len(ids), most, replace=False)
    return [ids[n] for n in np.sort(chosen).tolist()]


def _geometry(view: View) -> dict[str, dict[str, float]]:
    """Figures of a sample of rows in both spaces; between pictures and texts where there are both."""
    from clearsight.metrics import geometry

    ids = _sampled(view, SAMPLE)
    shown: dict[str, dict[str, float]] = {}
    for space, column in (("before", "raw"), ("after", "vector")):
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for _, modality_N, rows_ND in raw_rows(view, column, ids=ids):
            for modality in np.unique(modality_N).tolist():
                parts.setdefault(modality, []).append(rows_ND[modality_N == modality])
        sides = sorted((np.concatenate(part) for part in parts.values()), key=len)
        if sum(len(side) for side in sides) < 2:
            return {}
        both = len(sides) > 1 and len(sides[-2]) >= LEAST
        shown[space] = geometry(sides[-2], sides[-1]) if both else geometry(sides[-1])
    return shown
