"""The reranker: a coarse ranking's first candidates, judged one by one (or together) by a generative model.

Legend of shapes: Q queries, T candidates judged of each, K ranks of the coarse list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.models.judge import Judge, need_head
from clearsight.models.judge_questions import Question
from clearsight.models.load import LoadedModel, load_model
from clearsight.progress import Progress, Silent
from clearsight.ranking.fusion import fuse as fuse_scores
from clearsight.ranking.reorder import of_queries
from clearsight.rerank.prompts import default_phrasing, get_phrasing
from clearsight.rerank.rounds import Notes, Pairs, judged, refusal
from clearsight.rerank.scorers import SCORERS, Asking, Read, Scorer, TrueFalse
from clearsight.types import Item, Ranking, Task

if TYPE_CHECKING:
    import torch

Floats: TypeAlias = NDArray[np.float64]
Tie: TypeAlias = Literal["none", "entropy"]
QUERIES_AT_ONCE = 512
"""Queries whose ties are broken together."""


@dataclass(frozen=True, slots=True, eq=False)
class Reranked:
    """A ranking after its fine stage.

    Attributes:
        ranking: judged candidates first, by fused score; below them all others in their coarse order. Scores
            are minus the number of candidates above.
        coarse: the ranking before, of the same queries.
        fine_QT: the fine score of `coarse.rows_QK[q, t]`, higher is better; NaN where there is none.
        entropy_QT: what ties were broken by, NaN where nothing was tied; None without tie-break.
        asked, unparsed: written answers (listwise, number_paper), and how many of them could not be parsed.
        fell_back: ids of queries that kept their coarse order because no answer could be parsed.
        cut_tied: how many queries have candidates beyond the top with the coarse score of its last one: there
            their row decided what was judged.
        skipped: query and candidate -> why the pair was not judged (`on_error="skip"`).
        scored: pairs judged; `questions`: questions that went through the model (none that were kept).
    """

    ranking: Ranking
    coarse: Ranking
    fine_QT: Floats
    entropy_QT: Floats | None
    asked: int
    unparsed: int
    fell_back: tuple[str, ...]
    cut_tied: int
    skipped: dict[str, str]
    scored: int
    questions: int


@dataclass(eq=False)
class Reranker:
    """A scorer, and what to do with its scores.

    Attributes:
        scorer: what judges; built-ins by name come from `Reranker.load`.
        tie: "entropy" asks of tied candidates whether they match, and puts those first about which the next
            token is least uncertain (RetLLM); "none" leaves ties as ties. `p_true_release` has its own.
        on_error: "skip" notes a pair that cannot be judged and leaves it below those that are.
    """

    scorer: Scorer
    tie: Tie = "none"
    on_error: Literal["raise", "skip"] = "raise"
    _breaker: TrueFalse | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.tie not in ("none", "entropy"):
            raise UsageError(f"tie is '{self.tie}'.", where="tie", do="Give 'none' or 'entropy'.")
        if self.tie == "entropy":
            if not isinstance(self.scorer, Asking):
                raise UsageError(
                    "Ties are broken by the judge that a built-in scorer asks.",
                    where="tie",
                    do="Use tie='none' with a scorer of your own.",
                )
            self._breaker = TrueFalse(self.scorer.judge, self.scorer.phrasing, section="match")

    @classmethod
    def load(
        cls,
        model: LoadedModel | str | Path = "tiny",
        *,
        scorer: str = "likelihood",
        prompt: str | Path | None = None,
        tie: Tie = "none",
        on_error: Literal["raise", "skip"] = "raise",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Reranker:
        """A reranker for a model folder, a hub id, "tiny" (the shipped model), or a model with its head.

        Args:
            scorer: a name of `SCORERS`.
            prompt: a wording's name ("official", "shipped"), or the path of one's own (TOML). None: "shipped"
                for the shipped model, wherever it lies, and "official" for every other.
            device, dtype, trust_remote_code: as for `Encoder.load`.
            options: attributes of `Judge` (cache, token_budget, image_size, share_prefix, workers).

        Raises:
            UsageError: unknown scorer or wording, or a model without a language head.
            ModelError: no such model.
        """
        maker = SCORERS.get(scorer)
        if isinstance(model, LoadedModel):
            loaded = model
        else:
            loaded = load_model(
                model, device=device, dtype=dtype, head=True, trust_remote_code=trust_remote_code
            )
        need_head(loaded)
        phrasing = get_phrasing(default_phrasing(loaded) if prompt is None else prompt)
        return cls(maker(Judge(loaded, **options), phrasing), tie=tie, on_error=on_error)

    def rank(self, query: Item, candidates: Sequence[Item]) -> list[tuple[str, float]]:
        """Candidate ids and scores, best first; ties, and what has no score (NaN), in the order given.

        Raises:
            ItemError, UsageError: see `Asking.score`.
        """
        scores_C = np.asarray(self.scorer.score(query, candidates), np.float64)
        keys_C = np.where(np.isnan(scores_C), np.inf, -scores_C)
        order_C = np.argsort(keys_C, kind="stable")
        return [(candidates[c].id, float(scores_C[c])) for c in order_C]

    def rerank(
        self,
        task: Task,
        ranking: Ranking,
        *,
        top: int = 10,
        queries: Sequence[str] | None = None,
        fuse: str = "fine",
        progress: Progress | None = None,
    ) -> Reranked:
        """Judge the first `top` candidates of every query and rank anew.

        Args:
            task: the items behind the ids.
            ranking: of this task; at least `top` ranks, or whole pools.
            top: candidates of a query to judge; all of a smaller pool.
            queries: ids of the queries to rerank, None: all of the ranking. The answer is of these alone.
            fuse: "fine", "zscore" or "rrf" (`clearsight.ranking.fusion.fuse`).
            progress: told of questions (built-in scorers) or queries done.

        Raises:
            DataError: the ranking is of another task, or names candidates that the task lacks.
            UsageError: `top` below 1 or beyond what the ranking keeps; an unknown fusion.
            ItemError: a pair cannot be judged (`on_error="raise"`).
        """
        coarse = ranking if queries is None else of_queries(ranking, queries)
        pairs, notes = Pairs(task, coarse, top), Notes(skip=self.on_error == "skip")
        before, progress = self._asked, progress or Silent()
        reads = list(judged(self.scorer, pairs, notes, progress))
        fine_QT = _table([read.scores_C for read in reads], pairs.depth)
        entropy_QT = self._entropies(pairs, fine_QT, reads, notes, progress)
        fused = fuse_scores(
            coarse,
            fine_QT,
            how=fuse,
            entropy_QT=entropy_QT,
            unparsed="below" if notes.skip else "coarse",
        )
        return Reranked(
            ranking=fused.ranking,
            coarse=coarse,
            fine_QT=fine_QT,
            entropy_QT=entropy_QT,
            asked=sum(read.asked for read in reads),
            unparsed=sum(read.unparsed for read in reads),
            fell_back=tuple(coarse.query_ids[q] for q in np.flatnonzero(fused.fell_back_Q)),
            cut_tied=int(fused.cut_tied_Q.sum()),
            skipped=notes.skipped,
            scored=int((~np.isnan(fine_QT)).sum()),
            questions=self._asked - before,
        )

    @property
    def _asked(self) -> int:
        return self.scorer.judge.asked if isinstance(self.scorer, Asking) else 0

    def _entropies(
        self, pairs: Pairs, fine_QT: Floats, reads: Sequence[Read], notes: Notes, progress: Progress
    ) -> Floats | None:
        """What breaks ties: the scorer's own, or asked for where candidates of a query tie."""
        own = [read.entropy_C for read in reads if read.entropy_C is not None]
        if self._breaker is None:
            return _table(own, pairs.depth) if len(own) == len(reads) and own else None
        assert isinstance(self.scorer, Asking)
        entropy_QT = np.full(fine_QT.shape, np.nan)
        for start in range(0, len(pairs), QUERIES_AT_ONCE):
            tied: list[tuple[int, NDArray[np.intp], list[Question]]] = []
            for q in range(start, min(start + QUERIES_AT_ONCE, len(pairs))):
                at = _tied(fine_QT[q])
                if len(at):
                    query, candidates = pairs[q]
                    tied.append((q, at, self._breaker.ask(query, [candidates[t] for t in at])))
            questions = [question for *_, some in tied for question in some]
            refuse = refusal(questions, notes)
            rows = self.scorer.judge.answer(questions, refuse=refuse, progress=progress)
            for q, at, some in tied:
                mine, rows = rows[: len(some)], rows[len(some) :]
                entropy_QT[q, at] = self._breaker.entropies(mine, len(at))
        return entropy_QT


def _table(rows: Sequence[Floats], depth: int) -> Floats:
    """Rows of different lengths, filled up with NaN."""
    table = np.full((len(rows), depth), np.nan)
    for row_T, values in zip(table, rows, strict=True):
        row_T[: len(values)] = values
    return table


def _tied(fine_T: Floats) -> NDArray[np.intp]:
    """Places whose score another has too."""
    values, inverse_T, count = np.unique(fine_T, return_inverse=True, return_counts=True, equal_nan=False)
    del values
    return np.flatnonzero((count[inverse_T] > 1) & ~np.isnan(fine_T))
