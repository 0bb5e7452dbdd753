"""The nouns: what flows through the house. Frozen values, numpy only.

Legend of shapes: N rows, D width, Q queries, C candidates, K ranks kept, R (query, relevant item) pairs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.names import Names, missing
from clearsight.names import unique_ids as unique_ids

if TYPE_CHECKING:
    from PIL.Image import Image

Modality: TypeAlias = Literal["text", "image", "image+text"]
Role: TypeAlias = Literal["query", "candidate"]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image"
Relevance: TypeAlias = Mapping[str, Mapping[str, float]]
"""query id -> candidate id -> grade (> 0 is relevant)."""

MODALITIES: tuple[Modality, ...] = ("text", "image", "image+text")
ROLES: tuple[Role, ...] = ("query", "candidate")


@dataclass(frozen=True, slots=True)
class Item:
    """Something to embed: a text, an image, or both.

    Attributes:
        id: unique within its side of a task.
        text: the item's own text; empty text counts as an error, None as no text.
        image: a path, encoded bytes, or a PIL image; decoded late, by the encoder's workers.
        instruction: the benchmark's instruction for this item, used by prompts that have a place for one.
    """

    id: str
    text: str | None = None
    image: ImageSource | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.text is None and self.image is None:
            raise DataError("An item needs a text or an image.", where=self.id, do="Give at least one.")

    @property
    def modality(self) -> Modality:
        if self.image is None:
            return "text"
        return "image" if self.text is None else "image+text"


@dataclass(frozen=True, slots=True)
class Task:
    """A retrieval task: every benchmark of the field is one of these.

    Attributes:
        queries, candidates: a tuple, or `data.ItemTable` where there are millions.
        relevance: query id -> candidate id -> grade.
        pools: query id -> the only candidate ids it ranks (absent: all).
        excluded: query id -> candidate ids left out for it (CIRR's reference image).
        groups: query id -> group; queries of a group count only together (SugarCrepe++ TOT).
        measures: names of the measures the benchmark reports, the headline first.
        candidate_role: how prompts word candidates: as "query" where a benchmark's two sides are both queries
            (RefCOCO-Matching).

    Raises:
        DataError: duplicate ids, or a reference to an id that does not exist.
    """

    name: str
    queries: Sequence[Item]
    candidates: Sequence[Item]
    relevance: Relevance
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict)
    excluded: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    measures: tuple[str, ...] = ("hit_rate@1", "hit_rate@5", "hit_rate@10")
    candidate_role: Role = "candidate"

    def __post_init__(self) -> None:
        query_ids = unique_ids(ids_of(self.queries), what="query")
        candidate_ids = unique_ids(ids_of(self.candidates), what="candidate")
        for what, table in (
            ("relevance", self.relevance),
            ("pools", self.pools),
            ("excluded", self.excluded),
        ):
            _known(table, query_ids, f"{what} names an unknown query")
            named = dict.fromkeys(name for members in table.values() for name in members)
            unknown = missing(tuple(named), candidate_ids)
            if unknown:
                at = next(query for query, members in table.items() if not unknown.isdisjoint(members))
                first = next(name for name in table[at] if name in unknown)
                raise _unknown(f"{what} of query '{at}' names an unknown candidate", first)
        _known(self.groups, query_ids, "groups names an unknown query")


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors with their names: row i embeds `ids[i]`.

    Attributes:
        ids: N item ids, unique.
        rows_ND: float32, **unnormalised**; norms are taken where they are used.
        side_N: "query" or "candidate" for each row.
        modality_N: "text", "image" or "image+text" for each row.
        origin: everything that changes the vectors: model and revision, family, prompt, pooling, layer,
            dtype, image size, library version, and the repairs applied since, in order.
        skipped: ids of items that have no row -> why they were refused (only where skipping was asked for).
        cut: item id -> how many tokens of its text were cut, for items embedded (not recalled) by this call.

    Raises:
        DataError: lengths differ, ids repeat, or a row holds NaN or infinity (the message names the id).
    """

    ids: tuple[str, ...]
    rows_ND: NDArray[np.float32]
    side_N: NDArray[np.str_]
    modality_N: NDArray[np.str_]
    origin: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_ND.ndim != 2 or not (
            len(self.ids) == len(self.rows_ND) == len(self.side_N) == len(self.modality_N)
        ):
            raise DataError(
                f"{len(self.ids)} ids, rows of shape {self.rows_ND.shape}, {len(self.side_N)} sides and "
                f"{len(self.modality_N)} modalities do not fit together.",
                do="Give one id, side and modality for each row of a two-dimensional array.",
            )
        unique_ids(self.ids, what="row")
        finite_N = np.isfinite(self.rows_ND).all(axis=1)
        if not finite_N.all():
            bad = [self.ids[i] for i in np.flatnonzero(~finite_N)[:5]]
            raise DataError(
                f"{int((~finite_N).sum())} of {len(self.ids)} rows hold NaN or infinity.",
                where=", ".join(bad),
                do="Drop these rows or embed their items again.",
            )

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        rows_ND: NDArray[Any],
        *,
        side: Role = "candidate",
        modality: Modality | Sequence[Modality] = "text",
        origin: Mapping[str, Any] | None = None,
    ) -> Embeddings:
        """Embeddings of one side from vectors one already has; rows are converted to float32."""
        rows = np.ascontiguousarray(rows_ND, dtype=np.float32)
        modalities = [modality] * len(ids) if isinstance(modality, str) else list(modality)
        return cls(tuple(ids), rows, np.full(len(ids), side), np.array(modalities, dtype=str), origin or {})

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        return int(self.rows_ND.shape[1])

    def with_rows(self, rows_ND: NDArray[Any], **origin: Any) -> Embeddings:
        """The same items with other vectors; `origin` entries are added to what is known of them."""
        rows = np.ascontiguousarray(rows_ND, dtype=np.float32)
        return replace(self, rows_ND=rows, origin={**self.origin, **origin})

    def take(self, index: NDArray[Any] | Sequence[int]) -> Embeddings:
        """The rows at `index` (positions or a boolean mask), in that order."""
        positions = np.arange(len(self))[np.asarray(index, dtype=None if len(index) else np.int64)]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in positions),
            rows_ND=self.rows_ND[positions],
            side_N=self.side_N[positions],
            modality_N=self.modality_N[positions],
        )


