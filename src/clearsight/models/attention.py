"""Attention efficiency: how much attention tokens of a type are paid, each, by layer.

"From Generator to Embedder", equation 1 and figure 1: epsilon_type is the attention that output tokens pay to
the tokens of a type, over the number of those tokens. As published it mixes what a model attends to with
where a type stands: under a causal mask early tokens are seen by more rows, and the first token of all draws
attention that means nothing. The corrected figure compares each row with a row that looks at everything it
can see alike, with the first token set apart.

Legend of shapes: L tokens of one item, H heads, K layers, T types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clearsight.errors import ItemError, UsageError
from clearsight.models.encoder import Encoder
from clearsight.models.feed import Fed, feed
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import Prepared, collate
from clearsight.models.prompts import Part, Span, Turn, render
from clearsight.models.wording import Wording
from clearsight.pooling import IMAGE, PROMPT, poolings
from clearsight.progress import Progress, Silent
from clearsight.types import Item, Modality, Role, unique_ids

AttentionType: TypeAlias = Literal["system", "image", "user"]
OutputRows: TypeAlias = Literal["all", "last"]

TYPES: tuple[AttentionType, ...] = ("system", "image", "user")
"""system: everything before the content of the user's turn (a system turn, turn marks, bos); image: its
features; user: all the rest, the header that may end the prompt included. Each token is of one type."""

SYSTEM_TYPE, IMAGE_TYPE, USER_TYPE = range(3)
RELEASE_LAYER = 8


@dataclass(frozen=True, slots=True, eq=False)
class AttentionEfficiency:
    """Attention by token type (`TYPES`) and layer, averaged over items; NaN where nothing defines it.

    Attributes:
        paper_KT: equation 1, for every layer: attention summed over output rows and the type's tokens, over
            the number of these tokens; heads averaged. 0 to the number of output rows, higher is more.
        corrected_KT: the share of attention that goes to the type, over the share that it would get if every
            row looked at all tokens it can see alike; sums over the rows that have a choice (see some tokens
            of the type and some others). The first token is left out of rows, columns and both shares. 1 is
            indifference, higher is more.
        sink_K: share of their attention that rows after the first pay to the first token; 0 to 1.
        release_T: `paper_KT` as the authors' code reads it: all rows, one layer.
        release_layer: which, counted from 0: 8, or the last where there are fewer.
        items_T: how many items have tokens of the type.
        tokens_T: how many each of these has, on average.
        rows: which rows count as output tokens in `paper_KT`, `corrected_KT` and `sink_K`.
        skipped: ids of items left out -> why (only where the encoder was asked to skip).
    """

    paper_KT: NDArray[np.float64]
    corrected_KT: NDArray[np.float64]
    sink_K: NDArray[np.float64]
    release_T: NDArray[np.float64]
    release_layer: int
    items_T: NDArray[np.int64]
    tokens_T: NDArray[np.float64]
    rows: OutputRows
    skipped: dict[str, str]

    @property
    def layers(self) -> int:
        """K."""
        return len(self.paper_KT)


def attention_efficiency(
    encoder: Encoder,
    items: Sequence[Item],
    role: Role = "candidate",
    *,
    counterpart: Modality | None = None,
    rows: OutputRows = "all",
    progress: Progress | None = None,
) -> AttentionEfficiency:
    """Attention efficiency of the encoder's model and prompt over a sample of items (a few dozen suffice).

    One item at a time passes with attention computed openly ("eager"), each layer's (H, L, L) weights being
    reduced as they come to be; the model is left as it was.

    Args:
        items: with unique ids.
        rows: the output tokens: "all", as the paper measures ("for all input tokens"), or "last", the
            position whose next token the model would generate.

    Raises:
        UsageError: a contrastive model, layers whose attention cannot be read, or no items.
        ItemError: an item cannot be read (`on_error="raise"`).
    """
    loaded = encoder.loaded
    if loaded.kind == "contrastive":
        raise UsageError(
            "Attention efficiency is defined for generative models: a contrastive one has no system prompt.",
            where=loaded.name,
            do="Choose a generative model.",
        )
    if not items:
        raise UsageError("There are no items.", where="items", do="Give a few dozen.")
    unique_ids((item.id for item in items), what="item")
    told = progress or Silent()
    told.start(len(items), "attention")
    measured: list[_Measured] = []
    skipped: dict[str, str] = {}
    heads = _Heads(encoder)
    try:
        for fed in _fed(encoder, items, role, counterpart, skipped):
            item = items[fed.index]
            type_L = heads.types(item, fed.prepared, role, counterpart)
            measured.append(_measure(loaded, fed.prepared, type_L, rows))
            told.advance()
    finally:
        told.close()
    return _average(measured, rows, skipped, layers=len(_attentions(loaded)))


def published(attention_LL: Tensor, type_L: NDArray[np.int64], rows: OutputRows) -> NDArray[np.float64]:
    """epsilon_T of one layer and item: sum over output rows i and tokens j of the type of a_ij, over the
    number of tokens of the type (equation 1); NaN for a type without tokens."""
    output_RL = attention_LL if rows == "all" else attention_LL[-1:]
    onehot_LT = _onehot(type_L, attention_LL)
    return _divide((output_RL.double() @ onehot_LT).sum(0), onehot_LT.sum(0))


def corrected(
    attention_LL: Tensor, visible_LL: Tensor, type_L: NDArray[np.int64], rows: OutputRows
) -> NDArray[np.float64]:
    """The type's share of attention over its share of what can be seen, the first token set apart.

    With s_i = sum_{j > 0, j of the type} a_ij / sum_{j > 0} a_ij and u_i the same with 1 for every token that
    row i can see: sum of s_i over sum of u_i, over the output rows i > 0 with 0 < u_i < 1; NaN without one.
    """
    onehot_LT = _onehot(type_L, attention_LL)[1:]
    attention, visible = attention_LL[1:, 1:].double(), visible_LL[1:, 1:].double()
    if rows == "last":
        attention, visible = attention[-1:], visible[-1:]
    tiny = torch.finfo(torch.float64).tiny
    share_RT = (attention @ onehot_LT) / attention.sum(1, keepdim=True).clamp_min(tiny)
    uniform_RT = (visible @ onehot_LT) / visible.sum(1, keepdim=True).clamp_min(1)
    choice_RT = (uniform_RT > 0) & (uniform_RT < 1)
    return _divide((share_RT * choice_RT).sum(0), (uniform_RT * choice_RT).sum(0))


@contextmanager
def eager_attention(loaded: LoadedModel) -> Iterator[None]:
    """The language model computes its attention openly in here; afterwards it is configured as before."""
    config: Any = loaded.base.get_decoder().config
    parts = [config, *(getattr(config, name) for name in config.sub_configs)]
    before = [part._attn_implementation for part in parts]
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        for part, implementation in zip(parts, before, strict=True):
            part._attn_implementation = implementation


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """One item: epsilon, its correction and the sink's share by layer, epsilon over all rows, and counts."""

    paper_KT: NDArray[np.float64]
    corrected_KT: NDArray[np.float64]
    sink_K: NDArray[np.float64]
    all_rows_KT: NDArray[np.float64]
    tokens_T: NDArray[np.int64]


