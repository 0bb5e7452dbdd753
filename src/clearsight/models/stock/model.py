"""A sentence-transformers model as the encoder sees it: what it reads, and under which words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from clearsight.models.prompts import Rule, Template
from clearsight.types import Item, Modality, Role

OWN_PROMPT = Template("own", "The prompts that come with the model.", (Rule(),))
"""Stands where an encoder's prompt is shown: the words are in the origin, under `prompts`."""

_INSTRUCTION = re.compile(r"(Instruct:\s*)(.*?)(\n\s*Query:\s*)", re.DOTALL)
"""The form that E5, GTE, Qwen3-Embedding and their kin were trained on."""


@dataclass(frozen=True, eq=False)
class StockModel:
    """What embeds, and what is known of it.

    Attributes:
        pipeline: the library's SentenceTransformer, in eval mode; a last Normalize is taken off, as
            embeddings are kept unnormalised.
        accepts: what an item may hold.
        prompts: the words before (chat models: the system turn above) an item of either role; "" for none.
        chat: whether items are worded by a chat template, where a prompt is the system turn.
        context: most tokens of a text; the library cuts what is longer. None: no limit is known.
        counter: counts the tokens of a text; None where the model has no tokenizer of its own.
        truncate: entries of a vector that are kept; None: all.
        facts: what else changes a vector; part of the origin.
    """

    pipeline: Any
    accepts: frozenset[Modality]
    prompts: Mapping[Role, str]
    chat: bool
    context: int | None
    counter: Tokenizer | None
    truncate: int | None
    facts: Mapping[str, Any]

    def prompt(self, item: Item, role: Role) -> str:
        """The words for an item: its instruction, where the model has a place for one, else the role's.

        The place is `Instruct: ...\\nQuery:` in the role's own prompt, or a chat model's system turn. Other
        models have none: the instruction is left out, as by a template without one.
        """
        words = self.prompts[role]
        if item.instruction is None:
            return words
        form = _INSTRUCTION.fullmatch(words)
        if form is not None:
            return f"{form[1]}{item.instruction}{form[3]}"
        return item.instruction if self.chat else words

    def limit(self, max_tokens: int | None) -> int | None:
        """Most tokens of a text."""
        known = [one for one in (max_tokens, self.context) if one is not None]
        return min(known) if known else None
