"""A fitted repair as an index holds it: one map a modality, and where each side is centred; on disk.

Legend of shapes: N rows, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.files import write_atomic
from clearsight.index.statistics import Spread
from clearsight.repair import PerGroup, load_repair
from clearsight.repair.affine import Affine, unit_rows
from clearsight.repair.files import FORMAT
from clearsight.types import Role

INSTEAD = {
    "text": ("text", "image+text", "image"),
    "image": ("image", "image+text", "text"),
    "image+text": ("image+text", "image", "text"),
}
"""Whose map a modality takes, the first that was fitted."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What turns raw vectors into repaired ones of length 1.

    Attributes:
        name: the number under which the store knows it; "" is no repair.
        repair: maps by modality; None where rows are only brought to length 1.
        centres: "side modality" -> E: what is subtracted after the map, where a side is not centred where the
            map was fitted.
        facts: what it was fitted on, as JSON.
        spreads: "side modality" -> where the vectors lay that it was fitted on and centred by.
    """

    name: str = ""
    repair: PerGroup | None = None
    centres: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    def __call__(self, rows_ND: NDArray[np.float32], modality: str, side: Role) -> NDArray[np.float32]:
        """Rows of one modality (N, D) to (N, E), of length 1; a row in the centre becomes zero."""
        if self.repair is None:
            return _unit(rows_ND)
        group = self.group(modality)
        out_NE: NDArray[np.float32] = self.repair.repairs_[group].transform(rows_ND)
        centre_E = self.centres.get(f"{side} {modality}")
        if centre_E is not None:
            out_NE = out_NE - centre_E
        return _unit(out_NE)

    def rows(
        self, rows_ND: NDArray[np.float32], modality_N: NDArray[Any], side: Role = "candidate"
    ) -> NDArray[np.float32]:
        """As a call, for rows of several modalities."""
        out_NE: NDArray[np.float32] | None = None
        for modality in np.unique(modality_N):
            of = modality_N == modality
            part = self(rows_ND[of], str(modality), side)
            if out_NE is None:
                out_NE = np.empty((len(rows_ND), part.shape[1]), np.float32)
            out_NE[of] = part
        return rows_ND if out_NE is None else out_NE

    def group(self, modality: str) -> str:
        """Whose map the modality takes."""
        assert self.repair is not None
        return next(one for one in (*INSTEAD[modality], *self.repair.repairs_) if one in self.repair.repairs_)

    def stands_in(self, modality: str) -> str | None:
        """The modality whose statistics this one borrows; None where it has its own."""
        if self.repair is None or modality in self.repair.repairs_:
            return None
        return self.group(modality)

    def affine(self, modality: str, side: Role) -> Affine | None:
        """The whole map of rows of length 1, centre and all, before the last norm; None for no repair."""
        if self.repair is None:
            return None
        whole = self.repair.repairs_[self.group(modality)].affine_
        centre_E = self.centres.get(f"{side} {modality}")
        return whole if centre_E is None else Affine(whole.matrix_DE, whole.offset_E - centre_E)

    def save(self, folder: Path) -> None:
        """Write `NAME.safetensors`, which `load_repair` reads too. Raises DataError: the disk refuses."""
        from safetensors.numpy import save

        if self.repair is None:
            return
        arrays: dict[str, NDArray[Any]] = {}
        repair = self.repair.pack(arrays)
        arrays |= {f"centre {name}": value for name, value in self.centres.items()}
        arrays |= {f"mean {name}": spread.mean_D for name, spread in self.spreads.items()}
        spreads = {name: [one.count, one.trace, one.rank] for name, one in self.spreads.items()}
        metadata = {
            "clearsight_repair": json.dumps({"format": FORMAT, **repair}),
            "clearsight_index": json.dumps({"facts": self.facts, "spreads": spreads}),
        }
        data = save({name: np.ascontiguousarray(one) for name, one in arrays.items()}, metadata=metadata)
        try:
            write_atomic(folder / f"{self.name}.safetensors", data)
        except OSError as fault:
            what = f"The repair cannot be written ({fault.strerror})."
            raise DataError(what, where=str(folder), do="Check space and permissions.") from fault

    @classmethod
    def load(cls, folder: Path, name: str) -> Fitted:
        """The repair of that name. Raises DataError where it is missing or broken."""
        from safetensors import safe_open

        if not name:
            return cls()
        file = folder / f"{name}.safetensors"
        repair = load_repair(file)
        with safe_open(file, framework="numpy") as opened:
            said = json.loads((opened.metadata() or {}).get("clearsight_index", "{}"))
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        centres = {key[7:]: value for key, value in arrays.items() if key.startswith("centre ")}
        spreads = {
            key: Spread(int(count), arrays[f"mean {key}"], trace, rank)
            for key, (count, trace, rank) in said.get("spreads", {}).items()
        }
        return cls(name, repair, centres, said.get("facts", {}), spreads)


def _unit(rows_NE: NDArray[Any]) -> NDArray[np.float32]:
    unit_NE: NDArray[np.float32] = unit_rows(np.asarray(rows_NE, np.float32))
    return unit_NE
