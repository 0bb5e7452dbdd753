"""What of a source is wanted: its ids looked through on one machine, then a draw of it, then the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clearsight.errors import DataError
from clearsight.index.scale_sources import Entries, Source
from clearsight.index.scale_stages import Chosen
from clearsight.store.keys import KeyIndex, digests

MOST_FIRST_PARTS = 32
"""Parts of a source that a draw is taken from."""


@dataclass(frozen=True)
class Plan:
    """What of a source is wanted.

    Attributes:
        parts: those that hold wanted ids. wanted, total: numbers of ids.
        known: ids that are there already; None where the source holds wanted ones alone.
    """

    source: Source
    parts: Sequence[Any]
    wanted: int
    total: int
    known: KeyIndex | None = None


def planned(source: Source, known: Iterable[Sequence[str]]) -> Plan:
    """Look through the ids of a source, and those known, some at a time.

    Raises:
        DataError: an id is there twice, or there is none.
    """
    there, seen = KeyIndex(), KeyIndex()
    for names in known:
        there.add(digests(names), 0)
    parts: list[Any] = []
    wanted = total = 0
    for part in source.parts:
        before = wanted
        for names in source.ids(part):
            own_N = digests(names)
            count = len(seen)
            seen.add(own_N, total)
            if len(seen) - count < len(names):
                raise _twice(names, seen.find(own_N), total)
            wanted += int((there.find(own_N) < 0).sum())
            total += len(names)
        if wanted > before:
            parts.append(part)
    if not total:
        raise DataError("There is nothing to index.", do="Give a table with rows.")
    return Plan(source, parts, wanted, total, there)


def _twice(names: Sequence[str], row_N: Any, start: int) -> DataError:
    name = next(name for n, name in enumerate(names) if row_N[n] != start + n)
    return DataError(f"The id '{name}' appears twice.", where=name, do="Give the rows ids of their own.")


def drawn(plan: Plan, number: int) -> Any:
    """About so many wanted items, spread over the source: the same ones each time."""
    if isinstance(plan.source, Entries):
        own_N = digests([entry.id for entry in plan.source.entries])["high"]
        chosen = sorted(own_N.argsort()[:number].tolist())
        some = replace(plan.source, entries=[plan.source.entries[n] for n in chosen])
        return some.read(some.parts)
    step = max(1, len(plan.parts) // MOST_FIRST_PARTS)
    parts = plan.parts[::step]
    share = min(1.0, 1.1 * number * step / plan.wanted)
    return _chosen(plan.source.read(parts), plan.known, share if share < 1 else None)


def left(plan: Plan, taken: Sequence[str]) -> Any:
    """The wanted items but those taken."""
    if isinstance(plan.source, Entries):
        gone = set(taken)
        rest = replace(plan.source, entries=[one for one in plan.source.entries if one.id not in gone])
        return rest.read(rest.parts)
    known = KeyIndex() if plan.known is None else plan.known
    known.add(digests(taken), 0)
    return _chosen(plan.source.read(plan.parts), known, None)


def _chosen(items: Any, known: KeyIndex | None, below: float | None) -> Any:
    import ray

    if not known and below is None:
        return items
    there = ray.put(known) if known else None
    chosen = Chosen(there, 1.0 if below is None else below)
    return items.map_batches(chosen, batch_format="pyarrow", batch_size=None)
