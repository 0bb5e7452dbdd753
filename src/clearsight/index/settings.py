"""What an index is made with, as `index.json` says it: read and written whole, by format number."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clearsight.errors import DataError, UsageError
from clearsight.files import to_json, write_atomic

FILE = "index.json"
FORMAT = 1

Embed: TypeAlias = Literal["auto", "image", "text", "both"]
RepairName: TypeAlias = Literal["auto", "none", "centred", "realign", "self_aligned", "chosen"]
EMBED: tuple[Embed, ...] = ("auto", "image", "text", "both")
REPAIRS: tuple[RepairName, ...] = ("auto", "none", "centred", "realign", "self_aligned", "chosen")


@dataclass(frozen=True)
class Settings:
    """What an index is made with; nothing of it changes the vectors of an index that is there.

    Attributes:
        model: as it was given; revision: changes with the weights.
        encoder: options of the encoder (prompt, pooling, layer, ...).
        vectors: facts of the encoder that change vectors, to be compared with those of another one.
        width: D of the raw vectors.
        address: of the store (`clearsight.store.open_store`); None: `items.lance` in the index's folder.
        items: the indexed folder or file, relative to the index's folder where that holds across a move.
        embed: what of an item with picture and text is embedded.
        repair: what was asked for; unlabelled: most images that are captioned for it.
        learn_queries: whether statistics of queries are kept.
        fitted_rows: items that were there when a repair was last fitted, or found not to be wanted; 0: never.
    """

    model: str
    revision: str
    width: int
    encoder: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None
    items: str | None = None
    embed: Embed = "auto"
    repair: RepairName = "auto"
    unlabelled: int = 500
    learn_queries: bool = False
    fitted_rows: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (("embed", self.embed, EMBED), ("repair", self.repair, REPAIRS)):
            if value not in allowed:
                raise UsageError(f"{name} is '{value}'.", where=name, do=f"Give {', '.join(allowed)}.")
        if self.unlabelled < 0:
            raise UsageError(f"unlabelled is {self.unlabelled}.", where="unlabelled", do="Give 0 or more.")

    def write(self, folder: Path) -> None:
        """Write `index.json`, whole or not at all. Raises DataError where the disk refuses."""
        try:
            write_atomic(folder / FILE, to_json({"format": FORMAT, **asdict(self)}))
        except OSError as fault:
            what = f"The index cannot be written ({fault.strerror})."
            raise DataError(what, where=str(folder), do="Check space and permissions.") from fault

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """What `write` wrote.

        Raises:
            DataError: there is no index, it is broken, or of another format.
        """
        place = folder / FILE
        try:
            facts = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError as fault:
            raise DataError(
                "There is no index here.", where=str(folder), do="Make one: clearsight index PHOTOS/."
            ) from fault
        except (OSError, ValueError) as fault:
            raise DataError(f"The index's description cannot be read ({fault}).", where=str(place)) from fault
        number = facts.pop("format", None) if isinstance(facts, dict) else None
        if number != FORMAT:
            raise _other_format(number, folder)
        known = {one.name for one in fields(cls)}
        try:
            return cls(**{name: value for name, value in facts.items() if name in known})
        except TypeError as fault:
            what = f"The index's description is incomplete ({fault})."
            raise DataError(what, where=str(place), do=_REBUILD) from fault

    def place_of_items(self, folder: Path) -> Path | None:
        """The indexed folder or file."""
        return None if self.items is None else Path(os.path.normpath(folder / self.items))


_REBUILD = "Build it again: clearsight index PHOTOS/ --overwrite."


def _other_format(number: Any, folder: Path) -> DataError:
    if isinstance(number, int) and number > FORMAT:
        what = f"The index is of format {number}, written by a newer version; this one reads {FORMAT}."
        return DataError(what, where=str(folder), do="Update: pip install --upgrade clearsight.")
    what = f"The index is of format {number}; this version reads {FORMAT}."
    return DataError(what, where=str(folder), do=_REBUILD)


def place_said(items: Path, folder: Path) -> str:
    """How the index remembers where its items lie: relative where one lies in the other (they move together),
    else absolute."""
    items, folder = Path(os.path.abspath(items)), Path(os.path.abspath(folder))
    near = folder.is_relative_to(items) or items.is_relative_to(folder.parent)
    return os.path.relpath(items, folder) if near else str(items)
