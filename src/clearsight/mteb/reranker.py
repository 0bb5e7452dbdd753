"""A reranker as mteb's cross-encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import clearsight
from clearsight.errors import UsageError
from clearsight.models.judge_questions import Written
from clearsight.mteb.given import blocks_of, instruction_of, items_of, meta_of, owned
from clearsight.rerank import Reranker
from clearsight.rerank.listwise import Listwise
from clearsight.rerank.scorers import Asking
from clearsight.types import Item

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

LAST = -1e9
"""The score of a pair that has none."""


class MtebReranker:
    """A cross-encoder of mteb 2 (its `CrossEncoderProtocol`): a scorer judges pairs, without training.

    A pair that has no score (an answer that could not be parsed) stands last.

    Args:
        reranker: with a built-in scorer that judges pairs.
        name: as for `MtebRetriever`.

    Raises:
        UsageError: a listwise scorer (it sees all candidates at once, mteb gives pairs), or one of one's own.
    """

    def __init__(self, reranker: Reranker, *, name: str | None = None) -> None:
        scorer = reranker.scorer
        if not isinstance(scorer, Asking) or isinstance(scorer.form, Listwise):
            raise UsageError(
                "mteb gives pairs, and this scorer is none that judges pairs.",
                where="scorer",
                do="Choose p_true, choice, number or likelihood.",
            )
        self._scorer = scorer
        self.name = name or owned(scorer.judge.loaded.name)

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Sequence[Any]]],
        inputs2: Iterable[Mapping[str, Sequence[Any]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Scores (N,) of the pairs of query n and document n, higher is better.

        Args:
            inputs1, inputs2: queries and documents, pair by pair, as for `MtebRetriever.encode`.
            task_metadata: the task's; the query's instruction is read.
            hf_split, hf_subset, prompt_type, kwargs: part of the protocol; nothing here depends on them.

        Raises:
            ItemError: a pair that cannot be judged.
            UsageError: a pair about which the scorer says nothing, or several images for a model of one.
        """
        queries = blocks_of(items_of(inputs1, instruction_of(task_metadata, "query")))
        documents = blocks_of(items_of(inputs2, None))
        scores = [self._scores(*both) for both in zip(queries, documents, strict=True)]
        return np.concatenate([*scores, np.empty(0)]).astype(np.float32)

    def _scores(self, queries: Sequence[Item], documents: Sequence[Item]) -> NDArray[np.float64]:
        form, asked = self._scorer.form, []
        for query, document in zip(queries, documents, strict=True):
            asked.append(form.ask(query, [document]))
        rows = self._scorer.judge.answer([question for some in asked for question in some])
        scores_N = np.empty(len(asked))
        for n, some in enumerate(asked):
            mine, rows = rows[: len(some)], rows[len(some) :]
            scores_N[n] = form.read(mine, 1, queries[n].id).scores_C[0]
        return np.nan_to_num(scores_N, nan=LAST)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb keeps with the results; the revision changes with everything that changes a score.

        Raises:
            ModelError: mteb is not installed.
        """
        phrasing, judge = self._scorer.phrasing, self._scorer.judge
        origin = {**judge.origin(Written(1)), "scorer": self._scorer.name, "wording": asdict(phrasing)}
        return meta_of(
            self.name,
            origin,
            judge.loaded,
            max_tokens=judge.loaded.context,
            similarity_fn_name=None,
            modalities=["text", "image"],
            model_type=["cross-encoder"],
            experiment_kwargs={
                "clearsight": clearsight.__version__,
                "scorer": self._scorer.name,
                "wording": phrasing.name,
            },
        )
