"""What keeps the model talking: the loss of the next token of a pair's text, given its image or its query.

Legend of shapes: B sequences, L tokens, T target tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from clearsight.models.captioner import stop_tokens
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import Prepared, Preparer, collate
from clearsight.models.prompts import Span, get_template
from clearsight.pooling import TEXT
from clearsight.types import Item

_LOGITS = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """A prompt and the text that is to follow it.

    Attributes:
        prepared: both, as one sequence.
        start: where the text begins.
    """

    prepared: Prepared
    start: int

    @property
    def targets(self) -> int:
        """Tokens whose loss counts, the one that ends the text among them."""
        return len(self.prepared.ids_L) - self.start


def to_say(query: Item, positive: Item) -> tuple[Item, str] | None:
    """What to ask with, and what should be said: the text of the one side given the image of the other, else
    the positive's text given the query. None where there is no such text."""
    if positive.text is not None and positive.image is None:
        return query, positive.text
    if query.text is not None and query.image is None and positive.image is not None:
        return replace(positive, text=None, instruction=None), query.text
    return None


class Saying:
    """Prepares what is to be said; safe to call in threads.

    An image alone is asked for with the built-in prompt `caption`, all else with its own words.

    Args:
        max_tokens: most tokens of prompt and text; the text's end is cut to fit.
    """

    def __init__(self, loaded: LoadedModel, *, max_tokens: int, image_size: int | None) -> None:
        self._loaded, self._max_tokens = loaded, max_tokens
        self._preparers = {
            name: Preparer(loaded, get_template(name), generation_prompt=True, image_size=image_size)
            for name in ("caption", "plain")
        }
        self._stop = _first_stop(loaded)

    def __call__(self, item: Item, text: str, image: Image.Image | None) -> Said | None:
        """The sequence, or None where the prompt alone leaves no place for a text.

        Raises:
            ItemError: as `Preparer`.
        """
        asked = self._preparers["caption" if item.text is None else "plain"](item, "query", image)
        assert self._loaded.text is not None
        words = self._loaded.text([Span(text.strip(), own=True)], add_special_tokens=False, where=item.id)
        room = self._max_tokens - len(asked.ids_L)
        ids_T = np.append(words.ids_L, self._stop)[: max(0, room)]
        if not len(ids_T):
            return None
        ids_L: NDArray[np.int64] = np.concatenate([asked.ids_L, ids_T])
        kinds_L = np.concatenate([asked.kinds_L, np.full(len(ids_T), TEXT, np.uint8)])
        return Said(replace(asked, ids_L=ids_L, kinds_L=kinds_L), len(asked.ids_L))


def said_loss(loaded: LoadedModel, said: Sequence[Said]) -> Tensor:
    """The sum over all target tokens of -log p(token | what stands before it), in nats."""
    batch = collate([one.prepared for one in said], loaded)
    inputs = dict(batch.inputs)
    for name, value in loaded.family.said_types.items():
        if name in inputs:
            inputs[name] = inputs[name].clone()
            for row, one in enumerate(said):
                inputs[name][row, one.start : one.start + one.targets] = value
    states_BLD = loaded.base(**inputs, use_cache=False).last_hidden_state
    head: Any = loaded.model.get_output_embeddings()
    total = states_BLD.new_zeros((), dtype=torch.float32)
    for row, one in enumerate(said):
        end = one.start + one.targets
        targets_T = torch.from_numpy(one.prepared.ids_L[one.start : end]).to(states_BLD.device)
        states_TD = states_BLD[row, one.start - 1 : end - 1]
        step = max(1, _LOGITS // head.weight.shape[0])
        for at in range(0, len(targets_T), step):
            logits_TV = head(states_TD[at : at + step]).float()
            total = total + cross_entropy(logits_TV, targets_T[at : at + step], reduction="sum")
    return cast(Tensor, total)


def _first_stop(loaded: LoadedModel) -> int:
    """The token that ends what is said: of several, the generation config names the turn's end first."""
    named = cast(Any, loaded.model.generation_config).eos_token_id
    if isinstance(named, list):
        return int(named[0])
    return int(named) if named is not None else stop_tokens(loaded)[0]
