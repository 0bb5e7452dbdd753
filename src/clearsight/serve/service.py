"""What stands behind the endpoints: an index with its model, and their lanes through the batcher.

Legend of shapes: N items of a batch, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import ItemError, UsageError
from clearsight.index.model import reads, reranker_of, width_of, writes
from clearsight.serve.batcher import Lane
from clearsight.serve.judging import judge
from clearsight.types import Item, Modality, Role

if TYPE_CHECKING:
    from clearsight.index.index import Index
    from clearsight.index.nouns import Results
    from clearsight.models.encoder import Encoder
    from clearsight.sae import SparseAutoencoder

Space: TypeAlias = Literal["raw", "repaired"]

RERANKED_AT_ONCE = 8
"""Questions to the reranker that share a batch; each has many candidates."""
REPAIRED = ":repaired"
"""What follows the model's name where vectors are wanted as the index's repair makes them."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector of length 1, and how many tokens of text went in."""

    row_D: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class Again:
    """Hits that are to be judged again: the first `top`."""

    results: Results
    top: int


@dataclass(frozen=True, eq=False)
class Service:
    """An index whose model is loaded.

    Attributes:
        batch: items that are embedded together.
        sae: an autoencoder of this model, by which matches are explained; None: they are not.
        concepts: its concepts' names, where they have any.
    """

    index: Index
    batch: int = 64
    sae: SparseAutoencoder | None = None
    concepts: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def encoder(self) -> Encoder:
        """The index's, naming a bad item beside the others' vectors and keeping nothing that it is sent."""
        return replace(self.index.encoder, on_error="skip", cache=None)

    @cached_property
    def model(self) -> str:
        """The name that clients ask for: of a folder its last part."""
        name = self.encoder.loaded.name
        return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name

    @property
    def models(self) -> dict[str, Space]:
        """The names that clients may ask for, and which vectors they get."""
        names: dict[str, Space] = {self.model: "raw"}
        if self.index.store.view().repair:
            names[self.model + REPAIRED] = "repaired"
        return names

    @cached_property
    def reads(self) -> frozenset[Modality]:
        return reads(self.encoder)

    @cached_property
    def reranks(self) -> bool:
        return writes(self.encoder)

    @cached_property
    def width(self) -> int:
        """D, from a first pass of the model, which also warms it up."""
        return width_of(self.encoder)

    @cached_property
    def embeds(self) -> dict[tuple[Role, Space], Lane]:
        """`Item` -> `Embedded`."""
        roles: tuple[Role, ...] = ("query", "candidate")
        spaces: tuple[Space, ...] = ("raw", "repaired")
        return {
            (role, space): Lane(f"embed_{role}_{space}", self._embedder(role, space), self.batch)
            for role in roles
            for space in spaces
        }

    @cached_property
    def searches(self) -> Lane:
        """`Query` -> `Results`."""
        return Lane("search", self.index.search_many, self.batch)

    @cached_property
    def judges(self) -> Lane:
        """`Pairing` -> `Judgement`."""
        reranker = reranker_of(self.encoder, "likelihood")
        return Lane("rerank", lambda asked: judge(reranker, asked), RERANKED_AT_ONCE)

    @cached_property
    def agains(self) -> Lane:
        """`Again` -> `Results`."""
        return Lane("rerank_hits", lambda asked: [_or_fault(self._again, one) for one in asked], 1)

    @cached_property
    def explains(self) -> Lane:
        """`Results` -> `Results` with reasons."""
        return Lane("explain", lambda given: [_or_fault(self._explained, one) for one in given], 1)

    def need_reranker(self) -> None:
        """
        Raises:
            UsageError: the model cannot judge.
        """
        if not self.reranks:
            raise UsageError(
                f"The model '{self.model}' cannot rerank: it has no language head.",
                do="Serve an index of a generative model.",
            )

    def _embedder(self, role: Role, space: Space) -> Callable[[list[Item]], list[Embedded | ItemError]]:
        def run(items: list[Item]) -> list[Embedded | ItemError]:
            numbered = [replace(item, id=str(n)) for n, item in enumerate(items)]
            done = self.encoder.embed(numbered, role)
            fitted = self.index.fitted("" if space == "raw" else None)
            rows_ND = fitted.rows(done.rows_ND, done.modality_N, role)
            row_of = dict(zip(done.ids, rows_ND, strict=True))
            answers: list[Embedded | ItemError] = []
            for n, item in enumerate(items):
                if str(n) in row_of:
                    answers.append(Embedded(row_of[str(n)], self._tokens(item.text)))
                else:
                    answers.append(ItemError(done.skipped[str(n)], where=item.id))
            return answers

        return run

    def _tokens(self, text: str | None) -> int:
        if text is None:
            return 0
        return len(self.encoder.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _again(self, asked: Again) -> Results:
        """By the likelihood of words, where the question has any; else by whether the model says True."""
        query, words = asked.results.query, asked.results.query.text is not None
        if query.like is not None:
            words = any("text" in hit.modality for hit in self.index.items([query.like]))
        return self.index.rerank(asked.results, "likelihood" if words else "p_true", top=asked.top)

    def _explained(self, results: Results) -> Results:
        assert self.sae is not None
        return self.index.explain(results, self.sae, names=self.concepts)


def _or_fault(work: Callable[[Any], Any], given: Any) -> Any:
    try:
        return work(given)
    except (ItemError, UsageError) as fault:
        return fault
