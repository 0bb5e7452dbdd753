"""Answers that a model is asked for, as tokens: every way to write each, or the whole words where that fails.

Legend of shapes: S answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.models.judge import Judge
from clearsight.models.judge_questions import Next, Question, Said
from clearsight.models.prompts import Part, Span, Turn
from clearsight.rerank.prompts import Worded

How: TypeAlias = Literal["tokens", "first pieces", "whole words"]


@dataclass(frozen=True, slots=True)
class Answers:
    """How the probabilities of some answers are read off a model.

    Attributes:
        words: the answers.
        how: "tokens": an answer is the sum over the tokens that write it, in every casing, with and without a
            space before it. "first pieces": the tokenizer splits it; the first piece of every casing, as it
            would follow the prompt, which no other answer shares. "whole words": first pieces are shared, so
            each answer is scored as a text of its own (one more question each).
        sets: token ids of each answer; empty for "whole words".
    """

    words: tuple[str, ...]
    how: How
    sets: tuple[tuple[int, ...], ...]

    @property
    def questions(self) -> int:
        """How many questions a prompt takes."""
        return len(self.words) if self.how == "whole words" else 1

    def ask(self, worded: Worded, where: str) -> list[Question]:
        """The questions of a prompt."""
        if self.how == "whole words":
            return [
                Question(worded.turns, worded.images, Said(word, end=False), where) for word in self.words
            ]
        return [Question(worded.turns, worded.images, Next(self.sets), where)]

    def log_p(self, rows: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float64]:
        """Log p of each answer, from the rows of `ask`; NaN where one is missing."""
        if any(row is None for row in rows):
            return np.full(len(self.words), np.nan)
        if self.how == "whole words":
            return np.array([row[0] for row in rows if row is not None], np.float64)
        (row,) = rows
        assert row is not None
        return row[: len(self.words)].astype(np.float64)


def answers(judge: Judge, words: Sequence[str]) -> Answers:
    """The answers as this model's tokenizer knows them.

    Raises:
        UsageError: two answers are the same words but for their casing.
    """
    if len({word.casefold() for word in words}) < len(words):
        raise UsageError(f"Two of the answers {', '.join(words)} are one word.", do="Choose different ones.")
    whole = [_tokens(judge.loaded.tokenizer, word) for word in words]
    # The first token that would be written must be among them: some tokenizers put a lone space before it.
    if all(first_piece(judge, word) in tokens for word, tokens in zip(words, whole, strict=True)):
        return Answers(tuple(words), "tokens", tuple(whole))
    pieces = [
        tuple(sorted({first_piece(judge, form) for form in (word, word.lower(), word.upper())}))
        for word in words
    ]
    if len({token for some in pieces for token in some}) == sum(map(len, pieces)):
        return Answers(tuple(words), "first pieces", tuple(pieces))
    return Answers(tuple(words), "whole words", ())


def first_piece(judge: Judge, word: str) -> int:
    """The first token of a word as it would follow a prompt."""
    prompt = Turn("user", (Part("text", (Span("?"),)),))
    posed = judge.poser(Question((prompt,), (), Said(word)), ())
    return int(posed.ids_L[posed.prompt])


def _tokens(tokenizer: Any, word: str) -> tuple[int, ...]:
    """Every ordinary token that reads as the word, whatever its casing and the space before it."""
    special = set(tokenizer.all_special_ids)
    wanted = word.casefold()
    # Byte-level tokenizers write a space as G with dot above, SentencePiece as a low line.
    near = [
        token
        for piece, token in tokenizer.get_vocab().items()
        if piece.lstrip("Ġ▁ ").casefold() == wanted and token not in special
    ]
    return tuple(sorted(t for t in near if tokenizer.decode([t]).strip().casefold() == wanted))
