"""Token-level activations on disk: files of bounded size, read through memory maps.

Legend of shapes: N rows (tokens), D width, K chosen rows, F shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clearsight.errors import DataError
from clearsight.harvest.config import DTYPES, TOKEN_TYPES, read_manifest, type_codes
from clearsight.types import MODALITIES, Modality

METADATA = "clearsight"
"""The one metadata entry of a shard: JSON. (Several entries would be written in no fixed order.)"""


@dataclass(frozen=True, eq=False)
class Shard:
    """One file; a part of the items ends with the shard that says `last`.

    Attributes:
        number: place among the shards, from 0.
        part: which part of the items its rows come from.
        last: whether the part ends with it.
        rows: N.
        skipped: ids of the part's items that gave no rows -> why (in the part's last shard).
    """

    path: Path
    number: int
    part: int
    last: bool
    rows: int
    skipped: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, number: int, *, width: int, dtype: torch.dtype) -> Shard:
        """The shard at `path`, checked for being whole.

        Raises:
            DataError: missing, truncated, or not of this harvest.
        """
        try:
            with safe_open(str(path), "pt") as file:
                said = json.loads((file.metadata() or {})[METADATA])
                states = file.get_slice("states")
                shape, kind = states.get_shape(), states.get_dtype()
        except FileNotFoundError as error:
            raise DataError(
                "A shard is missing.", where=str(path), do="Put it back, or harvest again."
            ) from error
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(
                f"The shard is truncated or no shard ({error}).",
                where=str(path),
                do="Delete it and all shards after it, and harvest again: it goes on from there.",
            ) from error
        if shape != [said["rows"], width] or kind != {torch.bfloat16: "BF16", torch.float32: "F32"}[dtype]:
            raise DataError(
                f"The shard holds {kind} rows of shape {shape}, the manifest says {dtype} of width {width}.",
                where=str(path),
                do="Put the harvest's own shard back, or harvest into another folder.",
            )
        return cls(path, number, said["part"], said["last"], said["rows"], said["skipped"])

    def __len__(self) -> int:
        return self.rows

    @cached_property
    def states_ND(self) -> Tensor:
        """The rows in their stored dtype: a memory map, of which only what is indexed is read."""
        return self._tensor("states")

    @cached_property
    def norm_N(self) -> NDArray[np.float32]:
        """L2 norm of each row, as the model gave it."""
        return self._tensor("norm").numpy()

    @cached_property
    def type_N(self) -> NDArray[np.uint8]:
        """Code of each token's type (`TOKEN_TYPES`)."""
        return self._tensor("type").numpy()

    @cached_property
    def modality_N(self) -> NDArray[np.uint8]:
        """Modality of each token's item, as its place in `clearsight.types.MODALITIES`."""
        return self._tensor("modality").numpy()

    @cached_property
    def item_N(self) -> NDArray[np.int64]:
        """Place of each token's item among the items as they were given."""
        return self._tensor("item").numpy()

    @cached_property
    def position_N(self) -> NDArray[np.int32]:
        """Place of each token in its item's sequence."""
        return self._tensor("position").numpy()

    def _tensor(self, name: str) -> Tensor:
        try:
            with safe_open(str(self.path), "pt") as file:
                return file.get_tensor(name)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"The shard cannot be read ({error}).", where=str(self.path), do="Harvest again."
            ) from error


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` lies; names sort by number."""
    return folder / f"shard-{number:06d}.safetensors"


def shard_numbers(folder: Path) -> list[int]:
    """Numbers of the shard files in a folder, ascending."""
    return sorted(int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.safetensors"))


def open_shards(folder: Path, manifest: Mapping[str, Any]) -> list[Shard]:
    """Every shard of a folder, from number 0 on.

    Raises:
        DataError: one is missing before the last, truncated, or not of this harvest.
    """
    width, dtype = int(manifest["width"]), DTYPES[manifest["config"]["dtype"]]
    last = max(shard_numbers(folder), default=-1)
    return [
        Shard.open(shard_path(folder, number), number, width=width, dtype=dtype) for number in range(last + 1)
    ]


class Shards:
    """A harvest on disk, or as much of it as there is.

    Attributes:
        folder: where.
        manifest: the encoder's origin, role, items' digest, config.
        complete: whether every part of the items is there.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], shards: list[Shard]) -> None:
        self.folder, self.manifest, self._shards = folder, manifest, shards
        self.complete = sum(shard.last for shard in shards) == manifest["parts"]
        self._ends_F = np.cumsum([len(shard) for shard in shards], dtype=np.int64)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, partial: bool = False) -> Shards:
        """The harvest in a folder.

        Args:
            partial: also open one that has not come to its end.

        Raises:
            DataError: no harvest, a truncated or missing shard, or an unfinished harvest (unless `partial`).
        """
        where = Path(folder)
        manifest = read_manifest(where)
        if manifest is None:
            raise DataError("The folder holds no harvest.", where=str(where), do="Harvest into it first.")
        shards = cls(where, manifest, open_shards(where, manifest))
        if not (shards.complete or partial):
            done = sum(shard.last for shard in shards)
            raise DataError(
                f"The harvest is not complete: {done} of {manifest['parts']} parts of the items are there.",
                where=str(where),
                do="Harvest again with the same arguments (it goes on), or open it with partial=True.",
            )
        return shards

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends_F[-1]) if len(self._ends_F) else 0

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    def shard(self, number: int) -> Shard | None:
        """Shard by number; None beyond the last."""
        return self._shards[number] if number < len(self._shards) else None

    @property
    def width(self) -> int:
        """D."""
        return int(self.manifest["width"])

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows on disk."""
        return DTYPES[self.manifest["config"]["dtype"]]

    @property
    def lengths_F(self) -> NDArray[np.int64]:
        """Rows of each shard."""
        return np.diff(self._ends_F, prepend=np.int64(0))

    @property
    def skipped(self) -> dict[str, str]:
        """Ids of items that gave no rows -> why (only where the encoder was asked to skip)."""
        return {name: why for shard in self._shards for name, why in shard.skipped.items()}

    @cached_property
    def type_N(self) -> NDArray[np.uint8]:
        """Code of each row's token type (`TOKEN_TYPES`)."""
        return self._column(lambda shard: shard.type_N, np.uint8)

    @cached_property
    def modality_N(self) -> NDArray[np.uint8]:
        """Modality of each row's item, as its place in `clearsight.types.MODALITIES`."""
        return self._column(lambda shard: shard.modality_N, np.uint8)

    @cached_property
    def item_N(self) -> NDArray[np.int64]:
        """Place of each row's item among the items as they were given."""
        return self._column(lambda shard: shard.item_N, np.int64)

    @cached_property
    def position_N(self) -> NDArray[np.int32]:
        """Place of each row in its item's sequence."""
        return self._column(lambda shard: shard.position_N, np.int32)

    @cached_property
    def norm_N(self) -> NDArray[np.float32]:
        """L2 norm of each row."""
        return self._column(lambda shard: shard.norm_N, np.float32)

    def rows(self, index_K: NDArray[Any] | slice) -> Tensor:
        """The rows at `index_K` (places or a mask), float32 (K, D), in that order; only they are read."""
        return self.stored(np.arange(len(self))[index_K]).float()

    def stored(self, index_K: NDArray[np.int64]) -> Tensor:
        """As `rows`, for places, in the stored dtype."""
        rows_KD = torch.empty(len(index_K), self.width, dtype=self.dtype)
        shard_K = np.searchsorted(self._ends_F, index_K, side="right")
        starts_F = self._ends_F - self.lengths_F
        for number in np.unique(shard_K):
            at = np.flatnonzero(shard_K == number)
            local = torch.from_numpy(index_K[at] - starts_F[number])
            rows_KD[torch.from_numpy(at)] = self._shards[number].states_ND[local]
        return rows_KD

    def rows_of(self, item: int) -> NDArray[np.int64]:
        """Places of an item's rows, in the order of its sequence; none where it was skipped."""
        order_N, sorted_N = self._by_item
        start, stop = np.searchsorted(sorted_N, [item, item + 1])
        return order_N[start:stop]

    def select(
        self,
        *,
        token_types: Collection[str] | str | None = None,
        norm_limit: float | None = None,
        modality: Modality | None = None,
    ) -> NDArray[np.int64]:
        """Places of the rows that pass: of these token types, within `norm_limit` x the median norm, of
        items of this modality."""
        chosen = Filter.of(self, token_types=token_types, norm_limit=norm_limit)
        keep_N = self._column(chosen.keeps, np.bool_)
        if modality is not None:
            keep_N &= self.modality_N == MODALITIES.index(modality)
        return np.flatnonzero(keep_N)

    @cached_property
    def _by_item(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order_N = np.argsort(self.item_N, kind="stable")
        return order_N, self.item_N[order_N]

    def _column(self, of: Callable[[Shard], NDArray[Any]], dtype: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *map(of, self._shards)])


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows a reader takes.

    Attributes:
        types: codes of token types; None takes all.
        max_norm: rows of a larger norm (attention sinks, outliers) are left out; infinity takes all.
    """

    types: frozenset[int] | None
    max_norm: float

    @classmethod
    def of(
        cls,
        source: Any,
        *,
        token_types: Collection[str] | str | None,
        norm_limit: float | None,
    ) -> Filter:
        """The filter `norm_limit` x the median norm, over the rows of these types in the first part.

        The first part is a random sample of the items, and the one thing known when a harvest has only
        begun: a filter made then and one made later are the same.

        Args:
            source: anything with `shard(number)` as `Shards` has it; it may wait for shards to arrive.
        """
        types = None if token_types is None else type_codes(token_types)
        filtered = cls(types, float("inf"))
        if norm_limit is None:
            return filtered
        norms: list[NDArray[np.float32]] = []
        number = 0
        while (shard := source.shard(number)) is not None:
            norms.append(shard.norm_N[filtered.keeps(shard)])
            if shard.last and any(len(part) for part in norms):
                break
            number += 1
        known = np.concatenate(norms) if norms else np.empty(0, np.float32)
        return cls(types, norm_limit * float(np.median(known)) if len(known) else float("inf"))

    def keeps(self, shard: Shard) -> NDArray[np.bool_]:
        """Which rows of a shard pass, (N,)."""
        keep_N = shard.norm_N <= self.max_norm
        if self.types is not None and len(self.types) < len(TOKEN_TYPES):
            keep_N = keep_N & np.isin(shard.type_N, sorted(self.types))
        return keep_N
