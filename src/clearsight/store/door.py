"""The door of index stores: rows with their vectors, kept, replaced, deleted, searched.

An index (`clearsight.index`) stands on any store that opens this door; which one is a name in `STORES`.
A row has the columns of `COLUMNS` and any number of metadata columns, whose names begin with `META`.

Legend of shapes: N rows, Q queries, K hits of a query, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa

    from clearsight.store.where import Where

Space: TypeAlias = Literal["raw", "repaired"]
"""Which of a row's two vectors is searched: as the model gave it, or after the repair."""

META = "meta_"
"""What the names of metadata columns begin with in a store; in a filter they go by their own names."""

COLUMNS = {
    "id": "string: unique in the store",
    "key": "string: `data.content_key`, which changes when the content does",
    "source": "string or null: the file, relative to the indexed folder, with / between its parts",
    "stamp": "string or null: size and time of change of the files behind the row",
    "modality": "string: text, image or image+text",
    "text": "string or null",
    "thumbnail": "binary or null: JPEG",
    "raw": "fixed_size_list<float32>[D]: the model's vector, unnormalised",
    "vector": "fixed_size_list<float32>[E]: the repaired vector, of length 1",
}


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The best rows of one query, best first.

    Attributes:
        rows: the columns that were asked for, K rows.
        score_K: cosine with the query, -1..1; equal scores are ordered by id.
    """

    rows: pa.Table
    score_K: NDArray[np.float32]


class View(Protocol):
    """A store as it stood at one moment: what is added, deleted or rewritten later does not show.

    Attributes:
        version: of the store.
        repair: name of the repair under which every `vector` was made; "" for none.
        rows: N.
        fields: what a filter may name, with its Arrow type: id, text, modality, source, and metadata by its
            own names (`parse_where(text, view.fields)`).
    """

    @property
    def version(self) -> int: ...
    @property
    def repair(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def fields(self) -> Mapping[str, pa.DataType]: ...

    def search(
        self,
        query_QD: NDArray[np.float32],
        top: int,
        *,
        space: Space = "repaired",
        where: Where | None = None,
        columns: Sequence[str] = ("id",),
        exact: bool = False,
    ) -> list[Found]:
        """The `top` rows of every query by cosine, among those that `where` holds for.

        Args:
            query_QD: any length but zero; D is the width of `space`.
            top: fewer come back where the store holds fewer.
            exact: never by an approximate index.
        """
        ...

    def read(
        self,
        columns: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        where: Where | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """Columns of the rows for which everything given holds, of all rows where nothing is; memory is
        bounded by the batch.

        Args:
            ids, keys: what a row's id, and its content key, must be among; unknown ones are passed over.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What `index info` shows: kind, bytes on disk, the approximate index and its measured recall."""
        ...


class VectorStore(Protocol):
    """Rows on disk or on a server. One writer at a time; readers never wait.

    Every change is one commit: all of it is there when the call returns, or none; a killed writer (kill -9)
    leaves the store as it was. `view` then gives what was committed last, also by another process.
    """

    def view(self) -> View: ...

    def add(self, rows: pa.Table) -> None:
        """Put rows in place of those with the same ids, or beside the others. New metadata columns are
        added to all rows (null).

        Raises:
            DataError: columns or widths that do not fit, an id twice, a type that differs from the column's.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; unknown ids are passed over. Returns how many went."""
        ...

    def rewrite(self, repair: str, vectors: Callable[[pa.RecordBatch], NDArray[np.float32]]) -> None:
        """Replace every row's `vector`, under a new repair's name, in one commit; views opened before keep
        the old vectors.

        Args:
            vectors: from a batch with id, modality and raw to the new vectors (N, E), of length 1.
        """
        ...

    def build(self, *, force: bool = False) -> Mapping[str, Any]:
        """Build the approximate index where there are rows enough for one, extend it where it lacks many
        (`force`: always), and measure its recall. Returns its facts."""
        ...


@dataclass(frozen=True)
class StoreKind:
    """A row of `STORES`.

    Attributes:
        open: (address, width D, create) -> store; the address is a path, an s3:// address or a server's URL.
        local: the address is a folder on this machine, in which the index keeps its other files too.
    """

    open: Callable[..., VectorStore]
    local: bool
    sentence: str


STORES: Registry[StoreKind] = Registry("store")
