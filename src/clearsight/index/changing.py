"""What changes an index: a folder read again, items put in by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.data.tables import Faults, OnError
from clearsight.errors import DataError
from clearsight.index import model
from clearsight.index.folder import Collection, Entry
from clearsight.index.making import Done, Maker
from clearsight.index.metadata import converted, kinds_of, typed_columns
from clearsight.index.places import SOON
from clearsight.index.reading import Embedded
from clearsight.index.settings import place_said
from clearsight.progress import Progress, Silent
from clearsight.types import Item

if TYPE_CHECKING:
    from clearsight.index.index import Index
    from clearsight.index.scale import RayEngine
    from clearsight.store.door import View


@dataclass(frozen=True)
class Asked:
    """How a folder is to be read: further tables, names of their columns, what becomes of bad items."""

    captions: tuple[Path, ...]
    columns: Mapping[str, str] | None
    on_error: OnError


def synced(
    index: Index, items: Path | None, asked: Asked, progress: Progress, engine: RayEngine | None
) -> Done:
    """See `Index.sync`."""
    place = items if items is not None else index.settings.place_of_items(index.folder)
    if place is None:
        raise DataError(
            "The index knows of no folder.", where=str(index.folder), do="Give one, or add items."
        )
    faults = Faults(asked.on_error)
    with index.writing(wait=SOON):
        _remember(index, place)
        view = index.store.view()
        collection = Collection(
            place,
            tables=list(asked.captions),
            columns=asked.columns,
            kinds=kinds_of(view.fields),
            faults=faults,
        )
        known = _stamps(view)
        wanted: set[str] = set()
        seen: set[str] = set()
        for entry in collection.entries(faults):
            seen.add(entry.id)
            if entry.id not in known or known[entry.id] != entry.stamp:
                wanted.add(entry.id)
        if not seen:
            raise nothing_to_index(place, faults, len(known))
        todo = (entry for entry in collection.entries(Faults("skip")) if entry.id in wanted)
        if not wanted:
            done = Done()
        elif engine is None:
            done = _maker(index, Faults(asked.on_error)).put(todo, progress, len(wanted))
        else:
            done = engine.entries(index, todo, collection.kinds, known, Faults(asked.on_error), progress)
        done.same += len(seen) - len(wanted)
        done.skipped = {one.where: one.reason for one in faults.skipped} | done.skipped
        gone = _gone(known, seen, collection, done.skipped)
        done.gone = index.store.delete(gone) if gone else 0
        if done.new or done.changed or done.gone:
            index.store.build()
    return done


def put(index: Index, given: Sequence[Item], metadata: Mapping[str, Mapping[str, Any]]) -> Done:
    """See `Index.add`."""
    told = dict(metadata)
    with index.writing():
        view = index.store.view()
        kinds = typed_columns(told.values()) | kinds_of(view.fields)
        entries = [
            Entry(
                item.id,
                _inside(index, item),
                None,
                text=item.text,
                image=item.image,
                instruction=item.instruction,
                metadata=converted(told[item.id], kinds, item_id=item.id) if item.id in told else {},
            )
            for item in given
        ]
        done = _maker(index, Faults("raise")).put(entries, Silent(), len(entries))
        if done.new or done.changed:
            index.store.build()
    return done


def _maker(index: Index, faults: Faults) -> Maker:
    encoder = replace(index.encoder, on_error="skip" if faults.skip else "raise")
    embedded = Embedded(index.settings.embed, model.reads(encoder))
    return Maker(index.store, encoder, embedded, index.fitted, faults)


def _remember(index: Index, place: Path) -> None:
    said = place_said(place, index.folder)
    if index.settings.items is None:
        index.settings = replace(index.settings, items=said)
        index.settings.write(index.folder)
    elif (
        index.settings.place_of_items(index.folder) != Path(os.path.abspath(place))
        and index.settings.items != said
    ):
        raise DataError(
            f"The index is of '{index.settings.place_of_items(index.folder)}', not of '{place}'.",
            where=str(index.folder),
            do="Give another folder for the index (--out), or build this one again (--overwrite).",
        )


def _inside(index: Index, item: Item) -> str | None:
    """The file of an item, relative to the indexed folder, if it lies there."""
    if index.root is None or not isinstance(item.image, str | os.PathLike):
        return None
    path, root = Path(os.path.abspath(item.image)), Path(os.path.abspath(index.root))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def nothing_to_index(place: Path, faults: Faults, known: int = 0) -> DataError:
    """The error of a place without items; `known` were found there before."""
    first = f" ({len(faults.skipped)} were skipped; {': '.join(faults.skipped[0])})" if faults.skipped else ""
    kept = f" The {known:,} items of the index were left as they are." if known else ""
    return DataError(
        f"There is nothing to index{first}.{kept}",
        where=str(place),
        do="Give a folder with pictures or texts, or a .jsonl, .csv or .parquet of items.",
    )


def _stamps(view: View) -> dict[str, str | None]:
    """Id -> stamp, of all rows."""
    known: dict[str, str | None] = {}
    for batch in view.read(["id", "stamp"]):
        known.update(zip(batch.column("id").to_pylist(), batch.column("stamp").to_pylist(), strict=True))
    return known


def _gone(
    known: Mapping[str, str | None],
    seen: set[str],
    collection: Collection,
    skipped: Mapping[str, str],
) -> list[str]:
    """Rows whose files or table rows are no longer there; not those that could not be looked at."""
    return [
        item_id
        for item_id, stamp in known.items()
        if stamp is not None
        and item_id not in seen
        and item_id not in skipped
        and not any(item_id.startswith(f"{folder}/") for folder in collection.unlisted)
    ]
