"""Passes of the model over questions: shared prefixes once, the rest in batches, logits where they are read.

Legend of shapes: G groups that share a prefix each, B questions of a batch, L tokens of one pass, P tokens of
a prefix, S tokens of whole sequences, D width, T states read, V vocabulary, K numbers of an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from clearsight.models.batching import fill_batches
from clearsight.models.captioner import stop_tokens
from clearsight.models.forward import Forward
from clearsight.models.judge_pose import Picture, Posed
from clearsight.models.judge_questions import Next, Said
from clearsight.models.judge_share import Group, group
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import pad_id, padded, stack_pixels
from clearsight.models.retrace import Retrace
from clearsight.pooling import IMAGE, PROMPT

LOGITS_AT_ONCE = 1 << 24
"""Logits (64 MB in float32) that exist at a time."""
STOP = -1
"""The target that any token meets which ends the model's texts."""

Answered = tuple[list[int], NDArray[np.float32]]


class Passes:
    """Answers `Next` and `Said` questions.

    Args:
        loaded: a generative model with its language head.
        token_budget: padded tokens of one forward pass.
        share_prefix: False computes every sequence whole; the answers are the same.
        retrace: enhances the passes; sequences are then computed whole.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        token_budget: int,
        share_prefix: bool = True,
        retrace: Retrace | None = None,
    ) -> None:
        self.loaded, self.token_budget, self.retrace = loaded, token_budget, retrace
        self.share_prefix = share_prefix and retrace is None and Forward(loaded).can_share_prefix
        self.head = Head(loaded)
        self._config = cast(Any, loaded.base.get_decoder()).config

    @torch.inference_mode()
    def __call__(self, posed: Sequence[Posed]) -> Iterator[Answered]:
        """Positions of questions and their rows (B, K), batch by batch; rows of one batch have one width."""
        groups = self._groups(posed)
        alone = [i for one in groups if not one.length for i in one.members]
        for part in [alone] if self.retrace is None else _by_measure(alone, posed):
            for batch in _batches(part, posed, self.token_budget):
                with self._enhanced([posed[i] for i in batch]):
                    states_BLD = self._run(self._inputs([posed[i] for i in batch]), None)
                yield from self._read(batch, posed, states_BLD, 0)
        for length in sorted({one.length for one in groups if one.length}, reverse=True):
            alike = [one for one in groups if one.length == length]
            for start in range(0, len(alike), max(1, self.token_budget // length)):
                yield from self._shared(alike[start : start + max(1, self.token_budget // length)], posed)

    def _groups(self, posed: Sequence[Posed]) -> list[Group]:
        if not self.share_prefix:
            return [Group(0, (i,)) for i in range(len(posed))]
        return group(
            [one.codes_L for one in posed],
            [max(0, one.first_read) for one in posed],
            [one.places for one in posed],
        )

    def _shared(self, groups: Sequence[Group], posed: Sequence[Posed]) -> Iterator[Answered]:
        """All questions of groups with prefixes of one length: one pass over the prefixes, then the rest."""
        length = groups[0].length
        cache = DynamicCache(config=self._config)
        self._run(self._inputs([posed[one.members[0]] for one in groups], end=length), cache)
        owner = {i: g for g, one in enumerate(groups) for i in one.members}
        for batch in _batches(list(owner), posed, self.token_budget, skip=length):
            rest = self._inputs([posed[i] for i in batch], skip=length)
            states_BLD = self._run(rest, _of_owners(cache, [owner[i] for i in batch]))
            yield from self._read(batch, posed, states_BLD, length)

    def _inputs(self, posed: Sequence[Posed], *, skip: int = 0, end: int | None = None) -> dict[str, Tensor]:
        """Keyword arguments of the model for tokens `skip` to `end` of each sequence, right padded."""
        loaded = self.loaded
        assert loaded.images is not None
        ids_BS, mask_BS = padded([one.ids_L[:end] for one in posed], pad_id(loaded.tokenizer))
        shown = [_between(one, skip, end) for one in posed]
        inputs = {
            "input_ids": ids_BS[:, skip:],
            **stack_pixels([picture.pixels for pictures in shown for picture in pictures]),
        }
        if not loaded.family.prefix_reuse:
            # Elsewhere attention is causal and padding stands right: no token sees any, and without a mask
            # the model takes its faster kernels.
            inputs["attention_mask"] = mask_BS
        if loaded.family.positions is not None:
            layouts = stack_pixels([_layout(p) for one in posed for p in _between(one, 0, end)])
            image_BS = torch.zeros_like(mask_BS, dtype=torch.bool)
            for row, one in enumerate(posed):
                kinds = one.kinds_L[:end] == IMAGE
                image_BS[row, : len(kinds)] = torch.from_numpy(kinds)
            # Padding counts as text: rows that differ in their ends alone are then counted once.
            every_BS = torch.ones_like(mask_BS)
            positions = loaded.family.positions(loaded.base, ids_BS, every_BS, image_BS, layouts)
            inputs["position_ids"] = positions[..., skip:]
        else:
            inputs.update(_token_types(loaded, posed, ids_BS, mask_BS))
        return {
            name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    @contextmanager
    def _enhanced(self, posed: Sequence[Posed]) -> Iterator[None]:
        """Visual enhancement of one pass over questions of one kind: a prompt's end decides for all of it, of
        a text that is said each position for itself, as steps of writing it would."""
        if self.retrace is None:
            yield
            return
        device = self.loaded.device
        kinds_BL, mask_BL = (rows.to(device) for rows in padded([one.kinds_L for one in posed], PROMPT))
        where_BL = None
        if isinstance(posed[0].question.measure, Said):
            first_B = torch.tensor([one.first_read for one in posed], device=device)
            where_BL = torch.arange(mask_BL.shape[1], device=device) >= first_B[:, None]
        with self.retrace.during(kinds_BL, mask_BL, where_BL=where_BL):
            yield

    def _run(self, inputs: Mapping[str, Tensor], cache: DynamicCache | None) -> Tensor:
        output = self.loaded.base(**inputs, past_key_values=cache, use_cache=cache is not None)
        self.head.output_type = type(output)
        return cast(Tensor, output.last_hidden_state)

    def _read(
        self, batch: Sequence[int], posed: Sequence[Posed], states_BLD: Tensor, skip: int
    ) -> Iterator[Answered]:
        """Answers from the states of the batch, which begin at token `skip`."""
        said: list[int] = []
        asked: dict[Next, list[int]] = {}
        for row, i in enumerate(batch):
            measure = posed[i].question.measure
            if isinstance(measure, Next):
                asked.setdefault(measure, []).append(row)
            else:
                said.append(row)
        for measure, rows in asked.items():
            last = torch.tensor([len(posed[batch[row]]) - 1 - skip for row in rows])
            states_TD = states_BLD[torch.tensor(rows), last]
            yield [batch[row] for row in rows], self.head.next_token(states_TD, measure.sets)
        if said:
            questions = [batch[row] for row in said]
            yield questions, self._said([posed[i] for i in questions], said, states_BLD, skip)

    def _said(
        self, posed: Sequence[Posed], rows: Sequence[int], states_BLD: Tensor, skip: int
    ) -> NDArray[np.float32]:
        at: list[int] = []
        target: list[int] = []
        owner: list[int] = []
        for b, (row, one) in enumerate(zip(rows, posed, strict=True)):
            ends = [STOP] if cast(Said, one.question.measure).end else []
            said = [*one.ids_L[one.prompt :].tolist(), *ends]
            first = row * states_BLD.shape[1] + one.first_read - skip
            at += range(first, first + len(said))
            target += said
            owner += [b] * len(said)
        log_p_T = self.head.log_p(states_BLD.flatten(0, 1), torch.tensor(at), torch.tensor(target))
        answers = np.zeros((len(posed), 2))
        np.add.at(answers[:, 0], owner, log_p_T.astype(np.float64))
        np.add.at(answers[:, 1], owner, 1.0)
        return answers.astype(np.float32)


class Head:
    """The language head as the model itself applies it (soft caps, tokens ruled out), on chosen states only.

    Attributes:
        output_type: what `loaded.base` returns; set by a pass.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._vocabulary = cast(Any, loaded.model.get_output_embeddings()).weight.shape[0]
        self._stops = torch.tensor(stop_tokens(loaded), device=loaded.device)
        self.output_type: Any = None

    def logits(self, states_TD: Tensor) -> Tensor:
        """(T, V), float32."""
        given = self.output_type(last_hidden_state=states_TD.unsqueeze(0))
        token = torch.zeros(1, 1, dtype=torch.long, device=states_TD.device)
        with _answering(self._loaded.base, given):
            return cast(Tensor, self._loaded.model(input_ids=token).logits)[0].float()

    def next_token(self, states_TD: Tensor, sets: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log p of each set of tokens, then the entropy (nats)."""
        parts = []
        for states in torch.split(states_TD, max(1, LOGITS_AT_ONCE // self._vocabulary)):
            log_p_TV = self.logits(states).log_softmax(-1)
            columns = [log_p_TV[:, list(ids)].logsumexp(-1) for ids in sets]
            columns.append(torch.special.entr(log_p_TV.exp()).sum(-1))
            parts.append(torch.stack(columns, dim=1))
        return cast("NDArray[np.float32]", torch.cat(parts).cpu().numpy())

    def log_p(self, states_ND: Tensor, at_T: Tensor, target_T: Tensor) -> NDArray[np.float32]:
        """Log p of token `target` after the state `at`, for each of T."""
        parts = []
        step = max(1, LOGITS_AT_ONCE // self._vocabulary)
        for at, target in zip(torch.split(at_T, step), torch.split(target_T, step), strict=True):
            logits_TV = self.logits(states_ND[at.to(states_ND.device)])
            target = target.to(logits_TV.device)
            met_T = logits_TV.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
            ended_T = logits_TV[:, self._stops].logsumexp(-1)
            parts.append(torch.where(target == STOP, ended_T, met_T) - logits_TV.logsumexp(-1))
        return cast("NDArray[np.float32]", torch.cat(parts).cpu().numpy())


@contextmanager
def _answering(base: Any, output: Any) -> Iterator[None]:
    """For a while `base` computes nothing and returns `output`: the model around it then applies its head,
    and whatever else it does to logits, to states of our choice. Hooks inside `base` do not run."""
    own = vars(base).get("forward")  # where somebody has already put another in its place
    base.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            del base.forward
        else:
            base.forward = own


def _batches(
    members: Sequence[int], posed: Sequence[Posed], budget: int, *, skip: int = 0
) -> Iterator[list[int]]:
    """Batches of questions by the tokens they have left; what they attend to weighs an eighth."""
    lengths = [len(posed[i]) - skip + skip // 8 for i in members]
    for batch in fill_batches(lengths, budget):
        yield [members[i] for i in batch]


def _by_measure(members: Sequence[int], posed: Sequence[Posed]) -> list[list[int]]:
    """Questions about the next token, and questions about texts that are said."""
    said = [i for i in members if isinstance(posed[i].question.measure, Said)]
    return [sorted(set(members) - set(said)), said]


def _layout(picture: Picture) -> dict[str, Tensor]:
    """What says where an image's tokens stand (grids, sizes), without its pixels."""
    return {name: values for name, values in picture.pixels.items() if not values.is_floating_point()}


def _between(posed: Posed, skip: int, end: int | None) -> list[Picture]:
    """The images of a sequence that stand from `skip` to `end`."""
    last = len(posed) if end is None else end
    return [
        picture
        for picture, (first, after) in zip(posed.pictures, posed.places, strict=True)
        if first >= skip and after <= last
    ]


def _of_owners(cache: DynamicCache, owners: Sequence[int]) -> DynamicCache:
    """A fresh cache with the keys and values of each row's prefix; of one prefix without a copy."""
    index = torch.tensor(owners)
    mine = copy.copy(cache)
    mine.layers = []
    for layer in cache.layers:
        fresh: Any = copy.copy(layer)
        if layer.is_initialized:
            for name in ("keys", "values"):
                shared = getattr(layer, name)
                one = len(shared) == 1
                rows = shared.expand(len(owners), -1, -1, -1) if one else shared[index.to(shared.device)]
                setattr(fresh, name, rows)
        mine.layers.append(fresh)
    return mine


def _token_types(
    loaded: LoadedModel, posed: Sequence[Posed], ids_BS: Tensor, mask_BS: Tensor
) -> dict[str, Tensor]:
    """Per-token inputs: tokens that the processor marks, and tokens behind the prompt."""
    assert loaded.images is not None
    types = {}
    for name, marked in loaded.images.token_types.items():
        values_BS = (torch.isin(ids_BS, torch.tensor(marked)) & (mask_BS == 1)).long()
        if name in loaded.family.said_types:
            for row, one in enumerate(posed):
                values_BS[row, one.prompt :] = loaded.family.said_types[name]
        types[name] = values_BS
    return types
