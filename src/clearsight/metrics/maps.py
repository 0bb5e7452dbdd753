"""Maps of vectors on a plane: PaCMAP by default, UMAP with the paper's settings, or principal components.

N rows, D width. Rows are compared by direction, as retrieval compares them: each is scaled to length 1, so
that Euclidean neighbours are cosine neighbours. `pacmap` and `umap-learn` are optional (the extra `maps`);
where the one asked for is not installed, or the rows are too few for it, principal components stand in and
`note` says so.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError

Floats: TypeAlias = NDArray[np.float32]

PACMAP_NEIGHBOURS: Final = 10
UMAP_NEIGHBOURS: Final = 64
"""Figure 4 of From Generator to Embedder: UMAP with 64 neighbours and a least distance of 0.5."""
UMAP_LEAST_DISTANCE: Final = 0.5
INSTALL: Final = 'pip install "clearsight[maps]"'


@dataclass(frozen=True, slots=True)
class PlaneMap:
    """Rows on a plane.

    Attributes:
        points_N2: places, centred; the longer axis lies across. Distances have no unit.
        method: what placed them, with its settings.
        note: why another method than the one asked for, or how much a projection shows; may be empty.
    """

    points_N2: Floats
    method: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Method:
    """One row of the table of methods: the package it needs, the fewest rows it works on, and the work."""

    label: str
    package: str
    fewest: int
    place: Callable[[Floats, int], NDArray[Any]]


def embed_map(rows_ND: NDArray[Any], *, method: str = "pacmap", seed: int = 0) -> PlaneMap:
    """Place rows on a plane so that near rows stay near.

    Args:
        rows_ND: at least two rows; those of all modalities together, so that a gap between them shows.
        method: "pacmap" (Wang et al. 2021, 10 neighbours), "umap" (McInnes et al. 2018, with the settings of
            From Generator to Embedder) or "pca".
        seed: of everything random; the same seed gives the same map on the same machine.

    Raises:
        UsageError: no such method.
        DataError: fewer than two rows, or a value that is not finite.
    """
    if method != "pca" and method not in _METHODS:
        raise UsageError(f"Unknown map '{method}'.", do=f"There are: {', '.join(('pca', *_METHODS))}.")
    unit_ND = _directions(rows_ND)
    if method == "pca":
        return _principal(unit_ND, "")
    row = _METHODS[method]
    if len(unit_ND) < row.fewest:
        return _principal(
            unit_ND, f"{len(unit_ND)} points are too few for {row.label}, which needs {row.fewest}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # umap misses TensorFlow, which we don't use
            importlib.import_module(row.package)
    except ModuleNotFoundError as error:
        if error.name != row.package:  # installed, but broken: that is not ours to hide
            raise
        return _principal(unit_ND, f"{row.label} is not installed ({INSTALL}).")
    with _own_randomness():
        placed_N2 = row.place(unit_ND, seed)
    return PlaneMap(_level(placed_N2), row.label)


def _principal(unit_ND: Floats, why: str) -> PlaneMap:
    """The two directions of most variance, and the share of it that they show."""
    centred_ND = unit_ND.astype(np.float64) - unit_ND.mean(0, dtype=np.float64)
    _, vectors_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    plane_D2 = vectors_DD[:, ::-1][:, :2]
    points_N2 = centred_ND @ plane_D2
    if points_N2.shape[1] < 2:  # one dimension: a line
        points_N2 = np.column_stack([points_N2, np.zeros(len(points_N2))])
    total = float((centred_ND**2).sum())
    shown = f"These two directions hold {(points_N2**2).sum() / total:.0%} of the variance." if total else ""
    stands_in = f"{why} Principal components stand in. {shown}" if why else shown
    return PlaneMap(_level(points_N2), "principal components", stands_in.strip())


def _pacmap(unit_ND: Floats, seed: int) -> NDArray[Any]:
    import pacmap

    log = logging.getLogger("pacmap")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns that the seed we gave is set
    try:
        reducer = pacmap.PaCMAP(n_components=2, n_neighbors=PACMAP_NEIGHBOURS, random_state=seed)
        return np.asarray(reducer.fit_transform(unit_ND))
    finally:
        log.setLevel(before)


def _umap(unit_ND: Floats, seed: int) -> NDArray[Any]:
    import umap

    reducer = umap.UMAP(
        n_neighbors=UMAP_NEIGHBOURS,
        min_dist=UMAP_LEAST_DISTANCE,
        random_state=seed,
        n_jobs=1,  # what a seed forces anyway; saying so spares its warning
    )
    return np.asarray(reducer.fit_transform(unit_ND))


_METHODS: Final = {
    # PaCMAP draws 10 neighbours, 5 mid-near and 20 further points for each row, UMAP 64 neighbours.
    "pacmap": _Method(f"PaCMAP, {PACMAP_NEIGHBOURS} neighbours", "pacmap", 40, _pacmap),
    "umap": _Method(
        f"UMAP, {UMAP_NEIGHBOURS} neighbours, least distance {UMAP_LEAST_DISTANCE}",
        "umap",
        2 * UMAP_NEIGHBOURS,
        _umap,
    ),
}


def _directions(rows_ND: NDArray[Any]) -> Floats:
    rows = np.asarray(rows_ND)
    if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] == 0:
        raise DataError(f"Rows of shape {rows.shape} have no map.", do="Give at least two rows.")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise DataError("A row holds a value that is not finite.", where=f"row {bad}")
    rows = rows.astype(np.float64)
    length_N1 = np.linalg.norm(rows, axis=1, keepdims=True)
    unit_ND: Floats = np.divide(rows, length_N1, out=rows, where=length_N1 > 0).astype(np.float32)
    return unit_ND


def _level(points_N2: NDArray[Any]) -> Floats:
    """Turned so that the longer axis lies across, and mirrored into one of the four equivalent forms.

    A map's orientation means nothing; without this a second run may show the same map upside down.
    """
    centred_N2 = np.asarray(points_N2, dtype=np.float64)
    centred_N2 = centred_N2 - centred_N2.mean(0)
    _, axes_22 = np.linalg.eigh(centred_N2.T @ centred_N2)
    turned_N2 = centred_N2 @ axes_22[:, ::-1]
    sign_2 = np.where((turned_N2**3).sum(0) < 0, -1.0, 1.0)
    return np.asarray(turned_N2 * sign_2, dtype=np.float32)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Both packages seed numpy's global generator; the caller's is as it was afterwards."""
    state = np.random.get_state()  # noqa: NPY002 - theirs, not ours
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
