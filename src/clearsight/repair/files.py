"""Repairs on disk: one safetensors file with a JSON description; no pickle. The only I/O of this room."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clearsight.errors import DataError
from clearsight.files import write_atomic
from clearsight.repair.base import Repair
from clearsight.repair.groups import PerGroup
from clearsight.repair.state import Arrays, pack, unpack

FILE = "repair.safetensors"
FORMAT = 1


def save_repair(path: str | os.PathLike[str], repair: Repair | PerGroup) -> Path:
    """Write a fitted repair; a killed write leaves no half file. Returns the file written.

    Args:
        path: a file ending in .safetensors, or a folder that gets `repair.safetensors`.

    Raises:
        NotFittedError: the repair is not fitted.
    """
    file = _file(path)
    arrays: Arrays = {}
    facts = repair.pack(arrays) if isinstance(repair, PerGroup) else pack(repair, arrays)
    metadata = {"clearsight_repair": json.dumps({"format": FORMAT, **facts})}
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=metadata)
    write_atomic(file, data)
    return file


def load_repair(path: str | os.PathLike[str]) -> Any:
    """Read what `save_repair` wrote: a `PerGroup` or a single repair that transforms exactly as before.

    Raises:
        DataError: no such file, or not a repair.
        UsageError: it names a repair that is not installed here.
    """
    file = _file(path)
    if not file.is_file():
        raise DataError("There is no repair here.", where=str(file), do="Give the file save_repair wrote.")
    try:
        with safe_open(file, framework="numpy") as opened:
            facts = json.loads((opened.metadata() or {}).get("clearsight_repair", "null"))
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise DataError(
            f"This file cannot be read: {error}.", where=str(file), do="Save the repair again."
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DataError(
            "This file holds no repair of a known format.", where=str(file), do="Give a file of save_repair."
        )
    return PerGroup.unpack(facts, arrays) if "groups" in facts else unpack(facts, arrays)


def _file(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    return given if given.suffix == ".safetensors" else given / FILE
