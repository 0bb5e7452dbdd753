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
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clearsight.data.tables import Faults, OnError
from clearsight.errors import ItemError, UsageError
from clearsight.index.batch import TOLD, BatchSettings, EmbedBatch
from clearsight.index.folder import Entry
from clearsight.index.making import Done
from clearsight.index.scale_plan import Plan, drawn, left, planned
from clearsight.index.scale_ray import Cluster as Cluster
from clearsight.index.scale_ray import as_ours, build_on_ray, started
from clearsight.index.scale_sources import Entries, address_of, tables_at
from clearsight.index.scale_stages import told, written
from clearsight.progress import Progress, Silent
from clearsight.store.lance_append import Destination, add_metadata, append_files

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.index.index import Index
    from clearsight.store.lance import LanceStore

FIRST_AT_ONCE = 1024
"""Rows of one such commit."""


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
        plan = planned(kind(place, columns), known)
        faults = Faults(on_error)
        done = engine.put(index, plan, (), faults, progress or Silent())
        done.same += plan.total - plan.wanted
    return done


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
            with started(self.cluster), as_ours():
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
            rows = self._embedded(index, drawn(plan, number))
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
        rows = self._embedded(index, left(plan, taken))
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


def _no_fault(batch: pa.Table) -> Any:
    import pyarrow.compute as pc

    return pc.is_null(batch.column("fault"))
