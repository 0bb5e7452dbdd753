"""Items to the library's inputs, and batches of them to vectors.

Legend of shapes: B items of a batch, D width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clearsight.data.content import check_text
from clearsight.errors import ItemError, UsageError
from clearsight.models.batching import ahead, fill_batches
from clearsight.models.feed import Fed
from clearsight.models.prepare import Prepared, shrunk
from clearsight.models.stock.model import StockModel
from clearsight.types import MODALITIES, Item, Modality, Role, kinds_of

_TASK = {"query": "query", "candidate": "document"}
_TOWER_TOKENS = 256
"""What an image weighs for models that bring all to one size (ViT-L/14 at 224 pixels: 257 tokens)."""
_PIXELS_OF_A_TOKEN = 784
"""For chat models that keep an image's size: 28 x 28, as Qwen-VL merges its patches."""
_FAULTS = (ValueError, TypeError, KeyError, IndexError, StopIteration)
"""What tokenizers and processors raise on input they refuse; memory and device faults are none of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An item as the library takes it.

    Attributes:
        value: its text, image, or both.
        kind: what goes together in a batch: modality, role and prompt.
        length: tokens, about.
        nbytes: memory that it holds.
        item_id: for messages.
    """

    value: Any
    kind: tuple[Modality, Role, str]
    length: int
    nbytes: int
    item_id: str


class StockPreparer:
    """Items to samples. A call changes no state, so worker threads may share one.

    Args:
        max_tokens: most tokens of a text; None is the model's own limit.
        image_size: as for the encoder.
    """

    def __init__(self, stock: StockModel, *, max_tokens: int | None, image_size: int | None) -> None:
        self._stock, self._image_size = stock, image_size
        self._limit = stock.limit(max_tokens)

    def __call__(
        self, item: Item, role: Role, image: Image.Image | None, *, counterpart: Modality | None = None
    ) -> Prepared:
        """The item, its text first brought to words and its image to size.

        Raises:
            ItemError: a modality that the model does not read, or text that is none.
        """
        if item.modality not in self._stock.accepts:
            raise unread(item, self._stock)
        if image is not None and self._image_size is not None:
            image = shrunk(image, self._image_size)
        prompt = self._stock.prompt(item, role)
        length, cut = self._measured(item, prompt, image)
        text = item.text
        value: Any
        if image is None:
            # A dictionary says that it is text: the library opens strings that look like an image's address.
            value = {"text": text} if "image" in self._stock.accepts else text
        else:
            # The order of keys is the order of content; image first, as our own templates have it.
            value = image if text is None else {"image": image, "text": text}
        pixels = 0 if image is None else 3 * image.width * image.height
        sample = Sample(value, (item.modality, role, prompt), length, pixels + 4 * length, item.id)
        return Prepared(np.empty(0, np.int64), np.empty(0, np.uint8), {}, cut=cut, sample=sample)

    def _measured(self, item: Item, prompt: str, image: Image.Image | None) -> tuple[int, int]:
        """Tokens of the item, about, and how many of its text the library will cut."""
        tokens, cut = 0, 0
        if item.text is not None:
            encoded = check_text(item.text, item_id=item.id)
            counter = self._stock.counter
            words = prompt + item.text
            tokens = len(encoded) // 3 if counter is None else len(counter.encode(words).ids)
            if self._limit is not None and tokens > self._limit:
                tokens, cut = self._limit, tokens - self._limit
        if image is not None:
            sized = self._stock.chat
            tokens += math.ceil(image.width * image.height / _PIXELS_OF_A_TOKEN) if sized else _TOWER_TOKENS
        return max(1, tokens), cut


