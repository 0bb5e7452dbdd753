"""The captioner: a generative model says what it sees, greedily, for many items at once.

Legend of shapes: B items of a batch, S tokens of the padded prompt, T tokens written so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from clearsight.errors import ItemError, UsageError
from clearsight.models.batching import fill_batches
from clearsight.models.feed import Fed, feed
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.prepare import Batch, Prepared, Preparer, collate
from clearsight.models.prompts import Template, get_template
from clearsight.progress import Progress, Silent
from clearsight.types import Item, unique_ids

_COMPACT_BELOW = (
    0.75  # of a batch still writing; copying the cache then costs less than feeding finished rows
)


class Captioner:
    """Writes a text for each item: the most likely token at every step, until the model ends or the limit.

    In float32 an item's text does not depend on what else is captioned: prompts of different length share a
    batch only under explicit positions and full attention (right padding is then masked and never counted);
    elsewhere a batch holds prompts of one length.

    Args:
        model: a model with its language head (`load_model(..., head=True)`), or a name to load.
        prompt: the template that asks.
        max_new_tokens: at most this many tokens are written.
        token_budget: prompt tokens (and room for the answer) of one batch.
        workers: threads that open and prepare.
        image_size: as for the encoder.

    Raises:
        UsageError: the model has no language head.
    """

    def __init__(
        self,
        model: LoadedModel | str | Path = "tiny",
        prompt: str | Path | Template = "caption",
        *,
        max_new_tokens: int = 64,
        token_budget: int = 8192,
        workers: int = 2,
        image_size: int | None = None,
    ) -> None:
        self.loaded = model if isinstance(model, LoadedModel) else load_model(model, head=True)
        if self.loaded.kind == "contrastive" or self.loaded.model.get_output_embeddings() is None:
            raise UsageError(
                f"The model '{self.loaded.name}' has no language head to write with.",
                do="Load a generative model with head=True.",
            )
        self.template = prompt if isinstance(prompt, Template) else get_template(prompt)
        self.max_new_tokens, self.token_budget, self.workers = max_new_tokens, token_budget, workers
        self.preparer = Preparer(self.loaded, self.template, generation_prompt=True, image_size=image_size)
        self._stops = torch.tensor(stop_tokens(self.loaded), device=self.loaded.device)

    def caption(self, items: Sequence[Item], *, progress: Progress | None = None) -> list[str]:
        """One text for each item, in their order, without surrounding space.

        Raises:
            ItemError: an item cannot be prepared; the message names it.
            DataError: two items have one id.
        """
        unique_ids((item.id for item in items), what="item")
        written = self.captions(dict(enumerate(items)), progress=progress)
        return [written[i] for i in range(len(items))]

    def captions(
        self,
        items: Mapping[int, Item],
        *,
        refuse: Callable[[int, ItemError], None] | None = None,
        progress: Progress | None = None,
    ) -> dict[int, str]:
        """Texts under the items' keys, without those that `refuse` was told of (it may raise instead)."""
        progress = progress or Silent()
        progress.start(len(items), "captioning")
        texts: dict[int, str] = {}
        try:
            for window in feed(items, self.preparer, "query", workers=self.workers, refuse=refuse or _raise):
                for batch in self.batches(window):
                    tokens = self.write([fed.prepared for fed in batch])
                    words = self.loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)
                    texts.update((fed.index, one.strip()) for fed, one in zip(batch, words, strict=True))
                    progress.advance(len(batch))
        finally:
            progress.close()
        return texts

    def batches(self, window: Sequence[Fed]) -> list[list[Fed]]:
        """What may be written together."""
        lengths = [len(fed.prepared.ids_L) + self.max_new_tokens for fed in window]
        groups: dict[int, list[int]] = {}
        padded = self._pads(window[0].prepared)
        for i, length in enumerate(lengths):
            groups.setdefault(0 if padded else length, []).append(i)
        return [
            [window[group[i]] for i in batch]
            for group in groups.values()
            for batch in fill_batches([lengths[i] for i in group], self.token_budget, call_tokens=10**6)
        ]

    def _pads(self, prepared: Prepared) -> bool:
        """Whether prompts of different lengths may share a batch: decoding continues at positions of our
        own, and no layer counts distance by places in the cache (sliding windows do)."""
        explicit = "position_ids" in collate([prepared], self.loaded).inputs
        return explicit and all(type(layer) is DynamicLayer for layer in self._empty_cache().layers)

    def _empty_cache(self) -> DynamicCache:
        return DynamicCache(config=cast(Any, self.loaded.base.get_decoder()).config)

    @torch.inference_mode()
    def write(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """The tokens written for each item, without the one that ends it."""
        batch = collate(prepared, self.loaded)
        state = _Decoding.begin(batch, self._empty_cache())
        logits_BV = self._prompt_logits(batch, state.cache)
        written: list[list[int]] = [[] for _ in prepared]
        for step in range(self.max_new_tokens):
            next_B = logits_BV.argmax(dim=-1)
            going_B = ~torch.isin(next_B, self._stops)
            for row, token, going in zip(state.rows, next_B.tolist(), going_B.tolist(), strict=True):
                if going and row is not None:
                    written[row].append(token)
            going_B &= torch.tensor([row is not None for row in state.rows], device=going_B.device)
            if not going_B.any() or step + 1 == self.max_new_tokens:
                break
            next_B = state.drop_finished(next_B, going_B)
            logits_BV = self._model(**state.step(next_B), logits_to_keep=1)[:, -1]
        return written

    def _prompt_logits(self, batch: Batch, cache: DynamicCache) -> Tensor:
        """(B, V) after each prompt's last token; logits of no other place but other prompts' last ones."""
        last_B = batch.mask_BL.long().sum(dim=1) - 1
        kept, at_B = torch.unique(last_B, return_inverse=True)
        logits_BKV = self._model(**batch.inputs, past_key_values=cache, use_cache=True, logits_to_keep=kept)
        return logits_BKV[torch.arange(len(at_B), device=at_B.device), at_B]

    def _model(self, **inputs: Any) -> Tensor:
        return cast(Tensor, self.loaded.model(**inputs).logits)


@dataclass(eq=False)
class _Decoding:
    """What the next step needs, for the rows still in the batch.

    Attributes:
        rows: which item each row writes; None where it has finished and waits to be dropped.
        mask_BS: valid places of the cache; None where nothing is padded.
        position_3B: the next position; None where the model counts by itself.
    """

    cache: DynamicCache
    rows: list[int | None]
    mask_BS: Tensor | None
    position_3B: Tensor | None

    @classmethod
    def begin(cls, batch: Batch, cache: DynamicCache) -> _Decoding:
        mask_BL = batch.mask_BL.long()
        padded = bool((mask_BL == 0).any())
        position_3B = None
        if "position_ids" in batch.inputs:
            positions_3BL = batch.inputs["position_ids"].masked_fill(mask_BL == 0, -1)
            position_3B = positions_3BL.amax(dim=(0, 2)).expand(len(positions_3BL), -1) + 1
        return cls(cache, list(range(len(mask_BL))), mask_BL if padded else None, position_3B)

    def drop_finished(self, next_B: Tensor, going_B: Tensor) -> Tensor:
        """Marks finished rows and, when enough have finished, takes them out.

        Returns:
            The tokens of the rows that stay.
        """
        self.rows = [row if going else None for row, going in zip(self.rows, going_B.tolist(), strict=True)]
        if going_B.sum() > _COMPACT_BELOW * len(going_B):
            return next_B
        keep = torch.nonzero(going_B).squeeze(1)
        self.cache.batch_select_indices(keep)
        self.rows = [row for row in self.rows if row is not None]
        self.mask_BS = None if self.mask_BS is None else self.mask_BS[keep]
        self.position_3B = None if self.position_3B is None else self.position_3B[:, keep]
        return next_B[keep]

    def step(self, next_B: Tensor) -> dict[str, Any]:
        """Inputs of the model for one more token."""
        inputs: dict[str, Any] = {
            "input_ids": next_B.unsqueeze(1),
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if self.mask_BS is not None:
            self.mask_BS = torch.cat([self.mask_BS, self.mask_BS.new_ones(len(next_B), 1)], dim=1)
            inputs["attention_mask"] = self.mask_BS
        if self.position_3B is not None:
            inputs["position_ids"] = self.position_3B.unsqueeze(-1)
            self.position_3B = self.position_3B + 1
        return inputs


def stop_tokens(loaded: LoadedModel) -> list[int]:
    """Every token that ends a text: the generation config may name several, the tokenizer one."""
    named = cast(Any, loaded.model.generation_config).eos_token_id
    ends = named if isinstance(named, list) else [named]
    return sorted({end for end in (*ends, loaded.tokenizer.eos_token_id) if end is not None})


def _raise(_: int, error: ItemError) -> None:
    raise error
