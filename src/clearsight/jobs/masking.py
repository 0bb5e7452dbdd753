"""Which tokens a mean pool lives on: the image's or the prompt's left out of it (Feng et al. 2026, figure 4).

The prompt is what the template adds around the content; an item's own text always stays. Every token has
passed the whole model before any is left out: what remains has seen the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.trials import Scores, Tests, flat, scored, tested

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress
    from clearsight.types import Embeddings, Task

Masked = Literal["neither", "both", "queries"]

BASE = "mean"
MASKS: Mapping[str, str] = {
    "mean": "all tokens",
    "mean_no_image": "without image tokens",
    "mean_no_prompt": "without prompt tokens",
}
"""Pooling -> how tables name it."""


@dataclass(frozen=True)
class MaskingRow:
    """One mean pool of one task.

    Attributes:
        pooling: a key of `MASKS`.
        masked: whose vectors were pooled so; the other side keeps all tokens.
        scores: measure -> score.
        against_base: paired tests by measure against all tokens on both sides; empty for that row itself.
    """

    task: str
    pooling: str
    masked: Masked
    scores: Scores
    against_base: Tests = field(default_factory=dict)

    @property
    def label(self) -> str:
        words = MASKS[self.pooling]
        return f"{words} (queries only)" if self.masked == "queries" else words


@dataclass(frozen=True)
class MaskingAblation:
    """The rows, all tokens first.

    Attributes:
        skipped: items without a vector in some pooling (no token is left of them), and why.
    """

    rows: tuple[MaskingRow, ...]
    skipped: Mapping[str, str]

    def records(self) -> list[dict[str, Any]]:
        """One record for each row and measure, of plain values, for parquet and JSON."""
        return [
            record
            for row in self.rows
            for record in flat(
                {"task": row.task, "pooling": row.pooling, "masked": row.masked, "label": row.label},
                row.scores,
                {"base": row.against_base},
            )
        ]


def ablate_tokens(
    encoder: Encoder, task: Task, *, k: int = 10, progress: Progress | None = None
) -> MaskingAblation:
    """Embed both sides once, pool three ways, and score every way on the same queries.

    Besides the paper's rows (both sides pooled alike) each mask is also shown on the queries alone: where the
    candidates are images, leaving their image tokens out leaves the template, and the paper's row then
    measures mostly that.

    Args:
        encoder: of a generative model; its own pooling does not matter.

    Raises:
        UsageError: a contrastive model, which has no tokens to leave out.
        ItemError: an item that cannot be embedded, or keeps no token (unless the encoder skips those).
        DataError: no query keeps its vectors.
    """
    from clearsight.jobs.embedding import side_modality
    from clearsight.jobs.ui import Labelled
    from clearsight.progress import Silent

    if encoder.loaded.kind == "contrastive":
        raise UsageError(
            "A contrastive model has one vector and no tokens to leave out of it.",
            do="Ablate a generative model.",
        )
    progress = progress or Silent()
    kinds = side_modality(task.queries), side_modality(task.candidates)
    queries = encoder.embed_many(
        task.queries,
        "query",
        tuple(MASKS),
        counterpart=kinds[1],
        progress=Labelled(progress, "queries, with and without their image and prompt"),
    )
    candidates = encoder.embed_many(
        task.candidates,
        "candidate",
        tuple(MASKS),
        counterpart=kinds[0],
        progress=Labelled(progress, "candidates, with and without their image and prompt"),
    )
    return ablation(task, queries, candidates, k=k)


def ablation(
    task: Task,
    queries: Mapping[str, Embeddings],
    candidates: Mapping[str, Embeddings],
    *,
    k: int = 10,
) -> MaskingAblation:
    """As `ablate_tokens`, from vectors by pooling that one already has."""
    from clearsight.jobs.embedding import kept

    queries, candidates = _common(queries), _common(candidates)
    skipped: dict[str, str] = {}
    for one in (*queries.values(), *candidates.values()):
        skipped |= one.skipped
    task = kept(task, queries[BASE], candidates[BASE])
    base = scored(task, queries[BASE], candidates[BASE], k)
    rows = [MaskingRow(task.name, BASE, "neither", base)]
    for pooling in MASKS:
        if pooling == BASE:
            continue
        ways: dict[Masked, Embeddings] = {"both": candidates[pooling], "queries": candidates[BASE]}
        for masked, other in ways.items():
            scores = scored(task, queries[pooling], other, k)
            rows.append(MaskingRow(task.name, pooling, masked, scores, tested(scores, base)))
    return MaskingAblation(tuple(rows), skipped)


def _common(side: Mapping[str, Embeddings]) -> dict[str, Embeddings]:
    """The items that have a vector in every pooling, so that all are scored on the same."""
    shared = set.intersection(*(set(embeddings.ids) for embeddings in side.values()))
    return {
        pooling: embeddings.take([name in shared for name in embeddings.ids])
        for pooling, embeddings in side.items()
    }