class StockReadout:
    """Runs the library's modules over samples of one kind and of like length.

    Args:
        token_budget: padded tokens of one forward pass.
        workers: 1 tokenises the next batch while the model reads one; 0 does not.
    """

    def __init__(
        self, stock: StockModel, *, token_budget: int, max_tokens: int | None, workers: int, device: Any
    ) -> None:
        self._stock, self._token_budget, self._device = stock, token_budget, device
        self._workers = min(1, workers)
        limit = stock.limit(max_tokens)
        own = stock.pipeline.max_seq_length
        self._settings: dict[str, Any] = {}
        if limit is not None and own is not None and limit != own:
            self._settings["processing_kwargs"] = {"text": {"max_length": limit}}

    def __call__(self, window: Sequence[Fed]) -> Iterator[tuple[list[int], dict[str, Tensor] | ItemError]]:
        """Batches; an item that the library refuses comes alone, with what it said."""
        for chosen, future in ahead(self._inputs, self._batches(window), workers=self._workers, depth=2):
            try:
                rows = self._forward(future.result(), _sample(chosen[0]).kind[1])
            except _FAULTS as error:
                yield from self._one_by_one(chosen, error)
            else:
                yield [fed.index for fed in chosen], {"features": rows}

    def _batches(self, window: Sequence[Fed]) -> Iterator[list[Fed]]:
        kinds: dict[Any, list[Fed]] = {}
        for fed in window:
            kinds.setdefault(_sample(fed).kind, []).append(fed)
        for alike in kinds.values():
            for batch in fill_batches([_sample(fed).length for fed in alike], self._token_budget):
                yield [alike[i] for i in batch]

    def _one_by_one(
        self, chosen: Sequence[Fed], error: Exception
    ) -> Iterator[tuple[list[int], dict[str, Tensor] | ItemError]]:
        if len(chosen) > 1:
            for fed in chosen:
                try:
                    rows = self._forward(self._inputs([fed]), _sample(fed).kind[1])
                except _FAULTS as alone:
                    yield from self._one_by_one([fed], alone)
                else:
                    yield [fed.index], {"features": rows}
            return
        fault = ItemError(
            f"sentence-transformers refuses this item: {str(error).strip().partition(chr(10))[0]}",
            where=_sample(chosen[0]).item_id,
            do="Change or leave out the item.",
        )
        fault.__cause__ = error
        yield [chosen[0].index], fault

    def _inputs(self, chosen: Sequence[Fed]) -> Any:
        samples = [_sample(fed) for fed in chosen]
        _, role, prompt = samples[0].kind
        return self._stock.pipeline.preprocess(
            [one.value for one in samples], prompt=prompt or None, task=_TASK[role], **self._settings
        )

    @torch.inference_mode()
    def _forward(self, inputs: Any, role: Role) -> Tensor:
        placed = {
            name: value.to(self._device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        rows_BD: Tensor = self._stock.pipeline(placed, task=_TASK[role])["sentence_embedding"]
        return rows_BD[:, : self._stock.truncate].float()


def need_modalities(items: Sequence[Item], stock: StockModel, *, name: str, some: bool) -> None:
    """Refuse a side that holds modalities which the model does not read.

    Args:
        name: the model's.
        some: items may be left out; only a side that would be left without any is refused.

    Raises:
        UsageError: as said.
    """
    if len(stock.accepts) == len(MODALITIES):
        return
    numbers = np.bincount(kinds_of(items), minlength=len(MODALITIES)).tolist()
    count = Counter({kind: number for kind, number in zip(MODALITIES, numbers, strict=True) if number})
    lost = {kind: number for kind, number in count.items() if kind not in stock.accepts}
    if not lost or (some and len(lost) < len(count)):
        return
    what = " and ".join(f"{number:,} that are {kind}" for kind, number in sorted(lost.items()))
    raise UsageError(
        f"Of {count.total():,} items there are {what}; the model reads {reads(stock)} alone.",
        where=name,
        do="Choose a task of these modalities, or a model that reads the others.",
    )


def unread(item: Item, stock: StockModel) -> ItemError:
    """What to say of an item whose modality the model does not read."""
    return ItemError(
        f"The model does not read {item.modality} items; it reads {reads(stock)}.",
        where=item.id,
        do="Leave the item out, or take a model that does.",
    )


def reads(stock: StockModel) -> str:
    """What the model reads, in words."""
    return " and ".join(sorted(stock.accepts, key=MODALITIES.index))


def _sample(fed: Fed) -> Sample:
    sample = fed.prepared.sample
    assert isinstance(sample, Sample)
    return sample
