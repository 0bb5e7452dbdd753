"""What a new repair's vectors must be before they replace the old ones.

Legend of shapes: N rows, E width.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError


def repair_name(name: str, current: str) -> str:
    """`name`, if a repair may be called so.

    Raises:
        UsageError: it is in force already, or holds more than 40 letters, digits, - and _.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,40}", name):
        raise UsageError(f"'{name}' is no name for a repair.", do="Use at most 40 of a-z, 0-9, - and _.")
    if name == current:
        raise UsageError(f"The repair '{name}' is in force already.", do="Give the new one another name.")
    return name


def new_vectors(
    vectors: Callable[[pa.RecordBatch], NDArray[np.float32]], batch: pa.RecordBatch
) -> NDArray[np.float32]:
    """The vectors of a batch.

    Raises:
        DataError: not one finite row for each of the batch's.
    """
    rows_NE = np.asarray(vectors(batch), dtype=np.float32)
    if rows_NE.ndim != 2 or len(rows_NE) != len(batch) or not rows_NE.shape[1]:
        raise DataError(
            f"A repair gave vectors of shape {rows_NE.shape} for {len(batch)} rows.",
            do="Give one vector for each row.",
        )
    bad = np.flatnonzero(~np.isfinite(rows_NE).all(axis=1))
    if len(bad):
        names = batch.column("id").take(pa.array(bad[:5])).to_pylist()
        raise DataError("A repair gave NaN or infinity.", where=", ".join(names), do="Fit it again.")
    return rows_NE
