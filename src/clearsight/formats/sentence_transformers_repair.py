"""A fitted repair as the layers that a sentence-transformers folder can hold.

What is affine between two norms is one layer: matrices are multiplied in float64, and written in float32.

Legend of shapes: D width in, E width out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from clearsight.errors import DataError, UsageError
from clearsight.repair import Affine, PerGroup, Repair, SelfAlign
from clearsight.repair.affine import RowMap
from clearsight.types import MODALITIES, ROLES, Modality, Role


@dataclass(frozen=True, eq=False)
class Layer:
    """One affine map, of rows brought to length 1 first where `normalize` is on."""

    normalize: bool
    affine: Affine


Layers: TypeAlias = tuple[Layer, ...]
"""In order; rows are brought to length 1 after the last one, whatever the layers."""


@dataclass(frozen=True, eq=False)
class Heads:
    """What is done with pooled rows, by what it depends on.

    Attributes:
        by: "joint" (one key, "joint"), "role" (query, candidate) or "modality".
        layers: key -> layers.
    """

    by: str
    layers: Mapping[str, Layers]

    @property
    def takes(self) -> int | None:
        """Width of the rows that are repaired; None where nothing is done with them."""
        first = next(iter(self.layers.values()))
        return first[0].affine.matrix_DE.shape[0] if first else None

    @property
    def width(self) -> int | None:
        """Width of the repaired rows; None where nothing changes it."""
        last = next(iter(self.layers.values()))
        return last[-1].affine.matrix_DE.shape[1] if last else None


JOINT = "joint"
NOTHING = Heads(JOINT, {JOINT: ()})


def heads_of(
    repair: PerGroup | Repair | None, *, queries: Modality | None = None, candidates: Modality | None = None
) -> Heads:
    """The layers of a repair.

    Args:
        queries, candidates: the only modality of a side, where it has one: a repair by modality is then one
            by role.

    Raises:
        DataError: the repair was not fitted on a group that is needed.
        UsageError: the repair is of no known make-up.
    """
    if repair is None:
        return NOTHING
    groups, by = _groups(repair)
    if by == "modality" and queries is not None and candidates is not None:
        wanted: Mapping[Role, Modality] = {"query": queries, "candidate": candidates}
        return _told_apart("role", {role: _group(groups, wanted[role]) for role in ROLES})
    if by == "side":
        return _told_apart("role", {role: _group(groups, role) for role in ROLES})
    if by == "modality":
        return _told_apart("modality", {name: groups[name] for name in MODALITIES if name in groups})
    return Heads(JOINT, {JOINT: next(iter(groups.values()))})


def _groups(repair: PerGroup | Repair) -> tuple[dict[str, Layers], str]:
    if isinstance(repair, PerGroup):
        if isinstance(repair.estimator, SelfAlign):
            return _groups(repair.estimator)
        return {group: _layers(one) for group, one in repair.repairs_.items()}, repair.by
    if isinstance(repair, SelfAlign):
        maps = repair.maps()
        image, text = (_merged([maps[name]]) for name in ("image", "text"))
        return {"text": text, "image": image, "image+text": image}, "modality"
    return {JOINT: _layers(repair)}, JOINT


def _group(groups: Mapping[str, Layers], name: str) -> Layers:
    if name not in groups:
        raise DataError(
            f"This repair holds no statistics for {name}.",
            do=f"Fit it on such rows too; it was fitted on: {', '.join(groups)}.",
        )
    return groups[name]


def _layers(repair: Repair) -> Layers:
    return _merged(list(_row_maps(repair)))


def _row_maps(repair: Repair) -> list[RowMap]:
    parts = repair.parts()
    if parts:
        return [row_map for part in parts for row_map in _row_maps(part)]
    maps = list(repair.maps().values())
    if len(maps) != 1:
        raise UsageError(
            f"A repair '{type(repair).__name__}' with {len(maps)} maps cannot be exported.",
            do="Export one whose `maps()` holds one map, or whose `parts()` do.",
        )
    return maps


def _merged(maps: Sequence[RowMap]) -> Layers:
    """A map that takes no norm first is one with the map before it."""
    layers: list[Layer] = []
    for one in maps:
        if layers and not one.normalize:
            layers[-1] = Layer(layers[-1].normalize, layers[-1].affine.compose(one.affine))
        else:
            layers.append(Layer(one.normalize, one.affine))
    return tuple(layers)


def _told_apart(by: str, layers: Mapping[str, Layers]) -> Heads:
    """The heads; joint where all keys have the very same layers."""
    first, *others = layers.values()
    if all(_same(first, other) for other in others):
        return Heads(JOINT, {JOINT: first})
    return Heads(by, dict(layers))


def _same(left: Layers, right: Layers) -> bool:
    def equal(one: Layer, other: Layer) -> bool:
        pairs: list[tuple[Any, Any]] = [
            (one.affine.matrix_DE, other.affine.matrix_DE),
            (one.affine.offset_E, other.affine.offset_E),
        ]
        return one.normalize == other.normalize and all(
            a.shape == b.shape and bool((a == b).all()) for a, b in pairs
        )

    return len(left) == len(right) and all(map(equal, left, right))
