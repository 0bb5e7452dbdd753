"""Running statistics of real queries: how many, where they lie, how they spread. No query is kept.

Legend of shapes: N rows of a batch, D width of raw vectors.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.files import write_atomic
from clearsight.index.statistics import Spread
from clearsight.moments import Moments
from clearsight.repair.affine import unit_rows
from clearsight.store.lock import writer_lock

FOLDER = "queries"
FILE = "queries.safetensors"
EVERY = 64
"""Queries after which the file is brought up to date; a kill loses at most so many."""
PRIOR = 8
"""The stored mean counts as so many queries. Measured on the shipped model: with it, four queries of the
style that was expected do no harm, and sixteen of another style bring most of what 128 do."""


class QueryStatistics:
    """Count, mean and scatter of unit query vectors by modality, in a file that processes share.

    Args:
        folder: of the index.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder / FOLDER, folder / FOLDER / FILE
        self._lock = threading.Lock()
        self._new: dict[str, Moments] = {}
        self._kept = _read(self._file)

    def add(self, rows_ND: NDArray[np.float32], modality: str) -> None:
        """Count raw query vectors; none of them is kept."""
        with self._lock:
            self._new.setdefault(modality, Moments()).update(unit_rows(rows_ND))
            due = sum(one.count for one in self._new.values()) >= EVERY
        if due:
            self.flush()

    def moments(self) -> dict[str, Moments]:
        """What is known by now, by modality."""
        with self._lock:
            return _merged(self._kept, self._new)

    def counts(self) -> dict[str, int]:
        return {name: int(one.count) for name, one in self.moments().items()}

    def spreads(self) -> dict[str, Spread]:
        """Modality -> where its queries lie, for those with two or more."""
        return {name: Spread.of(one) for name, one in self.moments().items() if one.count >= 2}

    def mean_D(self, modality: str, stored_D: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of the queries, drawn to the stored one as if that were `PRIOR` queries."""
        with self._lock:
            parts = [kept[modality] for kept in (self._kept, self._new) if modality in kept]
            total = sum((one.count * one.mean_D for one in parts), PRIOR * stored_D)
            return np.asarray(total / (PRIOR + sum(one.count for one in parts)))

    def flush(self) -> None:
        """Add what is new to the file; what other processes have added meanwhile stays.

        Raises:
            DataError: the file cannot be read or written.
        """
        with self._lock:
            if not self._new:
                return
            with writer_lock(self._folder):
                kept = _merged(_read(self._file), self._new)
                _write(self._file, kept)
            self._kept, self._new = kept, {}

    def forget(self) -> None:
        """Begin anew."""
        with self._lock, writer_lock(self._folder):
            self._file.unlink(missing_ok=True)
            self._kept, self._new = {}, {}


def _merged(*parts: dict[str, Moments]) -> dict[str, Moments]:
    whole: dict[str, Moments] = {}
    for part in parts:
        for name, one in part.items():
            whole.setdefault(name, Moments()).merge(one)
    return whole


def _read(file: Path) -> dict[str, Moments]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(file.read_bytes())
        names = {name.partition("/")[0] for name in arrays}
        return {
            name: Moments.of(
                float(arrays[f"{name}/count"][0]),
                arrays[f"{name}/mean"],
                arrays[f"{name}/scatter"],
                arrays[f"{name}/third"],
                float(arrays[f"{name}/count"][1]),
            )
            for name in names
        }
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError, KeyError) as fault:
        what = f"The statistics of queries cannot be read ({fault})."
        raise DataError(what, where=str(file), do="Delete the file: they begin anew.") from fault


def _write(file: Path, kept: dict[str, Moments]) -> None:
    from safetensors.numpy import save

    arrays: dict[str, NDArray[np.float64]] = {}
    for name, one in kept.items():
        arrays[f"{name}/count"] = np.array([one.count, one.fourth])
        arrays[f"{name}/mean"] = one.mean_D
        scatter_DD = one.covariance_DD * (one.count - 1) if one.count >= 2 else np.zeros((one.width,) * 2)
        arrays[f"{name}/scatter"] = scatter_DD
        arrays[f"{name}/third"] = one.third_D
    try:
        write_atomic(file, save({name: np.ascontiguousarray(one) for name, one in arrays.items()}))
    except OSError as fault:
        what = f"The statistics of queries cannot be written ({fault.strerror})."
        raise DataError(what, where=str(file), do="Check space and permissions.") from fault
