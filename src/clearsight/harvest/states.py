"""From a window of prepared items to the states of their tokens, through the encoder's own forward passes.

Legend of shapes: B items of a batch, L tokens of a pass, P tokens of a shared prefix, N valid tokens,
D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import UsageError
from clearsight.harvest.config import SPECIAL
from clearsight.models.encoder import Encoder
from clearsight.models.feed import Fed
from clearsight.models.forward import Prefix
from clearsight.models.prepare import collate
from clearsight.models.readout import GenerativeReadout
from clearsight.pooling import PROMPT, poolings


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The valid tokens of some items, item by item, each item's in the order of its sequence.

    Attributes:
        states_ND: hidden states of the encoder's layer, on the CPU.
        norm_N: their L2 norms, float32, before any rounding to the stored dtype.
        item_N: key of the item that each belongs to.
        position_N: place in the item's sequence, from 0.
        type_N: code of the token's type (`TOKEN_TYPES`).
    """

    states_ND: Tensor
    norm_N: NDArray[np.float32]
    item_N: NDArray[np.int64]
    position_N: NDArray[np.int32]
    type_N: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.item_N)

    def take(self, keep_N: NDArray[np.bool_] | slice) -> Tokens:
        """The rows of a mask or slice."""
        states = self.states_ND[torch.from_numpy(keep_N) if isinstance(keep_N, np.ndarray) else keep_N]
        return Tokens(
            states, self.norm_N[keep_N], self.item_N[keep_N], self.position_N[keep_N], self.type_N[keep_N]
        )


class TokenStates:
    """States of all valid tokens at the encoder's layer, with its batching, prefix sharing and layer tap.

    The states of a shared prefix are computed once and given to every item that begins with it, so that an
    item's rows average to its "mean" embedding whatever it travelled with.

    Raises:
        UsageError: the encoder's model is contrastive (there is no token-level stream), or it describes.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        if encoder.loaded.kind == "contrastive":
            raise UsageError(
                "A contrastive model is trained on its pooled features and has no token states to harvest.",
                where=encoder.loaded.name,
                do="Embed the items, train on the vectors: clearsight.sae.ArrayStream(embeddings.rows_ND).",
            )
        if encoder.source == "describe":
            raise UsageError(
                "Captions are written anew by every call; a harvest would not be repeatable.",
                where="source",
                do="Harvest the items themselves, or texts of your own.",
            )
        readout = encoder.readout((poolings.get("mean"),))
        assert isinstance(readout, GenerativeReadout)
        self._readout, self._loaded, self._dtype = readout, encoder.loaded, dtype
        tokenizer = encoder.loaded.tokenizer
        controls = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = np.array(sorted(controls | set(tokenizer.all_special_ids)), np.int64)

    @property
    def width(self) -> int:
        """D."""
        return int(self._loaded.base.config.get_text_config().hidden_size)

    def __call__(self, window: Sequence[Fed]) -> Iterator[Tokens]:
        """One `Tokens` for each forward pass over the window; `item_N` holds the `index` of each `Fed`."""
        for chosen, prefix in self._readout.passes(window):
            yield self._tokens(chosen, prefix)

    @torch.inference_mode()
    def _tokens(self, chosen: Sequence[Fed], prefix: Prefix | None) -> Tokens:
        prepared = [fed.prepared for fed in chosen]
        batch = collate(prepared, self._loaded, skip=0 if prefix is None else len(prefix))
        hidden_BLD = self._readout.forward(batch.inputs, batch.mask_BL, prefix)["layer"]
        mask_BL = batch.mask_BL.bool()
        if prefix is not None:
            shared_BPD = prefix.hidden_PD.expand(len(chosen), -1, -1)
            hidden_BLD = torch.cat([shared_BPD, hidden_BLD], dim=1)
            mask_BL = torch.cat([mask_BL.new_ones(shared_BPD.shape[:2]), mask_BL], dim=1)
        states_ND = hidden_BLD[mask_BL]  # item by item: a mask selects in row-major order
        norm_N = torch.linalg.vector_norm(states_ND, dim=-1, dtype=torch.float32)
        lengths_B = [len(one.ids_L) for one in prepared]
        return Tokens(
            states_ND=states_ND.to("cpu", self._dtype),
            norm_N=norm_N.cpu().numpy(),
            item_N=np.repeat(np.array([fed.index for fed in chosen], np.int64), lengths_B),
            position_N=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths_B]),
            type_N=np.concatenate([self._types(one.ids_L, one.kinds_L) for one in prepared]),
        )

    def _types(self, ids_L: NDArray[np.int64], kinds_L: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # The item's own words never hold a control token, whatever they spell (see `wording`).
        special_L = (kinds_L == PROMPT) & np.isin(ids_L, self._special)
        return np.where(special_L, SPECIAL, kinds_L).astype(np.uint8)
