"""Visual enhancement: a decoder looks at its visual tokens again where it is unsure ("visual retracing").

The feed-forward part of a layer is read as a memory of keys and values (Geva et al. 2021); for one layer the
visual tokens z_j are put beside it: Delta(x) = sum_j phi(<x, z_j>) z_j, and the layer's output becomes
ratio Delta(x) + (1 - ratio) FFN(x). The idea, its equations, and the trigger (the entropy of the next token,
read off a middle layer) are MemVR's (Zou et al. 2025, arXiv 2410.03577); RetLLM (Su and Wang 2026, arXiv
2602.22278) uses them to rerank. What was taken from where is said at each form in `ENHANCEMENTS`.

Legend of shapes: B items of a batch, L tokens of one pass, D width, J visual tokens of one item, T positions,
M width of the feed-forward part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from clearsight.errors import UsageError
from clearsight.models.load import LoadedModel
from clearsight.models.retrace_parts import activation, first_weight
from clearsight.pooling import IMAGE, last_positions
from clearsight.registry import Registry

Memory: TypeAlias = Literal["visual", "inputs"]

TOP = 10
"""The entropy is that of the so many likeliest tokens, over its largest value, ln 10."""
_LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Enhancement:
    """One form of visual enhancement.

    Attributes:
        ratio: the part of Delta in the enhanced output, 0 to 1.
        scaled: keys z_j times mean|first projection| / mean|z|, and Delta brought to the mean magnitude of
            the FFN's output; otherwise as the equation stands.
        memory: "visual" tokens, or all "inputs" (a mistake of the release, kept to measure it).
        normed: the final norm is applied before the language head reads a middle layer.
        threshold: an entropy above it, 0 to 1, sets off the next layer; once.
        first, last: the layers that are watched, as shares of the depth, both included.
    """

    ratio: float
    scaled: bool
    memory: Memory
    normed: bool
    threshold: float = 0.75
    first: float = 6 / 28
    last: float = 15 / 28

    def __post_init__(self) -> None:
        shares = (self.ratio, self.threshold, self.first, self.last)
        if not (all(0 <= share <= 1 for share in shares) and self.first <= self.last):
            raise UsageError(
                f"A ratio of {self.ratio} above an entropy of {self.threshold}, over {self.first} to "
                f"{self.last} of the depth, is no enhancement.",
                do="Give all four from 0 to 1, the first share of the depth not above the last.",
            )

    def watched(self, layers: int) -> range:
        """The watched layers of a model of this depth; each has a next one.

        Raises:
            UsageError: fewer than two layers.
        """
        if layers < 2:
            raise UsageError(
                "A decoder of one layer has no next one to enhance.",
                where="visual enhancement",
                do="Leave it off.",
            )
        last = min(math.floor(self.last * layers + 0.5), layers - 2)
        return range(min(math.floor(self.first * layers + 0.5), last), last + 1)


ENHANCEMENTS: Registry[Enhancement] = Registry("enhancement")
# RetLLM's equation and its ratio. The paper's text leaves open which layer and when: these, and the norm
# before the head, are MemVR's, whose released code norms.
ENHANCEMENTS.add("paper", Enhancement(ratio=0.3, scaled=False, memory="visual", normed=True))
# RetLLM's code: it reads middle layers without the final norm, scales by gate_proj (MemVR: up_proj) and has
# an activation inside Delta (MemVR's code has none).
ENHANCEMENTS.add("release", Enhancement(ratio=0.12, scaled=True, memory="visual", normed=False))
# The same with every input token taken for a visual one, as the code has it.
ENHANCEMENTS.add("release_all_inputs", Enhancement(ratio=0.12, scaled=True, memory="inputs", normed=False))


@dataclass(slots=True, eq=False)
class Retraced:
    """What one pass saw and did; filled while it runs.

    Attributes:
        memory: for each item the embeddings (J, D) of its visual tokens as they enter the first layer, those
            seen before included.
        layer_BL: the layer whose feed-forward part was enhanced at a position; -1 where none was.
    """

    memory: list[Tensor] = field(default_factory=list)
    layer_BL: Tensor = field(default_factory=lambda: torch.empty(0, 0))


class Retrace:
    """Visual enhancement of one model.

    Hooks live for the time of a pass and are taken off after it, also after an exception: the model is then
    what it was, to the bit. An item without visual tokens passes as it always did. Arithmetic is in float32,
    item by item: what else is in the batch changes the last bits of a matrix product, and a decision only
    where an entropy lies that near to the threshold.

    Args:
        loaded: a generative model with its language head.
        form: a name in `ENHANCEMENTS`, or a form of one's own.

    Raises:
        UsageError: no language head, fewer than two layers, an unknown form, or layers whose feed-forward
            part is none that can be read (a mixture of experts).
    """

    def __init__(self, loaded: LoadedModel, form: str | Enhancement = "release") -> None:
        if loaded.kind == "contrastive" or loaded.model.get_output_embeddings() is None:
            raise UsageError(
                f"The model '{loaded.name}' has no language head, whose entropy says when to look again.",
                do="Load a generative model with head=True.",
            )
        self.loaded = loaded
        self.form = form if isinstance(form, Enhancement) else ENHANCEMENTS.get(form)
        self._head = cast(nn.Module, loaded.model.get_output_embeddings())
        decoder = cast(Any, loaded.base.get_decoder())
        self._norm = cast(nn.Module, decoder.norm)
        self._layers = cast(nn.ModuleList, decoder.layers)
        self.watched = self.form.watched(len(self._layers))
        self._phi = {k + 1: activation(self._layers[k + 1], decoder.config) for k in self.watched}
        self._first = {k + 1: first_weight(self._layers[k + 1]) for k in self.watched}
        self._magnitude: dict[int, float] = {}

    @contextmanager
    def during(
        self,
        kinds_BL: Tensor,
        mask_BL: Tensor,
        *,
        where_BL: Tensor | None = None,
        seen: Tensor | Sequence[Tensor] | None = None,
    ) -> Iterator[Retraced]:
        """Enhances the one pass that is made inside.

        A pass after a cached prefix holds the tokens behind it. The prefix itself is computed without
        enhancement, inside `watching`, which tells the embeddings to pass as `seen`. With the same `where_BL`
        (positions behind the prefix) a pass over the whole sequence then gives the same numbers.

        Args:
            kinds_BL: IMAGE where a token of this pass is a visual one.
            mask_BL: where a token of this pass is valid.
            where_BL: the positions that may be enhanced, each by its own entropy and scale, as steps of
                generation are: results do not depend on where a sequence is cut. None: the last valid
                position decides for the whole sequence and the scale is a mean over it, as in the authors'
                pass over a prompt; this asks for a pass without a cached prefix.
            seen: visual tokens in the cached prefix: (J, D) for all items alike, or one for each item.

        Raises:
            UsageError: `seen` for another number of items, or layers that are given fewer positions than the
                pass has.
        """
        look = _Look(self, kinds_BL, mask_BL, where_BL, seen)
        with ExitStack() as hooks:
            look.hook(hooks)
            yield look.told

    @contextmanager
    def watching(self, kinds_BL: Tensor, mask_BL: Tensor) -> Iterator[Retraced]:
        """Changes nothing; tells the memory of the one pass that is made inside: a prefix that is cached."""
        look = _Look(self, kinds_BL, mask_BL, torch.zeros_like(mask_BL), None)
        with ExitStack() as hooks:
            look.hook_first(hooks)
            yield look.told

    def entropy(self, states_TD: Tensor) -> Tensor:
        """Entropy (T,) of the ten likeliest next tokens after states of a middle layer, 0 to 1: sum of
        -p ln p over ln 10, with p the softmax over their logits alone."""
        vocabulary = int(cast(Any, self._head).weight.shape[0])
        parts = []
        for states in torch.split(states_TD, max(1, _LOGITS_AT_ONCE // vocabulary)):
            logits_TV = self._head(self._norm(states) if self.form.normed else states).float()
            p_TK = logits_TV.topk(min(TOP, vocabulary), dim=-1).values.softmax(-1)
            parts.append(torch.special.entr(p_TK).sum(-1) / math.log(TOP))
        return torch.cat(parts)

    def enhanced(self, x_TD: Tensor, ffn_TD: Tensor, z_JD: Tensor, layer: int, *, whole: bool) -> Tensor:
        """(T, D): the feed-forward output of positions of one item with the memory z beside it.

        Args:
            whole: the scale of Delta is one mean over all positions, not one a position.
        """
        form, x, ffn, z = self.form, x_TD.float(), ffn_TD.float(), z_JD.float()
        keys_JD = z
        if form.scaled:
            # The values' own factor, mean|down projection| / mean|z|, falls out when Delta is rescaled.
            keys_JD = z * (self._mean_first(layer) / z.abs().mean())
        delta_TD = self._phi[layer](x @ keys_JD.T) @ z
        if form.scaled:
            axes = (0, 1) if whole else (1,)
            tiny = torch.finfo(torch.float32).tiny
            size = delta_TD.abs().mean(axes, keepdim=True).clamp_min(tiny)
            delta_TD = delta_TD * (ffn.abs().mean(axes, keepdim=True) / size)
        return ((1 - form.ratio) * ffn + form.ratio * delta_TD).to(ffn_TD.dtype)

    def _mean_first(self, layer: int) -> float:
        if layer not in self._magnitude:
            self._magnitude[layer] = float(self._first[layer].abs().mean(dtype=torch.float32))
        return self._magnitude[layer]


class _Look:
    """The hooks of one pass, and what they know."""

    def __init__(
        self,
        retrace: Retrace,
        kinds_BL: Tensor,
        mask_BL: Tensor,
        where_BL: Tensor | None,
        seen: Tensor | Sequence[Tensor] | None,
    ) -> None:
        self._retrace, self._whole = retrace, where_BL is None
        self._valid_BL = mask_BL.bool()
        every = retrace.form.memory == "inputs"
        self._remembered_BL = self._valid_BL if every else self._valid_BL & (kinds_BL == IMAGE)
        self._seen = _one_each(seen, len(mask_BL))
        # Positions that decide, until they have.
        self._open_BL = torch.zeros_like(self._valid_BL)
        if where_BL is None:
            self._open_BL[torch.arange(len(mask_BL), device=mask_BL.device), last_positions(mask_BL)] = True
        else:
            self._open_BL |= where_BL.bool()
        self._open_BL &= self._valid_BL
        self._now_BL = torch.zeros_like(self._valid_BL)
        self.told = Retraced(layer_BL=torch.full_like(self._valid_BL, -1, dtype=torch.long))

    def hook(self, hooks: ExitStack) -> None:
        self.hook_first(hooks)
        for before in self._retrace.watched:
            layer: Any = self._retrace._layers[before + 1]
            for handle in (
                layer.register_forward_pre_hook(self._decide(before + 1), with_kwargs=True),
                layer.mlp.register_forward_hook(self._mix(before + 1)),
            ):
                hooks.callback(handle.remove)

    def hook_first(self, hooks: ExitStack) -> None:
        first = self._retrace._layers[0]
        hooks.callback(first.register_forward_pre_hook(self._remember, with_kwargs=True).remove)

    def _remember(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        states_BLD = self._states(args, keywords)
        self.told.memory = [
            states_LD[own_L] if before is None else torch.cat([before.to(states_LD), states_LD[own_L]])
            for states_LD, own_L, before in zip(states_BLD, self._remembered_BL, self._seen, strict=True)
        ]
        has_B = torch.tensor([len(z) > 0 for z in self.told.memory], device=states_BLD.device)
        self._open_BL &= has_B.unsqueeze(1)

    def _decide(self, layer: int) -> Any:
        def decide(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self._now_BL = torch.zeros_like(self._open_BL)
            if not self._open_BL.any():
                return
            entropy_T = self._retrace.entropy(self._states(args, keywords)[self._open_BL])
            self._now_BL[self._open_BL] = entropy_T > self._retrace.form.threshold
            self._open_BL &= ~self._now_BL
            if self._whole:
                self._now_BL = self._now_BL.any(dim=1, keepdim=True) & self._valid_BL
            self.told.layer_BL[self._now_BL] = layer

        return decide

    def _mix(self, layer: int) -> Any:
        def mix(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not self._now_BL.any():
                return None
            self._check(args[0])
            mixed = output.clone()
            for b in self._now_BL.any(dim=1).nonzero().squeeze(1).tolist():
                at_L = self._now_BL[b]
                mixed[b, at_L] = self._retrace.enhanced(
                    args[0][b, at_L], output[b, at_L], self.told.memory[b], layer, whole=self._whole
                )
            return mixed

        return mix

    def _states(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
        return self._check(args[0] if args else keywords["hidden_states"])

    def _check(self, states_BLD: Tensor) -> Tensor:
        if states_BLD.shape[:2] != self._valid_BL.shape:
            raise UsageError(
                f"A layer was given {tuple(states_BLD.shape[:2])} items and positions, the pass was said to "
                f"have {tuple(self._valid_BL.shape)}.",
                where="visual enhancement",
                do="Give the kinds and mask of this pass, and let its layers compute all positions.",
            )
        return states_BLD


def _one_each(seen: Tensor | Sequence[Tensor] | None, items: int) -> Sequence[Tensor | None]:
    if seen is None or isinstance(seen, Tensor):
        return [seen] * items
    if len(seen) != items:
        raise UsageError(
            f"Visual tokens were given for {len(seen)} items, the pass has {items}.",
            where="seen",
            do="Give one tensor for each item, or one for all.",
        )
    return seen
