"""One pass of an autoencoder over dense tensors, differentiable: what training, inference and tests share.

Legend of shapes: B rows of a batch, D width, C concepts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clearsight.sae.config import SaeConfig
from clearsight.sae.scores import Weights


class Pass(NamedTuple):
    """What a pass computes.

    Attributes:
        pre_BC: scores before the activation.
        codes_BC: dense codes.
        reconstruction_BD: codes @ decoder + bias.
        decoder_CD: the decoder that was used.
        length_B1: lengths of the (centred) rows.
    """

    pre_BC: Tensor
    codes_BC: Tensor
    reconstruction_BD: Tensor
    decoder_CD: Tensor
    length_B1: Tensor


def shapes(config: SaeConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of an autoencoder."""
    return {
        **config.scoring.shapes(config),
        "encoder_bias_C": (config.concepts,),
        "decoder_bias_D": (config.width,),
        "threshold_C": (config.concepts,),
    }


def trained_names(config: SaeConfig) -> list[str]:
    """The weights that have a gradient."""
    names: list[str] = list(config.scoring.shapes(config))
    names += ["encoder_bias_C"] * config.scoring.encoder_bias
    names += ["decoder_bias_D"] * config.decoder_bias
    names += ["threshold_C"] * config.kind.trains_threshold
    return names


def centred_rows(weights: Weights, config: SaeConfig, rows_BD: Tensor) -> Tensor:
    """Rows minus the decoder bias, where the form asks for it."""
    return rows_BD - weights["decoder_bias_D"] if config.centred else rows_BD


def score_rows(
    encoder_CD: Tensor, bias_C: Tensor, config: SaeConfig, centred_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """(scores before the activation (B, C), lengths of the rows (B, 1)); a row of zeros scores as it is."""
    length_B1 = torch.linalg.vector_norm(centred_BD, dim=1, keepdim=True)
    if config.kind.unit_input:
        centred_BD = centred_BD / torch.where(length_B1 > 0, length_B1, 1)
    return torch.addmm(bias_C, centred_BD, encoder_CD.T), length_B1


def activate(
    pre_BC: Tensor, length_B1: Tensor, weights: Weights, config: SaeConfig, training: bool
) -> Tensor:
    """Scores to codes; of rows that were brought to length 1 the codes get the length back."""
    codes_BC = config.kind.activate(pre_BC, config, weights["threshold_C"], training)
    return codes_BC * length_B1 if config.kind.unit_input else codes_BC


def forward(weights: Weights, config: SaeConfig, rows_BD: Tensor, *, training: bool) -> Pass:
    """Rows to scores, codes and reconstruction. `training` chooses batchtopk's and mask's rule."""
    encoder_CD, decoder_CD = config.scoring.fold(weights, config)
    centred_BD = centred_rows(weights, config, rows_BD)
    pre_BC, length_B1 = score_rows(encoder_CD, weights["encoder_bias_C"], config, centred_BD)
    codes_BC = activate(pre_BC, length_B1, weights, config, training)
    reconstruction_BD = codes_BC @ decoder_CD
    if config.decoder_bias:
        reconstruction_BD = reconstruction_BD + weights["decoder_bias_D"]
    return Pass(pre_BC, codes_BC, reconstruction_BD, decoder_CD, length_B1)
