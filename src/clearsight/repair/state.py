"""A fitted repair as plain facts and named arrays, and back: nothing that could run code.

Legend of shapes: D width in, E width out, R directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from clearsight.errors import DataError
from clearsight.registry import Registry
from clearsight.repair.affine import Dense, Directional, Linear, RowMap
from clearsight.repair.base import Repair
from clearsight.repair.chain import Chain
from clearsight.repair.self_align import FittedSide, SelfAlign
from clearsight.repair.subspace import RemoveSubspace, RemoveTopComponents
from clearsight.repair.whitening import Centre, ShrinkageZCA

Arrays = dict[str, NDArray[Any]]
Facts = dict[str, Any]

repairs: Registry[type[Repair]] = Registry("repair")
"""The repairs a file may name; a plug-in adds its class under the class's own name."""
for _built_in in (Centre, ShrinkageZCA, RemoveSubspace, RemoveTopComponents, SelfAlign, Chain, FittedSide):
    repairs.add(_built_in.__name__, _built_in)


def pack(repair: Repair, arrays: Arrays, prefix: str = "") -> Facts:
    """Facts of a fitted repair that JSON can hold; its arrays are added to `arrays` under `prefix`."""
    check_is_fitted(repair, "n_features_in_")
    facts = pack_settings(repair, arrays, prefix)
    learned: Facts = {}
    for name in ("n_features_in_", *repair.learned):
        value = getattr(repair, name)
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}{name}"] = value
        else:
            learned[name] = value
    facts["learned"] = learned
    facts["maps"] = {
        name: _pack_map(row_map, arrays, f"{prefix}{name}.") for name, row_map in repair.maps().items()
    }
    facts["parts"] = [pack(part, arrays, f"{prefix}{place}.") for place, part in enumerate(repair.parts())]
    return facts


def unpack(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Repair:
    """The repair that `pack` took apart.

    Raises:
        UsageError: a repair of a name that is not registered.
        DataError: something is missing.
    """
    try:
        repair = unpack_settings(facts, arrays, prefix)
        learned = {
            name: facts["learned"][name] if name in facts["learned"] else arrays[f"{prefix}{name}"]
            for name in ("n_features_in_", *repair.learned)
        }
        maps = {name: _unpack_map(one, arrays, f"{prefix}{name}.") for name, one in facts["maps"].items()}
        parts = [unpack(part, arrays, f"{prefix}{place}.") for place, part in enumerate(facts["parts"])]
        repair.restore(learned, maps, parts)
    except (KeyError, TypeError) as error:
        raise DataError(f"The repair's description is incomplete: {error}.", do="Save it again.") from error
    return repair


def digest(repair: Repair) -> str:
    """SHA-256 over everything a fitted repair has learned: 16 hexadecimal digits."""
    arrays: Arrays = {}
    facts = pack(repair, arrays)
    total = hashlib.sha256(repr(facts).encode())
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()[:16]


def pack_settings(repair: Repair, arrays: Arrays, prefix: str) -> Facts:
    """The name and the settings of a repair, fitted or not."""
    settings: Facts = {}
    for name, value in repair.get_params(deep=False).items():
        if value is None or isinstance(value, bool | int | float | str):
            settings[name] = value
        elif name == "steps":
            settings[name] = [
                pack_settings(step, arrays, f"{prefix}{name}{place}.") for place, step in enumerate(value)
            ]
        else:
            arrays[f"{prefix}{name}"] = np.asarray(value)
            settings[name] = {"array": name}
    return {"repair": type(repair).__name__, "settings": settings}


def unpack_settings(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], prefix: str) -> Repair:
    """An unfitted repair from what `pack_settings` gave. Raises UsageError for a name not registered."""
    settings = dict(facts["settings"])
    for name, value in settings.items():
        if isinstance(value, dict):
            settings[name] = arrays[f"{prefix}{value['array']}"]
        elif isinstance(value, list):
            settings[name] = [
                unpack_settings(step, arrays, f"{prefix}{name}{place}.") for place, step in enumerate(value)
            ]
    return repairs.get(facts["repair"])(**settings)


def _pack_map(row_map: RowMap, arrays: Arrays, prefix: str) -> Facts:
    arrays[f"{prefix}mean_D"] = row_map.mean_D
    linear = row_map.linear
    if isinstance(linear, Directional):
        arrays[f"{prefix}basis_DR"], arrays[f"{prefix}gain_R"] = linear.basis_DR, linear.gain_R
        return {"normalize": row_map.normalize, "rest": linear.rest}
    arrays[f"{prefix}matrix_DE"] = linear.dense_DE
    return {"normalize": row_map.normalize}


def _unpack_map(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], prefix: str) -> RowMap:
    if "rest" in facts:
        linear: Linear = Directional(
            arrays[f"{prefix}basis_DR"], arrays[f"{prefix}gain_R"], float(facts["rest"])
        )
    else:
        linear = Dense(arrays[f"{prefix}matrix_DE"])
    return RowMap(bool(facts["normalize"]), arrays[f"{prefix}mean_D"], linear)
