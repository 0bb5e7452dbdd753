"""An index filled by many machines: Ray Data reads, actors embed, files land in the store's table.

    read (any machine) -> EmbedBatch (an actor a GPU, the model loaded once) -> Lance files -> commits

* A row lands once: files count from the commit that names them. A worker that dies is replaced and its
  batch done again; what it had written is named by no commit. Killed here, the same call goes on: what was
  committed is not embedded again.
* The repair is fitted on the first rows, which are drawn evenly over the collection, and the rest is written
  with it in the same pass. `refit` fits it anew on everything.
* On one machine the plain loop (`Index.sync`) is faster: Ray needs seconds to start and copies every batch.

Ray is an extra: pip install "clearsight[ray]".
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clearsight.data.tables import Faults, OnError
from clearsight.errors import ClearsightError, DataError, ItemError, ModelError, UsageError
from clearsight.index.batch import TOLD, BatchSettings, EmbedBatch
from clearsight.index.folder import Entry
from clearsight.index.making import Done
from clearsight.index.scale_sources import Entries, Source, address_of, tables_at
from clearsight.index.scale_stages import Chosen, told, written
from clearsight.progress import Progress, Silent
from clearsight.store.keys import KeyIndex, digests
from clearsight.store.lance_append import Destination, add_metadata, append_files
from clearsight.store.lance_files import Place

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.index.index import Index
    from clearsight.store.lance import LanceStore

RABITQ_BITS = 5
"""Of each dimension, in the approximate index."""
MOST_FIRST_PARTS = 32
FIRST_AT_ONCE = 1024
"""Rows of one such commit."""


@dataclass(frozen=True)
class Cluster:
    """How Ray is used.

    Attributes:
        address: of a running cluster ("auto": the one this machine belongs to); None: $RAY_ADDRESS, else Ray
            is started here, for this process.
        actors: most processes that embed; None: one for each GPU, or each core but one where there is none.
        gpus: of each; None: 1 where the cluster has any.
        batch_rows: items embedded by one call.
        file_rows: rows of a Lance file, which pass one machine's memory at once (about 20 kB each).
        commit_seconds: between commits; a killed run loses what came since, and files not yet full.
        first: rows that the repair is fitted on.
        storage: most of this machine's memory for Ray's store of objects, in bytes (where Ray starts here).
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | None = None
    batch_rows: int = 64
    file_rows: int = 16_384
    commit_seconds: float = 60.0
    first: int = 4096
    storage: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_rows", "file_rows", "first"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}.", where=name, do="Give 1 or more.")
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors is {self.actors}.", where="actors", do="Give 1 or more.")


def sync_on_ray(
    index: Index,
    items: str | os.PathLike[str],
    *,
    cluster: Cluster | None = None,
    captions: Sequence[str | os.PathLike[str]] = (),
    columns: Mapping[str, str] | None = None,
    on_error: OnError = "skip",
    progress: Progress | None = None,
) -> Done:
    """Take what is new in a collection, on a cluster.

    Of a folder also what has changed or gone, as `Index.sync` does; of tables new ids only.

    Args:
        items: a folder of pictures and texts, or a file of items, that every machine sees under this path;
            Parquet files (a file, a folder of them, s3://bucket/prefix) or a Lance table (ending in .lance),
            with a column of ids.
        captions, columns, on_error, progress: as for `Index.sync`; captions go with a folder.

    Raises:
        UsageError: Ray is not installed, or the store is not a Lance table.
        DataError, ItemError: as `Index.sync`; an id that is there twice.
    """
    engine = RayEngine(cluster or Cluster())
    place = address_of(items)
    kind = tables_at(place)
    if kind is None:
        return index.sync(
            place, captions=captions, columns=columns, on_error=on_error, progress=progress, engine=engine
        )
    if captions:
        do = "Put the texts into the table itself."
        raise UsageError("Captions go with a folder of pictures.", where="captions", do=do)
    with index.writing():
        known = (batch.column("id").to_pylist() for batch in index.store.view().read(["id"]))
        plan = _planned(kind(place, columns), known)
        faults = Faults(on_error)
        done = engine.put(index, plan, (), faults, progress or Silent())
        done.same += plan.total - plan.wanted
    return done


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


def _planned(source: Source, known: Iterable[Sequence[str]]) -> Plan:
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


