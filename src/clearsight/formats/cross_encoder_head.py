"""A score that is read off the next token, as Dense layers of sentence-transformers.

The language head is a matrix, and only the rows of the answers' tokens are needed: logits are a Dense. An
answer may be written by several tokens, whose probabilities add up: log(e^a + e^b) = a + softplus(b - a), and
a = softplus(a) - softplus(-a), so a Dense with Softplus halves the number of terms. Scores are log-odds of
two answers, or a sum of such odds through a sigmoid: the expected value of ordered answers is the sum of
p(at least k) over k. Exact, up to rounding: no vocabulary-wide logits, no stock module that is missing.

Legend of shapes: D width of a state, S terms, F features of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
IDENTITY, SOFTPLUS, SIGMOID, TANH = (
    f"torch.nn.modules.{name}"
    for name in ("linear.Identity", "activation.Softplus", "activation.Sigmoid", "activation.Tanh")
)


@dataclass(frozen=True, eq=False)
class Layer:
    """activation(x @ matrix + offset).

    Attributes:
        activation: a class of torch, by its full name.
    """

    matrix_DF: Floats
    offset_F: Floats
    activation: str


@dataclass(frozen=True, eq=False)
class _Terms:
    """Values as a linear map of features, in groups that are to be added up as probabilities."""

    matrix_DS: Floats
    offset_S: Floats
    groups: tuple[tuple[int, ...], ...]


def tokens_of(sets: Sequence[Sequence[int]]) -> list[int]:
    """The tokens of all answers, each once, in order."""
    return sorted({token for some in sets for token in some})


def expected_place(
    sets: Sequence[Sequence[int]], rows_SD: Floats, bias_S: Floats | None = None, *, cap: float | None = None
) -> tuple[tuple[Layer, ...], str]:
    """Layers from a state to one score, and the activation that is left to the CrossEncoder.

    The score is the expected place of the answer, 0 to A - 1, of the next token's distribution over the A
    answers alone. Of two answers the layers give its log-odds, and the CrossEncoder's Sigmoid the probability
    of the second.

    Args:
        sets: token ids of each answer, in order.
        rows_SD, bias_S: the language head's rows of `tokens_of(sets)`.
        cap: logits are cap * tanh(logits / cap), as Gemma 2 has it.
    """
    tokens = tokens_of(sets)
    place = {token: column for column, token in enumerate(tokens)}
    matrix_DS = rows_SD.T
    offset_S = np.zeros(len(tokens)) if bias_S is None else bias_S
    layers: list[Layer] = []
    if cap is not None:
        layers.append(Layer(matrix_DS / cap, offset_S / cap, TANH))
        matrix_DS, offset_S = np.eye(len(tokens)) * cap, np.zeros(len(tokens))
    bounds = range(1, len(sets))
    groups = [tuple(place[t] for some in sets[k:] for t in some) for k in bounds]
    groups += [tuple(place[t] for some in sets[:k] for t in some) for k in bounds]
    terms = _Terms(matrix_DS, offset_S, tuple(groups))
    while any(len(group) > 1 for group in terms.groups):
        layer, terms = _halved(terms)
        layers.append(layer)
    ends = [group[0] for group in terms.groups]
    odds = np.zeros((terms.matrix_DS.shape[1], len(bounds)))
    for k in range(len(bounds)):
        odds[ends[k], k] += 1
        odds[ends[len(bounds) + k], k] -= 1
    last = Layer(terms.matrix_DS @ odds, terms.offset_S @ odds, IDENTITY)
    if len(bounds) == 1:
        return (*layers, last), SIGMOID
    summed = Layer(np.ones((len(bounds), 1)), np.zeros(1), IDENTITY)
    return (*layers, Layer(last.matrix_DF, last.offset_F, SIGMOID), summed), IDENTITY


def _halved(terms: _Terms) -> tuple[Layer, _Terms]:
    """One Dense with Softplus, and half the terms behind it."""
    unit_SS = np.eye(terms.matrix_DS.shape[1])
    columns: list[Floats] = []  # of the Dense: what goes through softplus
    signs: list[list[tuple[int, int]]] = []  # of each new term: columns, and whether they are added
    groups = []
    for group in terms.groups:
        added = []
        for left, *right in (group[start : start + 2] for start in range(0, len(group), 2)):
            added.append(len(signs))
            some = [
                (unit_SS[left], 1),
                (-unit_SS[left], -1),
                *((unit_SS[one] - unit_SS[left], 1) for one in right),
            ]
            signs.append([(len(columns) + at, sign) for at, (_, sign) in enumerate(some)])
            columns += [column for column, _ in some]
        groups.append(tuple(added))
    picked = np.array(columns).T
    layer = Layer(terms.matrix_DS @ picked, terms.offset_S @ picked, SOFTPLUS)
    matrix = np.zeros((len(columns), len(signs)))
    for column, term in enumerate(signs):
        for row, sign in term:
            matrix[row, column] = sign
    return layer, _Terms(matrix, np.zeros(len(signs)), tuple(groups))


def run(layers: Sequence[Layer], states_TD: Floats) -> Floats:
    """What the layers make of states, (T,)."""
    out = states_TD
    for layer in layers:
        out = _ACTIVATIONS[layer.activation](out @ layer.matrix_DF + layer.offset_F)
    scores_T: Floats = out[:, 0]
    return scores_T


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    IDENTITY: lambda x: x,
    SOFTPLUS: lambda x: np.logaddexp(0, x),
    SIGMOID: lambda x: np.exp(-np.logaddexp(0, -x)),
    TANH: np.tanh,
}
