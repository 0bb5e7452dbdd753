"""What the generative model answers and how likely it finds a text; many questions share an image's pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from clearsight.models.tiny import fast
from clearsight.models.tiny.forms import Branch, Document, encode
from clearsight.models.tiny.pack import Laid, Packer, lay, texts_of

NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Told:
    """How the model takes one branch.

    Attributes:
        log_p: natural log-probability of the answer with its end.
        greedy: whether greedy decoding writes exactly this answer.
        words: log-probability of every further first word of the branch, in its order.
        first: log-probability of the answer's first token alone.
    """

    log_p: float
    greedy: bool
    words: tuple[float, ...]
    first: float


def take(
    model: Any, tokenizer: Any, documents: Sequence[Document], tokens_at_once: int = 16384
) -> list[list[Told]]:
    """What the model makes of every branch of every document, in their order.

    Args:
        model: a loaded generator (any dtype, any device).
        documents: with ``learned=False``.
        tokens_at_once: padded tokens of one forward pass.
    """
    packer = Packer(tokenizer, 1, 1)
    laid = []
    for document in documents:
        tokens = encode(tokenizer, texts_of(document))
        made = lay(document, tokens, packer.first, packer.image_id, NO_LIMIT)
        assert made is not None
        assert not document.learned
        laid.append(made)
    order = sorted(range(len(laid)), key=lambda i: len(laid[i].ids))
    told: dict[int, list[Told]] = {}
    for group in _groups(order, laid, tokens_at_once):
        log_p, greedy = _forward(model, tokenizer, [laid[i] for i in group])
        at = 0
        for i in group:
            told[i] = []
            counts = _answer_lengths(laid[i], documents[i].branches, tokenizer)
            for branch, length in zip(documents[i].branches, counts, strict=True):
                start = at + len(branch.words)
                at = start + length
                told[i].append(
                    Told(
                        float(log_p[start:at].sum()),
                        bool(greedy[start:at].all()),
                        tuple(log_p[start - len(branch.words) : start].tolist()),
                        float(log_p[start]),
                    )
                )
    return [told[i] for i in range(len(laid))]


def _answer_lengths(laid: Laid, branches: Sequence[Branch], tokenizer: Any) -> list[int]:
    """Tokens of every answer, its end included."""
    lengths = [len(ids) + 1 for ids in encode(tokenizer, [branch.answer for branch in branches])]
    assert sum(lengths) + sum(len(b.words) for b in branches) == len(laid.targets)
    return lengths


def _groups(order: Sequence[int], laid: Sequence[Laid], budget: int) -> Iterator[list[int]]:
    group: list[int] = []
    for i in order:
        if group and len(laid[i].ids) * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


@torch.inference_mode()
def _forward(model: Any, tokenizer: Any, laid: Sequence[Laid]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of every target and whether it is the most likely token, in the documents' order."""
    packer = Packer(tokenizer, len(laid), max(len(one.ids) for one in laid), 1, 1)
    batch = packer.stack([[one] for one in laid])
    on = {name: torch.from_numpy(value).to(model.device) for name, value in vars(batch).items()}
    mask = fast.visibility(on["document_BL"], on["branch_BL"], model.dtype)
    hidden = fast.hidden_states(model, on["ids_BL"], on["positions_3BL"], mask, on["image_at"], on["images"])
    logits = linear(hidden.flatten(0, 1)[on["at_T"]], model.lm_head.weight).float()
    log_p = logits.log_softmax(-1).gather(1, on["target_T"][:, None])[:, 0]
    return log_p.cpu().numpy().astype(np.float64), (logits.argmax(-1) == on["target_T"]).cpu().numpy()
