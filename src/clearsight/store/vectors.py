"""A folder of Lance tables: one for each origin, each row a key, the item's id and its vector.

One table for each origin (everything that changes a vector: model, prompt, pooling ...) and not one for
all: a table has one width, its keys stay few, the origin is written once and in full where a person can
read it (the schema's metadata), and what is no longer wanted is a folder to delete.

Legend of shapes: N keys, F keys found, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.files import sync
from clearsight.store.keys import Digests, KeyIndex, digests

ORIGIN_KEY = b"clearsight.origin"
"""The schema's metadata entry that holds the origin as JSON; `data.load_vectors` reads the same entry."""

# Every `add` leaves one small file. This many are merged; a merged file that has reached its full size
# is left alone, so that a row is rewritten a few times at most however large the table grows.
SMALL_FILES = 64
FULL_FILE_ROWS = 16_384

_TAKE_ROWS = 4_096  # rows read at once: bounds the extra memory of a lookup (8,192 measured slower)
_KEEP_VERSIONS = timedelta(hours=1)  # readers refresh at every call, so an old version is needed for seconds


_SHARED: WeakValueDictionary[tuple[int, Path], VectorTable] = WeakValueDictionary()
"""Tables held open, by process (a fork must not use its parent's) and path."""


class VectorTable:
    """A `VectorCache` on disk.

    * Durable: Lance itself never calls fsync. `add` syncs the data files, then commits, then syncs the
      commit; when it returns, the rows outlive a power failure, and at no moment does a commit on disk
      name data that is not. What remains: a power failure (not a kill) in the milliseconds between a
      commit and its sync may leave an unreadable newest manifest, which opening reports.
    * Killed at any moment (kill -9): a table holds all rows of an `add` or none.
    * Several processes and threads may add at once; nothing is lost. Two that add the same key at the same
      instant may both write it; the first one wins for ever, so what is looked up never changes.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        self.path = path
        """The Lance table; it exists after the first `add`."""
        self.origin = dict(origin)
        self._dataset: Any = None
        self._version = -1
        self._fragments: list[tuple[int, int]] = []  # (id, rows) of the files whose keys are in `_index`
        self._index = KeyIndex()
        self._lock = threading.RLock()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], origin: Mapping[str, Any] | None = None) -> VectorTable:
        """The table for `origin` in the store at `folder`; nothing is written before the first `add`.

        Args:
            origin: what all vectors of the table share; JSON values. Another origin is another table.

        Raises:
            UsageError: `origin` does not fit into JSON.
            DataError: `folder` is a file, or the table in it cannot be read.
        """
        root = Path(folder)
        if root.exists() and not root.is_dir():
            raise DataError("The store is a file.", where=str(root), do="Give a folder, new or old.")
        store = cls(root / _table_name(origin or {}), origin or {})
        store._refresh()
        return store

    @classmethod
    def shared(cls, folder: str | os.PathLike[str], origin: Mapping[str, Any] | None = None) -> VectorTable:
        """As `open`; while somebody of this process holds the table so opened, the same object.

        A pool of millions is embedded in a thousand calls: each would read all keys again.
        """
        key = (os.getpid(), Path(folder).absolute() / _table_name(origin or {}))
        store = _SHARED.get(key)
        if store is None or (store.width is not None and not store._exists()):
            store = _SHARED[key] = cls.open(folder, origin)
        return store

    def __len__(self) -> int:
        """Number of keys."""
        with self._lock:
            self._refresh()
            return len(self._index)

    @property
    def width(self) -> int | None:
        """D, or None before the first row."""
        return None if self._dataset is None else int(self._dataset.schema.field("vector").type.list_size)

    def lookup(self, keys: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """`found_N`, and `rows_FD`: the vectors of `keys[found_N]`, in that order.

        Keys are compared in memory; only the vectors that are there are read. D is 0 in an empty store.

        Raises:
            DataError: the table cannot be read.
        """
        with self._lock:
            self._refresh()
            position_N = self._index.find(digests(keys))
            found_N = position_N >= 0
            return found_N, self._take(position_N[found_N])

    def has(self, digests_N: Digests) -> NDArray[np.bool_]:
        """Which keys, told by their digests, are in the table.

        Raises:
            DataError: the table cannot be read.
        """
        with self._lock:
            self._refresh()
            return self._index.find(digests_N) >= 0

    def read(self, digests_N: Digests) -> NDArray[np.float32]:
        """The vectors (N, D) of keys told by their digests, in that order.

        Raises:
            DataError: a key is not in the table, or the table cannot be read.
        """
        with self._lock:
            self._refresh()  # others may have merged files meanwhile: positions hold for one version only
            position_N = self._index.find(digests_N)
            if (position_N < 0).any():
                raise DataError(
                    f"{int((position_N < 0).sum())} vectors are no longer in the table.",
                    where=str(self.path),
                    do="Embed the pool again; what is there is not computed again.",
                )
            return self._take(position_N)

    def add(self, keys: Sequence[str], ids: Sequence[str], rows_ND: NDArray[Any]) -> None:
        """Keep `rows_ND` (any float type; stored as float32) under `keys`; durable when this returns.

        A key that is already there, or repeats an earlier one of this call, changes nothing.

        Raises:
            DataError: lengths differ, a row holds NaN or infinity, the width is not the table's, or the
                disk refuses. Nothing is written then.
        """
        rows = np.ascontiguousarray(rows_ND, dtype=np.float32)
        self._check(keys, ids, rows)
        with self._lock:
            self._refresh()
            if self.width is not None and rows.shape[1] != self.width:
                raise DataError(
                    f"Vectors of width {rows.shape[1]} do not fit a table of width {self.width}.",
                    where=str(self.path),
                    do="Give the store an origin that says what changed, or another folder.",
                )
            digests_N = digests(keys)
            _, first = np.unique(digests_N, return_index=True)
            index = np.sort(first)
            index = index[self._index.find(digests_N[index]) < 0]
            if not len(index):
                return
            with self._faults("written"):
                self._append([keys[i] for i in index], [ids[i] for i in index], rows[index])
                self._refresh()
                if sum(rows < FULL_FILE_ROWS for _, rows in self._fragments) >= SMALL_FILES:
                    self._merge_small_files()

    def _check(self, keys: Sequence[str], ids: Sequence[str], rows: NDArray[np.float32]) -> None:
        if rows.ndim != 2 or not (len(keys) == len(ids) == len(rows)) or (len(rows) and not rows.shape[1]):
            raise DataError(
                f"{len(keys)} keys, {len(ids)} ids and rows of shape {rows.shape} do not fit together.",
                where=str(self.path),
                do="Give one key and one id for each row of a two-dimensional array.",
            )
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(rows)} vectors hold NaN or infinity.",
                where=", ".join(ids[i] for i in bad[:5]),
                do="Embed these items again (float32 instead of float16 often helps).",
            )

    def _append(self, keys: list[str], ids: list[str], rows: NDArray[np.float32]) -> None:
        import lance
        from lance.fragment import write_fragments

        table = pa.table(
            [pa.array(keys), pa.array(ids), pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])],
            schema=self._schema(rows.shape[1]),
        )
        if self._dataset is None:
            self._create(table.schema)
        fragments = write_fragments(table, str(self.path), schema=table.schema)
        sync(*(self.path / "data" / file.path for f in fragments for file in f.files), self.path / "data")
        # An append commutes with whatever others commit meanwhile; Lance retries it on the newest version.
        committed = lance.LanceDataset.commit(
            str(self.path), lance.LanceOperation.Append(fragments), read_version=self._dataset.version
        )
        self._sync_commit(committed.version)

    def _create(self, schema: pa.Schema) -> None:
        """The empty table; where another process is creating it at this moment, theirs."""
        import lance

        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lance.write_dataset(schema.empty_table(), str(self.path), mode="create")
        except OSError:
            if not self._exists():
                raise
        self._sync_commit(1)
        sync(self.path, self.path.parent)
        self._refresh()

    def _schema(self, width: int) -> pa.Schema:
        vector = pa.field("vector", pa.list_(pa.float32(), width))
        origin = json.dumps(self.origin, sort_keys=True)
        return pa.schema([("key", pa.string()), ("id", pa.string()), vector], {ORIGIN_KEY: origin})

    def _merge_small_files(self) -> None:
        """Rewrite the small files as few large ones, and forget versions nobody reads any more."""
        from lance.optimize import Compaction

        before = self._data_files()
        plan = Compaction.plan(self._dataset, {"target_rows_per_fragment": FULL_FILE_ROWS})
        results = [task.execute(self._dataset) for task in plan.tasks]
        sync(*(self._data_files() - before), self.path / "data")
        try:
            Compaction.commit(self._dataset, results)
        except (OSError, RuntimeError, ValueError) as fault:
            if "conflict" not in str(fault).lower():
                raise
            return  # another process merged first; its merge serves as well
        self._sync_commit(self._dataset.version)
        self._dataset.cleanup_old_versions(older_than=_KEEP_VERSIONS)

    def _data_files(self) -> set[Path]:
        # Whole files only: what others are writing has a temporary name, gone a moment later.
        return {path for path in (self.path / "data").glob("*.lance") if not path.name.startswith(".")}

    def _refresh(self) -> None:
        """Bring the keys up to the table's newest version, reading only the files that are new."""
        if self._dataset is None:
            if not self._exists():
                return
            with self._faults("opened"):
                import lance

                self._dataset = lance.dataset(str(self.path))
                if not {"key", "id", "vector"} <= set(self._dataset.schema.names):
                    raise ValueError(f"its columns are {self._dataset.schema.names}")
        with self._faults("read"):
            if self._dataset.latest_version == self._version:
                return
            self._dataset.checkout_latest()
            fragments = self._dataset.get_fragments()
            state = [(f.fragment_id, f.count_rows()) for f in fragments]
            known = len(self._fragments)
            if state[:known] != self._fragments:  # merged: positions have moved
                self._index, known = KeyIndex(), 0
            start = sum(rows for _, rows in state[:known])
            for fragment in fragments[known:]:
                keys = fragment.to_table(columns=["key"]).column("key").to_pylist()
                self._index.add(digests(keys), start)
                start += len(keys)
            self._fragments, self._version = state, self._dataset.version

    def _take(self, position_F: NDArray[np.int64]) -> NDArray[np.float32]:
        rows_FD = np.empty((len(position_F), self.width or 0), np.float32)
        order = np.argsort(position_F, kind="stable")
        with self._faults("read"):
            for start in range(0, len(order), _TAKE_ROWS):
                where = order[start : start + _TAKE_ROWS]
                table = self._dataset.take(position_F[where], columns=["vector"])
                vectors = table.column("vector").combine_chunks()
                rows_FD[where] = vectors.flatten().to_numpy().reshape(len(where), -1)
        return rows_FD

    def _exists(self) -> bool:
        versions = self.path / "_versions"
        return versions.is_dir() and any(name.endswith(".manifest") for name in os.listdir(versions))

    def _sync_commit(self, version: int) -> None:
        # Lance names manifests so that the newest sorts first (v2) or by their number (v1).
        versions = self.path / "_versions"
        names = (f"{2**64 - 1 - version}.manifest", f"{version}.manifest")
        sync(*(versions / name for name in names if (versions / name).exists()), versions)

    @contextmanager
    def _faults(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as fault:
            raise DataError(
                f"The table cannot be {verb} ({fault}).",
                where=str(self.path),
                do="Check space and permissions; a broken table may be deleted and embedded again.",
            ) from fault


def _table_name(origin: Mapping[str, Any]) -> str:
    """A folder name a person recognises (the model) and no two origins share (a digest)."""
    try:
        canonical = json.dumps(origin, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as fault:
        raise UsageError(f"An origin must be JSON ({fault}).", do="Use names and numbers.") from fault
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", str(origin.get("model", "vectors"))).strip("-.")[-40:]
    return f"{model or 'vectors'}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}.lance"
