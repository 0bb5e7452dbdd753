"""A Lance table on disk or on object storage: opening, committing, and what a commit must not outrun.

Lance never calls fsync. On a local disk a commit here is: data files, synced; the manifest that names them,
synced. So what a call reported done outlives a power failure, and no manifest on disk names missing data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clearsight.errors import ClearsightError, DataError
from clearsight.files import sync
from clearsight.store.lock import writer_lock

T = TypeVar("T")

INDEX_NOTE = "clearsight.index"
"""Under this name a table's config says what is known of its approximate indexes."""

METADATA_BYTES = 1 << 28
"""What a handle keeps of versions and files it has seen: some 20 kB of each, for ever unless bounded."""

COMMIT_RETRIES = 20
"""Times that a commit on object storage meets another writer's before it gives up."""


@dataclass(frozen=True)
class Place:
    """Where a table lies.

    Attributes:
        uri: a path or an s3:// address.
        folder: the table's folder on this machine, None on object storage.
    """

    uri: str
    folder: Path | None

    @classmethod
    def of(cls, address: str) -> Place:
        if "://" in address:
            return cls(address.rstrip("/"), None)
        path = Path(address).absolute()
        return cls(str(path), path)

    @property
    def options(self) -> dict[str, str]:
        """What Lance does not read itself from the standard AWS_* variables."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if self.folder is not None or not self.uri.startswith("s3://"):
            return {}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        options = {"aws_region": region}
        if endpoint:
            options["aws_endpoint"] = endpoint
            if endpoint.startswith("http://"):
                options["allow_http"] = "true"
        return options

    def exists(self) -> bool:
        if self.folder is not None:
            versions = self.folder / "_versions"
            return versions.is_dir() and any(name.endswith(".manifest") for name in os.listdir(versions))
        try:
            self.open()
        except ValueError as fault:
            if "not found" in str(fault).lower():
                return False
            raise
        return True

    def open(self) -> Any:
        import lance

        return lance.dataset(
            self.uri, storage_options=self.options or None, metadata_cache_size_bytes=METADATA_BYTES
        )

    def writing(self) -> AbstractContextManager[None]:
        """One writer at a time on a local disk; on object storage commits that meet are tried again."""
        return nullcontext() if self.folder is None else writer_lock(self.folder.parent)

    def faults(self, verb: str) -> AbstractContextManager[None]:
        """Lance's errors as the house's."""
        return _faults(self.uri, verb)

    def bytes(self) -> int | None:
        """Bytes on a local disk, None elsewhere."""
        if self.folder is None:
            return None
        total = 0
        for root, _, names in os.walk(self.folder):
            for name in names:
                try:
                    total += os.stat(os.path.join(root, name)).st_size
                except FileNotFoundError:  # cleaned up meanwhile
                    continue
        return total

    def commit(self, dataset: Any, make: Callable[[Any], Any]) -> Any:
        """Commit what `make` writes: from a dataset it returns a transaction or an operation on it.

        Returns the newest dataset."""
        import lance

        before = self._data_files()
        operation = make(dataset)
        self._sync_new(before)
        committed = lance.LanceDataset.commit(
            dataset, operation, read_version=dataset.version, storage_options=self.options or None
        )
        self.sync_commit(committed.version)
        return committed

    def again(self, dataset: Any, action: Callable[[Any], T]) -> T:
        """What `action` does with the dataset; on object storage, where another writer was first, it is done
        again on what that one left."""
        for left in range(COMMIT_RETRIES, -1, -1):
            try:
                return action(dataset)
            except (OSError, RuntimeError, ValueError) as fault:
                if self.folder is not None or not met_another(fault) or not left:
                    raise
                dataset.checkout_latest()
        raise AssertionError("the last try returns or raises")

    def compact(self, dataset: Any, target_rows: int) -> None:
        """Rewrite small files as few of `target_rows`; another writer that is first leaves nothing to do."""
        from lance.optimize import Compaction

        before = self._data_files()
        plan = Compaction.plan(dataset, {"target_rows_per_fragment": target_rows})
        results = [task.execute(dataset) for task in plan.tasks]
        self._sync_new(before)
        try:
            Compaction.commit(dataset, results)
        except (OSError, RuntimeError, ValueError) as fault:
            if not met_another(fault):
                raise
            return
        self.sync_index()
        self.sync_commit(dataset.version)

    def created(self, schema: Any, *, anew: bool) -> Any:
        """An empty table, in place of what is there where `anew` (one commit either way)."""
        import lance

        if self.folder is not None:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        dataset = lance.write_dataset(
            schema.empty_table(),
            self.uri,
            mode="overwrite" if anew else "create",
            storage_options=self.options or None,
            auto_cleanup_options=None,
        )
        self.sync_commit(dataset.version)
        if self.folder is not None:
            sync(self.folder, self.folder.parent)
        return dataset

    def sync_commit(self, version: int) -> None:
        """Sync the manifest of a version."""
        if self.folder is None:
            return
        versions = self.folder / "_versions"
        # Lance names manifests so that the newest sorts first (v2) or by their number (v1).
        names = (f"{2**64 - 1 - version}.manifest", f"{version}.manifest")
        sync(*(versions / name for name in names if (versions / name).exists()), versions)

    def sync_index(self) -> None:
        """Sync the files of indexes."""
        if self.folder is not None and (self.folder / "_indices").is_dir():
            for root, _, names in os.walk(self.folder / "_indices"):
                sync(*(Path(root) / name for name in names), Path(root))

    def _data_folders(self) -> list[Path]:
        if self.folder is None:
            return []
        folders = (self.folder / "data", self.folder / "_deletions")
        return [folder for folder in folders if folder.is_dir()]

    def _data_files(self) -> set[tuple[Path, str]]:
        # Whole files only: what others are writing has a temporary name, gone a moment later.
        return {(at, name) for at in self._data_folders() for name in os.listdir(at) if name[0] != "."}

    def _sync_new(self, before: set[tuple[Path, str]]) -> None:
        new = sorted(self._data_files() - before)
        sync(*(folder / name for folder, name in new), *self._data_folders())


def met_another(fault: Exception) -> bool:
    """Whether a commit failed because another writer's was first."""
    said = str(fault).lower()
    return "conflict" in said or "concurrent writers" in said


@contextmanager
def _faults(uri: str, verb: str) -> Iterator[None]:
    try:
        yield
    except ClearsightError:
        raise
    except (OSError, ValueError, RuntimeError) as fault:
        short = " ".join(str(fault).split(", location:")[0].split())[:300]
        raise DataError(
            f"The table cannot be {verb} ({short}).",
            where=uri,
            do="Check space, permissions and the address; what was committed before stays as it was.",
        ) from fault


def config_of(dataset: Any) -> Mapping[str, str]:
    """Notes kept with the table."""
    config: Mapping[str, str] = dataset.config()
    return config
