"""The sparse autoencoder as everybody uses it: rows to sparse codes and back.

Legend of shapes: N rows, B rows of a block, D width, C concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from clearsight.errors import DataError, UsageError
from clearsight.sae.config import SaeConfig
from clearsight.sae.forward import activate, centred_rows, forward, score_rows, shapes, trained_names

BLOCK_ENTRIES = 1 << 23
"""Scores that `encode` holds at a time, unless told: 32 MiB an array."""

KERNEL_ENTRIES = 1 << 24
"""From this many scores on, top-k on a CPU goes through the compiled kernel (equal codes, no dense ones)."""

Floats = NDArray[np.float32]
Part = tuple[NDArray[np.integer], NDArray[np.integer], Floats]
"""Codes of a block: how many each row has, their concepts, their values."""


@dataclass(frozen=True, eq=False)
class History:
    """What training saw, step by step (S,): the loss, its reconstruction error, the mean number of concepts
    of a row, the number of dead concepts, the gradient's length before clipping."""

    loss_S: Floats
    error_S: Floats
    active_S: Floats
    dead_S: Floats
    gradient_S: Floats


class SparseAutoencoder(nn.Module):
    """x -> codes = activation(scores(x)) -> codes @ decoder + bias.

    Args:
        config: its form.
        weights: tensors by name. Linear scores: `encoder_CD`, `decoder_CD`; attention: `concepts_CD`,
            `query_DD` (not in mode `mask`), `key_DD`, `value_DD`. `encoder_bias_C`, `decoder_bias_D` and
            `threshold_C` are zeros where they are not given.

    Attributes:
        weights: the same by name, float32; those that training changes require a gradient.
        encoder_CD, decoder_CD: the matrices in use; of attention scores, the folded ones. A row of
            `decoder_CD` is a concept's direction.
        encoder_bias_C, decoder_bias_D: the latter is subtracted from the input where `config.centred`.
        threshold_C: jumprelu: one a concept; batchtopk: the learnt one, everywhere; sparsemax `mask`:
            infinite where a concept is left out because it fires too often.
        history: of the training that made it, or None; not part of the weights.

    Raises:
        UsageError: a weight is missing, unknown, or of another shape.
        DataError: a weight holds NaN.
    """

    def __init__(self, config: SaeConfig, weights: Mapping[str, Tensor | NDArray[Any]]) -> None:
        super().__init__()
        expected = shapes(config)
        unknown = sorted(set(weights) - set(expected))
        if unknown:
            raise UsageError(
                f"An autoencoder of this form has no weight '{unknown[0]}'.",
                do=f"It has {', '.join(expected)}.",
            )
        trained = set(trained_names(config))
        held: dict[str, nn.Parameter] = {}
        for name, shape in expected.items():
            optional = name in ("encoder_bias_C", "decoder_bias_D", "threshold_C")
            if name not in weights and not optional:
                raise UsageError(f"The weight '{name}' is missing.", do=f"Give {', '.join(expected)}.")
            given = torch.zeros(shape) if name not in weights else torch.as_tensor(weights[name])
            if tuple(given.shape) != shape:
                raise UsageError(
                    f"The weight '{name}' has shape {tuple(given.shape)}, not {shape}.",
                    do="Give a config that fits the weights.",
                )
            value = given.detach().to(torch.float32).contiguous().clone()
            if value.isnan().any():
                raise DataError(
                    f"The weight '{name}' holds NaN.", do="Train again, or from another checkpoint."
                )
            held[name] = nn.Parameter(value, requires_grad=name in trained)
        self.config = config
        self.held = nn.ParameterDict(held)
        self.history: History | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        return dict(self.held.items())

    @property
    def encoder_CD(self) -> Tensor:
        return self.config.scoring.fold(self.weights, self.config)[0]

    @property
    def decoder_CD(self) -> Tensor:
        return self.config.scoring.fold(self.weights, self.config)[1]

    @property
    def encoder_bias_C(self) -> Tensor:
        return self.weights["encoder_bias_C"]

    @property
    def decoder_bias_D(self) -> Tensor:
        return self.weights["decoder_bias_D"]

    @property
    def threshold_C(self) -> Tensor:
        return self.weights["threshold_C"]

    @property
    def dictionary_CD(self) -> Floats:
        """The decoder as a numpy array, float32: row = concept direction, with its length."""
        dictionary_CD: Floats = self.decoder_CD.detach().cpu().numpy()
        return dictionary_CD

    def forward(self, rows_BD: Tensor) -> Tensor:
        """The reconstruction (B, D) of a float32 batch, differentiable, by the rules of inference."""
        return forward(self.weights, self.config, rows_BD, training=False).reconstruction_BD

    def preactivations(self, rows_BD: Tensor) -> Tensor:
        """Scores (B, C) before the activation, differentiable. Mode `mask` scores rows of length 1."""
        centred_BD = centred_rows(self.weights, self.config, rows_BD)
        return score_rows(self.encoder_CD, self.encoder_bias_C, self.config, centred_BD)[0]

    @torch.no_grad()
    def encode(self, rows_ND: NDArray[Any] | Tensor, block: int | None = None) -> csr_array:
        """Codes (N, C): float32, canonical CSR, no stored zeros. Works block by block.

        Codes of batchtopk come from the learnt threshold, so that a row's code does not depend on its
        company.
        In mode `mask` a code is the score times the row's length.

        Args:
            rows_ND: activations, any float dtype (bfloat16 tensors included).
            block: rows at a time; default: so many that a block's scores take 32 MiB.

        Raises:
            DataError: another width than the autoencoder's; NaN or infinity (the row is named).
            UsageError: a block below 1.
        """
        rows = _rows(rows_ND, self.config.width)
        block = max(1, BLOCK_ENTRIES // self.config.concepts) if block is None else block
        if block < 1:
            raise UsageError(f"block is {block}.", do="Give at least 1 row.")
        encode = self._encoder(len(rows))
        parts = [encode(part_BD) for part_BD in self._blocks(rows, block)]
        start_N = np.concatenate([np.zeros(1, np.int64), *(count_B for count_B, _, _ in parts)]).cumsum()
        index = np.int32 if max(start_N[-1], self.config.concepts) < 2**31 else np.int64
        column_S = np.concatenate([np.zeros(0, index), *(column_S.astype(index) for _, column_S, _ in parts)])
        value_S = np.concatenate([np.zeros(0, np.float32), *(value_S for _, _, value_S in parts)])
        codes = csr_array(
            (value_S, column_S, start_N.astype(index)),
            shape=(len(rows), self.config.concepts),
            dtype=np.float32,
        )
        codes.has_canonical_format = True
        return codes

    @torch.no_grad()
    def decode(self, codes: csr_array) -> Floats:
        """codes (N, C) @ decoder + bias: (N, D) float32.

        Raises:
            DataError: codes of another number of concepts.
        """
        if codes.ndim != 2 or codes.shape[1] != self.config.concepts:
            raise DataError(
                f"Codes of shape {codes.shape} do not fit {self.config.concepts} concepts.",
                do="Give codes that this autoencoder made.",
            )
        rows_ND: Floats = csr_array(codes, dtype=np.float32) @ self.dictionary_CD
        if self.config.decoder_bias:
            rows_ND += self.decoder_bias_D.detach().cpu().numpy()
        return rows_ND

    def reconstruct(self, rows_ND: NDArray[Any] | Tensor) -> Floats:
        """decode(encode(rows)): (N, D) float32. Raises what `encode` raises."""
        return self.decode(self.encode(rows_ND))

    @torch.no_grad()
    def folded(self) -> SparseAutoencoder:
        """The same codes and reconstructions by a plain encoder and decoder (itself, if it is linear)."""
        if self.config.score == "linear":
            return self
        given = {name: self.weights[name] for name in ("encoder_bias_C", "decoder_bias_D", "threshold_C")}
        plain = SparseAutoencoder(
            replace(self.config, score="linear"),
            {"encoder_CD": self.encoder_CD, "decoder_CD": self.decoder_CD, **given},
        )
        plain.history = self.history
        return plain

    def _encoder(self, rows: int) -> Callable[[Tensor], Part]:
        """A function from a block of rows to its codes; concepts ascend in a row."""
        encoder_CD, bias_C = self.encoder_CD, self.encoder_bias_C
        on_cpu = encoder_CD.device.type == "cpu"

        def by_kernel(part_BD: Tensor) -> Part:
            centred_BD = centred_rows(self.weights, self.config, part_BD)
            start_B, column_S, value_S = encode_topk(centred_BD, encoder_CD, bias_C, self.config.k)
            return np.diff(start_B), column_S, value_S

        def by_torch(part_BD: Tensor) -> Part:
            centred_BD = centred_rows(self.weights, self.config, part_BD)
            pre_BC, length_B1 = score_rows(encoder_CD, bias_C, self.config, centred_BD)
            codes_BC = activate(pre_BC, length_B1, self.weights, self.config, training=False)
            row_S, column_S = codes_BC.nonzero(as_tuple=True)
            count_B = torch.bincount(row_S, minlength=len(part_BD))
            return count_B.cpu().numpy(), column_S.cpu().numpy(), codes_BC[row_S, column_S].cpu().numpy()

        if self.config.activation == "topk" and on_cpu and rows * self.config.concepts >= KERNEL_ENTRIES:
            from clearsight.sae.steps.select import encode_topk  # compiles: not for a handful of rows

            return by_kernel
        return by_torch

    def _blocks(self, rows: NDArray[Any] | Tensor, block: int) -> Iterator[Tensor]:
        device = self.threshold_C.device
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            given = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part, dtype=np.float32))
            part_BD = given.detach().to(device=device, dtype=torch.float32)
            finite_B = part_BD.isfinite().all(dim=1)
            if not finite_B.all():
                bad = start + int((~finite_B).nonzero()[0, 0])
                raise DataError(
                    "A row holds NaN or infinity (as float32).",
                    where=f"row {bad}",
                    do="Leave it out, or repair it.",
                )
            yield part_BD


def _rows(rows_ND: NDArray[Any] | Tensor, width: int) -> NDArray[Any] | Tensor:
    rows = rows_ND if isinstance(rows_ND, Tensor) else np.asarray(rows_ND)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise DataError(
            f"Rows of shape {tuple(rows.shape)} do not fit an autoencoder of width {width}.",
            do=f"Give rows (N, {width}) of the layer and model it was trained on.",
        )
    return rows
