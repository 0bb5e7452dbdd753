"""The door of the scorers, and the ones that judge a pair: p_true, choice, number.

A scorer says what to ask about a query and its candidates, and reads scores off the answers; the judge asks,
many queries at a time.

Legend of shapes: C candidates of a query, O orders of the labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Next, Question, Written
from clearsight.registry import Registry
from clearsight.rerank.answers import Answers, answers, first_piece
from clearsight.rerank.prompts import Phrasing, Worded
from clearsight.types import Item, Modality

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = "Sequence[NDArray[np.float32] | None]"


@runtime_checkable
class Scorer(Protocol):
    """Scores candidates of one query."""

    def score(self, query: Item, candidates: Sequence[Item]) -> Floats:
        """One score for each candidate, higher is better; NaN where none could be had."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What the answers about one query say.

    Attributes:
        scores_C: higher is better; NaN where an answer is missing or could not be parsed.
        asked, unparsed: how many written answers there were, and how many of them could not be parsed.
        entropy_C: of the next token, where the scorer breaks its ties by it.
        orders_CO: the score under each order of the labels (choice).
        chosen_O: the place of the chosen option in each order (listwise), -1 where it could not be parsed.
    """

    scores_C: Floats
    asked: int = 0
    unparsed: int = 0
    entropy_C: Floats | None = None
    orders_CO: Floats | None = None
    chosen_O: NDArray[np.int64] | None = None


class Form(Protocol):
    """What a built-in scorer asks, and how it reads the answers."""

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]: ...
    def read(self, rows: Rows, candidates: int, query_id: str) -> Read: ...


@dataclass(frozen=True, eq=False)
class Asking:
    """A scorer that asks a judge.

    Attributes:
        name: as registered.
        judge, form: who is asked, and what.
        phrasing: the wording of the questions.
    """

    name: str
    judge: Judge
    form: Form
    phrasing: Phrasing

    def score(self, query: Item, candidates: Sequence[Item]) -> Floats:
        """See `Scorer`; the order of the candidates matters to listwise scorers alone.

        Raises:
            ItemError: an item is empty, cannot be read, or does not fit.
            UsageError: the scorer says nothing about such a pair, or the model reads one image a prompt.
        """
        return self.read(query, candidates).scores_C

    def read(self, query: Item, candidates: Sequence[Item]) -> Read:
        """As `score`, with all that the answers say."""
        if not candidates:
            return Read(np.empty(0))
        rows = self.judge.answer(self.form.ask(query, candidates))
        return self.form.read(rows, len(candidates), query.id)


ScorerMaker: TypeAlias = Callable[[Judge, Phrasing], Scorer]
SCORERS: Registry[ScorerMaker] = Registry("scorer")


def make(name: str, form: Callable[..., Form], **options: Any) -> None:
    """Register a built-in scorer under its form and options."""
    SCORERS.add(name, lambda judge, phrasing: Asking(name, judge, form(judge, phrasing, **options), phrasing))


def where(query: Item, candidate: Item) -> str:
    """How messages name a pair."""
    return f"{query.id} x {candidate.id}"


@dataclass(eq=False)
class TrueFalse:
    """Probability of True against False as the next token.

    With `release` as the authors' code has it: the probability of "True" over the whole vocabulary, cut to
    two decimals; the entropy of the next token, over the whole vocabulary, breaks the ties.

    Attributes:
        section: the form of the wording that asks.
    """

    judge: Judge
    phrasing: Phrasing
    release: bool = False
    section: str = "true_false"
    words: Answers = field(init=False)

    def __post_init__(self) -> None:
        true, false = self.phrasing.word("true"), self.phrasing.word("false")
        self.words = answers(self.judge, (true, false))
        self._exact = first_piece(self.judge, true)

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]:
        return [
            question
            for candidate in candidates
            for question in self._about(
                self.phrasing.pair(self.section, query, candidate), where(query, candidate)
            )
        ]

    def blank(self, query: Modality, candidates: Sequence[Item]) -> list[Question]:
        """The same of a query of which nothing is shown."""
        return [
            question
            for candidate in candidates
            for question in self._about(self.phrasing.blank(self.section, query, candidate), candidate.id)
        ]

    def _about(self, worded: Worded, name: str) -> list[Question]:
        # One more set, so that both variants, and the entropy, are read off one answer.
        exact = Question(worded.turns, worded.images, Next((*self.words.sets, (self._exact,))), name)
        return [exact, *(self.words.ask(worded, name) if self.words.how == "whole words" else [])]

    def read(self, rows: Rows, candidates: int, query_id: str) -> Read:
        scores_C, entropy_C = np.full(candidates, np.nan), np.full(candidates, np.nan)
        for c, (first, *rest) in enumerate(_parted(rows, candidates)):
            if first is None:
                continue
            entropy_C[c] = first[-1]
            if self.release:
                scores_C[c] = np.floor(np.exp(float(first[-2])) * 100) / 100
            else:
                scores_C[c] = against(self.words.log_p(rest or [first]))
        return Read(scores_C, entropy_C=entropy_C if self.release else None)

    def entropies(self, rows: Rows, candidates: int) -> Floats:
        """The entropy of the next token (nats) for each candidate, from the rows of `ask`."""
        parted = _parted(rows, candidates)
        return np.array([np.nan if first is None else first[-1] for first, *_ in parted], np.float64)


@dataclass(eq=False)
class Choice:
    """Two labelled statements (FreeRet): the probability of the label of "Yes" against the other's, averaged
    over both orders of the statements, so that a liking for a label cancels."""

    judge: Judge
    phrasing: Phrasing
    words: Answers = field(init=False)

    def __post_init__(self) -> None:
        self.words = answers(self.judge, ("A", "B"))

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]:
        return [
            question
            for candidate in candidates
            for labels in self._orders()
            for question in self.words.ask(
                self.phrasing.pair("choice", query, candidate, **labels), where(query, candidate)
            )
        ]

    def blank(self, query: Modality, candidates: Sequence[Item]) -> list[Question]:
        """The same of a query of which nothing is shown."""
        return [
            question
            for candidate in candidates
            for labels in self._orders()
            for question in self.words.ask(
                self.phrasing.blank("choice", query, candidate, **labels), candidate.id
            )
        ]

    def read(self, rows: Rows, candidates: int, query_id: str) -> Read:
        orders_CO = np.full((candidates, 2), np.nan)
        for c, some in enumerate(_parted(rows, candidates)):
            half = len(some) // 2
            orders_CO[c, 0] = against(self.words.log_p(some[:half]))
            orders_CO[c, 1] = against(self.words.log_p(some[half:])[::-1])
        return Read(orders_CO.mean(axis=1), orders_CO=orders_CO)

    def _orders(self) -> tuple[dict[str, str], dict[str, str]]:
        yes, no = self.phrasing.word("yes"), self.phrasing.word("no")
        return {"a": yes, "b": no}, {"a": no, "b": yes}


@dataclass(eq=False)
class Digit:
    """The expected digit, 0 (no match) to 9: the sum of d p(d) over the sum of p(d), of the next token."""

    judge: Judge
    phrasing: Phrasing
    words: Answers = field(init=False)

    def __post_init__(self) -> None:
        self.words = answers(self.judge, tuple("0123456789"))

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]:
        return [
            question
            for candidate in candidates
            for question in self.words.ask(
                self.phrasing.pair("digit", query, candidate), where(query, candidate)
            )
        ]

    def blank(self, query: Modality, candidates: Sequence[Item]) -> list[Question]:
        """The same of a query of which nothing is shown."""
        return [
            question
            for candidate in candidates
            for question in self.words.ask(self.phrasing.blank("digit", query, candidate), candidate.id)
        ]

    def read(self, rows: Rows, candidates: int, query_id: str) -> Read:
        scores_C = []
        for some in _parted(rows, candidates):
            log_p = self.words.log_p(some)
            p = np.exp(log_p - log_p.max())
            scores_C.append(float((p * np.arange(10)).sum() / p.sum()))
        return Read(np.array(scores_C))


@dataclass(eq=False)
class WrittenNumber:
    """A number from 0 to 100 that the model writes (RetLLM as its paper has it); NaN where it writes none."""

    judge: Judge
    phrasing: Phrasing
    tokens: int = 8

    def ask(self, query: Item, candidates: Sequence[Item]) -> list[Question]:
        asked = []
        for candidate in candidates:
            worded = self.phrasing.pair("number", query, candidate)
            name = where(query, candidate)
            asked.append(Question(worded.turns, worded.images, Written(self.tokens), name))
        return asked

    def read(self, rows: Rows, candidates: int, query_id: str) -> Read:
        scores_C = np.array([self._number(row) for row in rows])
        asked = sum(row is not None for row in rows)
        refused = candidates - asked
        return Read(scores_C, asked=asked, unparsed=int(np.isnan(scores_C).sum()) - refused)

    def _number(self, row: NDArray[np.float32] | None) -> float:
        found = None if row is None else re.search(r"\d+(?:\.\d+)?", written(self.judge, row))
        value = np.nan if found is None else float(found[0])
        return value if value <= 100 else np.nan


def written(judge: Judge, row_T: NDArray[np.float32]) -> str:
    """The text of a `Written` row."""
    ids = [int(token) for token in row_T if token >= 0]
    return str(judge.loaded.tokenizer.decode(ids, skip_special_tokens=True))


def against(log_p: Floats) -> float:
    """The probability of the first answer against the second."""
    return float(1 / (1 + np.exp(np.clip(log_p[1] - log_p[0], -700, 700))))


def _parted(rows: Rows, candidates: int) -> list[Rows]:
    """The rows of each candidate: equally many."""
    each = len(rows) // candidates
    return [rows[c * each : (c + 1) * each] for c in range(candidates)]


make("p_true", TrueFalse)
make("p_true_release", TrueFalse, release=True)
make("choice", Choice)
make("number", Digit)
make("number_paper", WrittenNumber)
