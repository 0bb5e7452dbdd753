"""Data by the name of a dataset on the Hugging Face hub, through the `datasets` library (an extra).

Where a benchmark takes a folder, it takes `hub:OWNER/NAME` too, or `OWNER/NAME` where no such path exists.
Tables are downloaded into the library's own cache and memory-mapped from there; with `n`, rows are streamed
and nothing but the rows asked for is fetched. No code of a dataset's repository is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.data.tables import Row
from clearsight.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.data.sources import TaskOptions

PREFIX = "hub:"
_SITE = "https://huggingface.co/datasets"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Hub:
    """A dataset of the hub.

    Attributes:
        name: "owner/name"; a local folder that `datasets.load_dataset` takes is one too.
        revision: branch, tag or commit; None: the default branch.
    """

    name: str
    revision: str | None = None

    def table(self, config: str | None, split: str) -> pa.Table:
        """One split as an Arrow table, memory-mapped; images stay structs {bytes, path}.

        Raises:
            UsageError: the `datasets` library is not installed.
            DataError: no such dataset, configuration or split, or it cannot be reached.
        """
        with self._faults(config, split):
            return self._load(config, split, streaming=False).data.table

    def rows(self, config: str | None, split: str, n: int | None = None) -> Iterator[Row]:
        """The rows of one split in order, images undecoded; with `n` the first n, streamed.

        Raises:
            as `table`; also while reading.
        """
        where = f"{self.name} {config or ''} {split}".replace("  ", " ")
        for number, values in enumerate(self._values(config, split, n), 1):
            yield Row(f"{where} row {number}", values)

    def first(
        self, config: str | None, split: str, n: int, keep: Callable[[Mapping[str, Any]], bool]
    ) -> pa.Table:
        """The first n rows that are to be kept, streamed, as a table in memory; images as in `table`.

        Raises:
            as `table`.
        """
        import pyarrow as pa

        with self._faults(config, split):
            rows = filter(keep, self._load(config, split, streaming=True))
            return pa.Table.from_pylist(list(islice(rows, n)))

    def unpacked(self, archive: str) -> Path:
        """The folder of an archive of the dataset's repository, downloaded and unpacked in the cache.

        Raises:
            as `table`.
        """
        datasets = _library()
        with self._faults(None, archive):
            local = Path(self.name) / archive
            remote = f"{_SITE}/{self.name}/resolve/{self.revision or 'main'}/{archive}"
            given = str(local) if local.exists() else remote
            return Path(datasets.DownloadManager().download_and_extract(given))

    def _values(self, config: str | None, split: str, n: int | None) -> Iterator[dict[str, Any]]:
        if n is not None:
            with self._faults(config, split):
                yield from islice(self._load(config, split, streaming=True), n)
            return
        table = self.table(config, split)
        for start in range(0, table.num_rows, _AT_ONCE):
            yield from table.slice(start, _AT_ONCE).to_pylist()

    def _load(self, config: str | None, split: str, *, streaming: bool) -> Any:
        datasets = _library()
        loaded = datasets.load_dataset(
            self.name, config, split=split, streaming=streaming, revision=self.revision
        )
        for column, feature in (loaded.features or {}).items():
            if isinstance(feature, datasets.Image):
                loaded = loaded.cast_column(column, datasets.Image(decode=False))
        return loaded

    @contextmanager
    def _faults(self, config: str | None, split: str) -> Iterator[None]:
        datasets = _library()
        try:
            yield
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as fault:
            reason = (str(fault).strip() or type(fault).__name__).splitlines()[0]
            offline = isinstance(fault, ConnectionError)
            check = "Check its name, configuration and split (private ones need `hf auth login`)"
            raise DataError(
                f"The dataset '{self.name}' cannot be {'reached' if offline else 'read'}"
                f" ({type(fault).__name__}: {reason}).",
                where=" ".join(filter(None, (config, split))),
                do=f"{'Connect to the network' if offline else check}, or give the folder of a copy on disk.",
            ) from fault


def data_of(options: TaskOptions, task: str) -> Path | Hub:
    """What `options.data` names: an existing path, or a dataset of the hub.

    Raises:
        UsageError: no data was given, or the name is empty.
        DataError: neither an existing path nor the form of a name.
    """
    if options.data is None:
        return options.need_data(task)
    text = options.data.as_posix()
    if text.startswith(PREFIX):
        name, _, revision = text.removeprefix(PREFIX).partition("@")
        if not name:
            raise UsageError(f"'{text}' names no dataset.", do=f"Write it as {PREFIX}OWNER/NAME.")
        return Hub(name, revision or None)
    if not options.data.exists() and _NAME.fullmatch(text):
        return Hub(text)
    return options.need_data(task)


def _library() -> Any:
    try:
        import datasets
    except ImportError as fault:
        raise UsageError(
            "Data by name needs the `datasets` library, which is not installed.",
            do="Run: pip install 'clearsight[datasets]'; or give a folder.",
        ) from fault
    return datasets