class RayEngine:
    """Puts items into an index's store by Ray; see the top of this file.

    Args:
        cluster: how.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def entries(
        self,
        index: Index,
        entries: Iterable[Entry],
        kinds: Mapping[str, str],
        known: Iterable[str],
        faults: Faults,
        progress: Progress,
    ) -> Done:
        """Put entries of a folder, all of which are wanted.

        Args:
            kinds: metadata column -> name of its type.
            known: ids that are in the store: their rows are replaced.
        """
        source = Entries(list(entries), kinds)
        wanted = len(source.entries)
        return self.put(index, Plan(source, source.parts, wanted, wanted), known, faults, progress)

    def put(self, index: Index, plan: Plan, known: Iterable[str], faults: Faults, progress: Progress) -> Done:
        """Embed and commit what is planned; what was committed stays, whatever comes after.

        Raises:
            UsageError: Ray is not installed, or the store is not a Lance table.
            ItemError: an item that cannot be read or embedded, unless the faults are skipped.
            DataError, ModelError: a store that refuses, a worker that cannot load the model.
        """
        store = _lance(index)
        done = _Counted(set(known), faults, progress)
        if not plan.wanted:
            return done.done
        progress.start(plan.wanted, "indexing")
        try:
            with _ray(self.cluster), _as_ours():
                taken = self._first(index, store, plan, done)
                if len(taken) < plan.wanted:
                    self._rest(index, store, plan, taken, done)
                store.build(create=build_on_ray)
        finally:
            progress.close()
        return done.done

    def _first(self, index: Index, store: LanceStore, plan: Plan, done: _Counted) -> list[str]:
        """Bring the store's columns and, where one is wanted, a repair, fitted on rows that are embedded and
        added here. Returns their ids."""
        add_metadata(store.place, plan.source.metadata)
        view, settings = store.view(), index.settings
        repairs = not view.repair and not settings.fitted_rows and settings.repair != "none"
        number = self.cluster.first - view.rows if repairs else 0
        taken: list[str] = []
        if number > 0:
            rows = self._embedded(index, _drawn(plan, number))
            for batch in rows.iter_batches(batch_size=FIRST_AT_ONCE, batch_format="pyarrow"):
                good = batch.filter(_no_fault(batch)).drop_columns(list(TOLD))
                if len(good):
                    store.add(good)
                taken += batch.column("id").to_pylist()
                done.count(told(batch))
        if repairs and store.view().rows:
            index.refit(progress=Silent())
        return taken

    def _rest(
        self, index: Index, store: LanceStore, plan: Plan, taken: Sequence[str], done: _Counted
    ) -> None:
        from ray.data import TaskPoolStrategy

        to = Destination.of(store.place)
        rows = self._embedded(index, _left(plan, taken))
        files = rows.map_batches(
            written,
            fn_args=(to,),
            batch_format="pyarrow",
            batch_size=self.cluster.file_rows,
            num_cpus=1,  # a file's rows pass its memory: as many at once as there are cores for it
            compute=TaskPoolStrategy(),
        )
        waiting: list[Mapping[str, Any]] = []
        last = time.monotonic()
        try:
            for batch in files.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                waiting += batch.to_pylist()
                if time.monotonic() - last >= self.cluster.commit_seconds:
                    self._commit(store, waiting, done)
                    waiting, last = [], time.monotonic()
        finally:
            self._commit(store, waiting, done)

    def _commit(self, store: LanceStore, waiting: Sequence[Mapping[str, Any]], done: _Counted) -> None:
        files = [said for one in waiting for said in one["files"]]
        ids = [name for one in waiting for name in one["ids"]]
        append_files(store.place, files, [name for name in ids if name in done.known])
        for one in waiting:
            done.count(one)

    def _embedded(self, index: Index, items: Any) -> Any:
        """Tables of items as rows of the store."""
        import ray
        from ray.data import ActorPoolStrategy

        cores, cards = (ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU"))
        gpus = (1 if cards else 0) if self.cluster.gpus is None else self.cluster.gpus
        most = self.cluster.actors or int(max(1, cards // gpus if gpus else cores - 1))
        settings = BatchSettings(
            index.settings,
            index.fitted(),
            device=None if gpus else "cpu",
            **index.loading,
        )
        # One block for one file that was read would keep one actor busy.
        return items.repartition(target_num_rows_per_block=self.cluster.batch_rows).map_batches(
            EmbedBatch,
            fn_constructor_args=(settings,),
            batch_format="pyarrow",
            batch_size=self.cluster.batch_rows,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
            num_gpus=gpus or None,
            udf_modifying_row_count=False,
        )


def build_on_ray(
    dataset: Any, column: str, kind: str, name: str, partitions: int, workers: int | None = None
) -> None:
    """Build an approximate index on the cluster: centroids here, of a sample, the lists on its machines.

    Args:
        workers: a core each; None: all cores but one.
    """
    import lance_ray
    import ray

    lance_ray.create_index(
        dataset.uri,
        column,
        kind,
        name=name,
        metric="cosine",
        num_partitions=partitions,
        num_workers=workers or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1),
        storage_options=Place.of(dataset.uri).options or None,
        # lance-ray takes 1 bit unless told; this is Lance's own default, which `create_here` takes.
        **({"num_bits": RABITQ_BITS} if kind == "IVF_RQ" else {}),
    )


class _Counted:
    """What came of a run by now."""

    def __init__(self, known: set[str], faults: Faults, progress: Progress) -> None:
        self.known, self.faults, self.progress = known, faults, progress
        self.done = Done()

    def count(self, one: Mapping[str, Any]) -> None:
        """Count a row of `WRITTEN`. Raises ItemError for an item that failed, unless faults are skipped."""
        changed = sum(name in self.known for name in one["ids"])
        self.done.changed += changed
        self.done.new += len(one["ids"]) - changed
        self.done.cut.update((cut["id"], cut["tokens"]) for cut in one["cut"])
        self.progress.advance(len(one["ids"]) + len(one["faults"]))
        for fault in one["faults"]:
            self.faults.meet(ItemError(fault["why"], where=fault["id"]))
            self.done.skipped[fault["id"]] = fault["why"]


def _lance(index: Index) -> LanceStore:
    from clearsight.store.lance import LanceStore

    if isinstance(index.store, LanceStore):
        return index.store
    raise UsageError(
        "On a cluster rows are written as Lance files; this index keeps its rows elsewhere.",
        where=index.settings.address,
        do="Give a folder or s3://... as the store's address, or leave out --engine ray.",
    )


def _drawn(plan: Plan, number: int) -> Any:
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


def _left(plan: Plan, taken: Sequence[str]) -> Any:
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


def _no_fault(batch: pa.Table) -> Any:
    import pyarrow.compute as pc

    return pc.is_null(batch.column("fault"))


def need_ray() -> None:
    """Nothing, where Ray can be used. Raises UsageError: it is not installed."""
    try:
        import lance_ray  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as fault:
        raise UsageError(
            f"Ray is not installed ({fault}).",
            where="--engine ray",
            do='pip install "clearsight[ray]", on every machine of the cluster.',
        ) from fault


@contextmanager
def _ray(cluster: Cluster) -> Iterator[None]:
    """Ray, started here and ended again, unless it runs already."""
    need_ray()
    import logging

    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    mine = not ray.is_initialized()
    if mine:
        address = cluster.address or os.environ.get("RAY_ADDRESS")
        here = {"include_dashboard": False, "object_store_memory": cluster.storage}
        try:
            with warnings.catch_warnings():  # Ray starts programs, it does not go on as a fork
                warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
                ray.init(address, log_to_driver=False, logging_level="error", **({} if address else here))
        except Exception as fault:  # Ray raises just that, for a machine that is too busy too
            what = f"Ray cannot be {'reached' if address else 'started'} ({str(fault).splitlines()[0]})."
            do = "Start it (ray start --head), give its address, or leave out --engine ray."
            raise UsageError(what, where=address, do=do) from fault
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
        if mine:
            ray.shutdown()


@contextmanager
def _as_ours() -> Iterator[None]:
    """What failed on a worker, told as if it had failed here."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as fault:
        cause: BaseException | None = fault
        while cause is not None:
            if isinstance(cause, ClearsightError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
        short = str(fault).strip().splitlines()[-1][:300]
        raise ModelError(
            f"A worker of the cluster failed ({short}).",
            do="Look at Ray's own log of it (ray logs); the same command goes on from what was committed.",
        ) from fault
