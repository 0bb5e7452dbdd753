"""overcomplete, and the `sae_*.pt` files of Generative Giants, which were trained with it: read only.

The file says nothing about its kind: a top-k, a batch top-k (whose threshold is lost on saving) and a ReLU
autoencoder have the same tensors. It is read as topk unless told; k = 50, the papers', unless told.

Legend of shapes: D width, C concepts.
"""

from __future__ import annotations

import torch

from clearsight.errors import UsageError
from clearsight.formats.checkpoint import Checkpoint
from clearsight.formats.house import Asked, House, form, formats
from clearsight.sae import SparseAutoencoder

PAPER_K = 50
_EPSILON = 1e-8
"""Added to the lengths of the dictionary rows by overcomplete."""

_TENSORS = (
    "encoder.final_block.0.weight",
    "encoder.final_block.0.bias",
    "dictionary._weights",
    "dictionary.multiplier",
)


def recognises(checkpoint: Checkpoint) -> bool:
    return checkpoint.holds("dictionary._weights")


def read(checkpoint: Checkpoint, asked: Asked) -> SparseAutoencoder:
    """The encoder as it is; dictionary rows of length exp(multiplier); no decoder bias.

    Raises:
        DataError: another encoder than a linear one, or another dictionary than a free one.
        UsageError: an activation that such a file cannot hold.
    """
    jump = checkpoint.holds("thresholds")
    checkpoint.only((*_TENSORS, "thresholds") if jump else _TENSORS)
    activation = asked.activation or ("jumprelu" if jump else "topk")
    if activation not in (("jumprelu",) if jump else ("topk", "relu")):
        raise UsageError(
            f"This checkpoint of overcomplete cannot be read as {activation}.",
            where=str(checkpoint.file),
            do="Give 'jumprelu' or nothing." if jump else "Give 'topk' or 'relu'.",
        )
    concepts, width = checkpoint.shape("encoder.final_block.0.weight")
    directions_CD = checkpoint.tensor("dictionary._weights", (concepts, width))
    length_C1 = directions_CD.norm(dim=1, keepdim=True) + _EPSILON
    weights = {
        "encoder_CD": checkpoint.tensor("encoder.final_block.0.weight", (concepts, width)),
        "encoder_bias_C": checkpoint.tensor("encoder.final_block.0.bias", (concepts,)),
        "decoder_CD": directions_CD / length_C1 * checkpoint.tensor("dictionary.multiplier", ()).exp(),
    }
    if jump:  # overcomplete keeps a score equal to its threshold, which is stored as a logarithm
        threshold_C = checkpoint.tensor("thresholds", (concepts,)).exp()
        weights["threshold_C"] = torch.nextafter(threshold_C, torch.zeros(()))
    config = form(
        checkpoint,
        width,
        concepts,
        k=min(PAPER_K, concepts),
        asked=asked,
        activation=activation,
        centred=False,
        decoder_bias=False,
    )
    return SparseAutoencoder(config, weights)


formats.add("overcomplete", House(_TENSORS, recognises, read))