@runtime_checkable
class RowSource(Protocol):
    """Vectors with their names, read as they are asked for: what `Embeddings` is where N x D has no place in
    memory, and what an `Embeddings` is too.

    `rank`, `fit_repair` and repairs take either. A row has the same bits whatever it is taken with.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def width(self) -> int: ...
    @property
    def origin(self) -> Mapping[str, Any]: ...
    def __len__(self) -> int: ...
    def take(self, index: NDArray[Any]) -> Embeddings:
        """The rows at `index` (positions, each at most once), in that order."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The best K candidates of every query, best first, and where each relevant item stands.

    Candidates of equal score are ordered by their row in the candidates (stated once, here); measures do
    not depend on that order: they use the counts, and give the expected value under ties.

    Attributes:
        rows_QK: rows into `candidate_ids`; -1 where a query has fewer than K candidates.
        scores_QK: float32, -inf where `rows_QK` is -1.
        pool_size_Q: how many candidates each query ranked.
        tied_out_Q: how many candidates outside the list equal the score of its last entry.
        relevant_query_R, relevant_row_R: one entry for each (query, relevant candidate in its pool).
        above_R: how many other candidates of the pool score strictly above that relevant item.
        equal_R: how many other candidates of the pool score exactly the same.
        relevant_score_R: its score.
        counted: whether the R arrays were computed (relevance was known when ranking).
    """

    query_ids: tuple[str, ...]
    candidate_ids: Sequence[str]
    rows_QK: NDArray[np.int64]
    scores_QK: NDArray[np.float32]
    pool_size_Q: NDArray[np.int64]
    tied_out_Q: NDArray[np.int64]
    relevant_query_R: NDArray[np.int64]
    relevant_row_R: NDArray[np.int64]
    above_R: NDArray[np.int64]
    equal_R: NDArray[np.int64]
    relevant_score_R: NDArray[np.float32]
    counted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One measure over one ranking.

    Attributes:
        measure: such as "hit_rate@1".
        values_Q: expected value under ties for each query (or group); NaN where not judged.
        mean: over the judged queries; 0..1, higher is better for every measure offered.
        low, high: bootstrap interval of the mean over queries.
        optimistic, pessimistic: the mean if every tie fell for, or against, the relevant item.
        judged: number of queries with a relevant item in their pool (all, under `strict`).
        tie_rate: share of judged queries with a relevant item whose score ties with another candidate's.
        chance: expected mean of a random ranking of the same pools.
    """

    measure: str
    values_Q: NDArray[np.float64]
    mean: float
    low: float
    high: float
    optimistic: float
    pessimistic: float
    judged: int
    tie_rate: float
    chance: float


@runtime_checkable
class Columns(Protocol):
    """Items whose ids and modalities are read without making the items, and so without their images."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def kind_N(self) -> NDArray[np.uint8]:
        """Each item's modality, as its place in `MODALITIES`."""
        ...


def ids_of(items: Sequence[Item]) -> Sequence[str]:
    """The ids of items, in order."""
    return items.ids if isinstance(items, Columns) else tuple(item.id for item in items)


def kinds_of(items: Sequence[Item]) -> NDArray[np.uint8]:
    """The modality of each item, as its place in `MODALITIES`; no image is read."""
    if isinstance(items, Columns):
        return items.kind_N
    return np.array([MODALITIES.index(item.modality) for item in items], dtype=np.uint8)


def _known(table: Mapping[str, Any], known: set[str] | Names, what: str) -> None:
    unknown = missing(tuple(table), known)
    if unknown:
        raise _unknown(what, next(name for name in table if name in unknown))


def _unknown(what: str, name: str) -> DataError:
    return DataError(f"{what}: '{name}'.", do="Correct the id or add the item.")