@torch.inference_mode()
def _measure(
    loaded: LoadedModel, prepared: Prepared, type_L: NDArray[np.int64], rows: OutputRows
) -> _Measured:
    inputs = collate([prepared], loaded).inputs
    paper, fair, sink, all_rows = [], [], [], []

    def read(_: Any, __: Any, keywords: dict[str, Any], output: Any) -> None:
        weights = output[1]
        if weights is None:
            raise UsageError(
                "The attention of this model cannot be read.", where=loaded.name, do="Use another model."
            )
        attention_LL = weights[0].float().mean(0)
        visible_LL = _visible(keywords.get("attention_mask"), attention_LL)
        paper.append(published(attention_LL, type_L, rows))
        all_rows.append(published(attention_LL, type_L, "all"))
        fair.append(corrected(attention_LL, visible_LL, type_L, rows))
        first_L = attention_LL[1:, 0] if rows == "all" else attention_LL[1:, 0][-1:]
        sink.append(float(first_L.double().mean()))

    with eager_attention(loaded):
        handles = [module.register_forward_hook(read, with_kwargs=True) for module in _attentions(loaded)]
        try:
            loaded.base(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return _Measured(
        np.array(paper), np.array(fair), np.array(sink), np.array(all_rows), np.bincount(type_L, minlength=3)
    )


def _visible(mask: Tensor | None, attention_LL: Tensor) -> Tensor:
    """Which tokens each row can see: what the layer's own mask (windows, images both ways) lets through."""
    if mask is None:
        return torch.ones_like(attention_LL, dtype=torch.bool).tril()
    mask_LL = mask[0, 0, :, : attention_LL.shape[1]]
    return mask_LL if mask_LL.dtype == torch.bool else mask_LL >= 0


def _attentions(loaded: LoadedModel) -> list[nn.Module]:
    layers = cast(Any, loaded.base.get_decoder()).layers
    modules = [getattr(layer, "self_attn", None) for layer in layers]
    if not all(isinstance(module, nn.Module) for module in modules):
        raise UsageError(
            "Not every layer of this model has an attention that can be read.",
            where=loaded.name,
            do="Use a model whose layers all attend.",
        )
    return cast("list[nn.Module]", modules)


def _fed(
    encoder: Encoder,
    items: Sequence[Item],
    role: Role,
    counterpart: Modality | None,
    skipped: dict[str, str],
) -> Iterator[Fed]:
    def refuse(index: int, error: ItemError) -> None:
        if encoder.on_error == "raise":
            raise error
        skipped[items[index].id] = error.what

    for window in feed(
        dict(enumerate(items)),
        encoder.preparer(poolings.get(encoder.pooling)),
        role,
        counterpart=counterpart,
        workers=encoder.threads,
        refuse=refuse,
    ):
        yield from window


class _Heads:
    """What stands before the content of the user's turn, by the wording of a short user turn."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        header = encoder.generation_prompt(poolings.get(encoder.pooling))
        self._wording = Wording(encoder.loaded, generation_prompt=header, form=encoder.template.form)
        self._known: dict[tuple[Turn, ...], NDArray[np.int64]] = {}

    def types(
        self, item: Item, prepared: Prepared, role: Role, counterpart: Modality | None
    ) -> NDArray[np.int64]:
        """Place in `TYPES` of each token."""
        turns = render(self._encoder.template, item, role, counterpart=counterpart)
        head_P = self._head(tuple(turn for turn in turns if turn.role == "system"))
        ids_L, kinds_L = prepared.ids_L, prepared.kinds_L
        content = np.flatnonzero(kinds_L != PROMPT)
        length = min(len(head_P), int(content[0]) if len(content) else len(ids_L))
        differs = np.flatnonzero(ids_L[:length] != head_P[:length])
        length = int(differs[0]) if len(differs) else length
        type_L = np.where(kinds_L == IMAGE, IMAGE_TYPE, USER_TYPE)
        type_L[:length] = SYSTEM_TYPE
        return type_L

    def _head(self, system: tuple[Turn, ...]) -> NDArray[np.int64]:
        if system not in self._known:
            user = Turn("user", (Part("text", (Span("x", own=True),)),))
            spans, add_special_tokens = self._wording([*system, user])
            assert self._encoder.loaded.text is not None, "a generative model has a tokenizer"
            tokens = self._encoder.loaded.text(spans, add_special_tokens=add_special_tokens)
            self._known[system] = tokens.ids_L[: int(np.argmax(tokens.own_L))]
        return self._known[system]


def _average(
    measured: Sequence[_Measured], rows: OutputRows, skipped: dict[str, str], *, layers: int
) -> AttentionEfficiency:
    release_layer = min(RELEASE_LAYER, layers - 1)
    tokens_IT = np.array([one.tokens_T for one in measured]).reshape(-1, len(TYPES))
    blank_KT = np.full((layers, len(TYPES)), np.nan)
    return AttentionEfficiency(
        paper_KT=_mean([blank_KT, *(one.paper_KT for one in measured)]),
        corrected_KT=_mean([blank_KT, *(one.corrected_KT for one in measured)]),
        sink_K=_mean([blank_KT[:, 0], *(one.sink_K for one in measured)]),
        release_T=_mean([blank_KT[0], *(one.all_rows_KT[release_layer] for one in measured)]),
        release_layer=release_layer,
        items_T=(tokens_IT > 0).sum(0),
        tokens_T=_divide(tokens_IT.sum(0), (tokens_IT > 0).sum(0)),
        rows=rows,
        skipped=skipped,
    )


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Over the items that define it; NaN where none does."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    return _divide(np.where(known, stacked, 0).sum(0), known.sum(0))


def _onehot(type_L: NDArray[np.int64], like: Tensor) -> Tensor:
    return nn.functional.one_hot(torch.from_numpy(type_L), len(TYPES)).double().to(like.device)


def _divide(above: Any, below: Any) -> NDArray[np.float64]:
    a, b = (np.asarray(x.cpu() if isinstance(x, Tensor) else x, np.float64) for x in (above, below))
    quotient: NDArray[np.float64] = np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
    return quotient
