"""What stands behind the endpoints: a model, an index, and their lanes through the batcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import ItemError, UsageError
from clearsight.serve.batcher import Lane
from clearsight.serve.judging import Judgement, Pairing, judge
from clearsight.types import Item, Role

if TYPE_CHECKING:
    from clearsight.index.nouns import Query, Searchable
    from clearsight.models.encoder import Encoder
    from clearsight.rerank import Reranker

RERANKED_AT_ONCE = 8
"""Questions to the reranker that share a batch; each has many candidates."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector of length 1, and how many tokens of text went in."""

    row_D: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, eq=False)
class Service:
    """A model and an index that are loaded.

    Attributes:
        encoder: embeds what /v1/embeddings and /v2/embed are given; the index has its own use of it.
        rerankers: for questions with words, and for pictures alone (a likelihood needs words); None for a
            model that cannot judge.
        batch: items that are embedded together.
    """

    encoder: Encoder
    index: Searchable
    rerankers: tuple[Reranker, Reranker] | None = None
    batch: int = 64

    @cached_property
    def model(self) -> str:
        """The name that clients ask for: of a folder its last part."""
        name = self.encoder.loaded.name
        return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name

    @cached_property
    def width(self) -> int:
        """D, from a first pass of the model, which also warms it up."""
        return len(self._embed([Item("first", text="a")], "query")[0].row_D)  # type: ignore[union-attr]

    @cached_property
    def embeds(self) -> dict[Role, Lane]:
        """Items -> `Embedded`, by role."""
        return {
            "query": Lane("embed_query", lambda items: self._embed(items, "query"), self.batch),
            "candidate": Lane("embed_document", lambda items: self._embed(items, "candidate"), self.batch),
        }

    @cached_property
    def searches(self) -> Lane:
        """`Query` -> `Results`."""

        def run(queries: list[Query]) -> Sequence[Any]:
            return self.index.search_many(queries)

        return Lane("search", run, self.batch)

    @cached_property
    def judges(self) -> Lane:
        """`Pairing` -> `Judgement`."""
        return Lane("rerank", self._judge, RERANKED_AT_ONCE)

    @cached_property
    def _skipping(self) -> Encoder:
        """The encoder, naming a bad item beside the others' vectors and keeping nothing that it is sent."""
        return replace(self.encoder, on_error="skip", cache=None)

    def need_reranker(self) -> None:
        """
        Raises:
            UsageError: the model cannot judge.
        """
        if self.rerankers is None:
            raise UsageError(
                f"The model '{self.model}' cannot rerank: it has no language head.",
                do="Serve an index of a generative model.",
            )

    def _embed(self, items: Sequence[Item], role: Role) -> list[Embedded | ItemError]:
        numbered = [replace(item, id=str(n)) for n, item in enumerate(items)]
        done = self._skipping.embed(numbered, role)
        row_of = dict(zip(done.ids, done.rows_ND, strict=True))
        answers: list[Embedded | ItemError] = []
        for n, item in enumerate(items):
            row_D = row_of.get(str(n))
            if row_D is None:
                answers.append(ItemError(done.skipped[str(n)], where=item.id))
            else:
                answers.append(Embedded(_unit(row_D), self._tokens(item.text)))
        return answers

    def _tokens(self, text: str | None) -> int:
        if text is None:
            return 0
        return len(self.encoder.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _judge(self, asked: list[Pairing]) -> list[Judgement | Exception]:
        assert self.rerankers is not None
        worded, wordless = self.rerankers
        answers: dict[int, Judgement | Exception] = {}
        for reranker, is_mine in ((worded, True), (wordless, False)):
            places = [n for n, one in enumerate(asked) if (one.query.text is not None) == is_mine]
            if places:
                answers.update(zip(places, judge(reranker, [asked[n] for n in places]), strict=True))
        return [answers[n] for n in range(len(asked))]


def _unit(row_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """The row at length 1; a row of zeros stays."""
    length = float(np.linalg.norm(row_D.astype(np.float64)))
    return (row_D / (length or 1.0)).astype(np.float32)
