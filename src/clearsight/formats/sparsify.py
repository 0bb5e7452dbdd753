"""sparsify (EleutherAI): a folder of `sae.safetensors` and `cfg.json`; what delphi's interpretation opens.

It knows one kind: top-k of relu(W (x - b_dec) + b).

Legend of shapes: D width, C concepts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.files import to_plain
from clearsight.formats.checkpoint import Checkpoint, write_checkpoint
from clearsight.formats.house import Asked, House, form, formats
from clearsight.sae import SparseAutoencoder

WEIGHTS, DESCRIPTION = "sae.safetensors", "cfg.json"
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def write(sae: SparseAutoencoder, folder: Path, facts: Mapping[str, Any]) -> None:
    """Both files, the description last. An SAE that is not centred gets W b_dec added to its encoder bias.

    Raises:
        UsageError: another activation than topk.
    """
    plain = sae.folded()
    config = plain.config
    if config.activation != "topk":
        raise UsageError(
            f"sparsify has no {config.activation}, only topk.", do="Write it with format='saelens'."
        )
    bias_C = plain.encoder_bias_C.double()
    bias_D = plain.decoder_bias_D if config.decoder_bias else plain.decoder_bias_D * 0
    if not config.centred:
        bias_C = bias_C + plain.encoder_CD.double() @ bias_D.double()
    tensors: dict[str, Tensor] = {
        "encoder.weight": plain.encoder_CD,
        "encoder.bias": bias_C.to(torch.float32),
        "W_dec": plain.decoder_CD,
        "b_dec": bias_D,
    }
    description = {
        "activation": "topk",
        "expansion_factor": max(1, config.concepts // config.width),
        "normalize_decoder": False,
        "num_latents": config.concepts,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": config.width,
    }
    # sparsify prints what it does not know in its description, so facts go into the head of the weights.
    header = {"clearsight": json.dumps(to_plain({"facts": facts}))}
    write_checkpoint(folder / WEIGHTS, tensors, folder / DESCRIPTION, description, header)


def recognises(checkpoint: Checkpoint) -> bool:
    return not checkpoint.pickled and checkpoint.holds("encoder.weight", "W_dec")


def read(checkpoint: Checkpoint, asked: Asked) -> SparseAutoencoder:
    """Raises DataError for transcoders, skip connections, groupmax, and where nobody says k."""
    facts = checkpoint.facts
    for name, harmless in (("activation", "topk"), ("transcode", False), ("skip_connection", False)):
        if facts.get(name, harmless) != harmless:
            raise DataError(
                f"'{name}' is {facts[name]}: only autoencoders with topk are read.",
                where=str(checkpoint.file.parent / DESCRIPTION),
                do="Give another checkpoint.",
            )
    checkpoint.only(_TENSORS)
    if facts.get("k") is None and asked.k is None:
        raise DataError(
            f"There is no {DESCRIPTION} with k beside the weights.",
            where=str(checkpoint.file.parent),
            do="Copy it as well, or give k.",
        )
    concepts, width = checkpoint.shape("encoder.weight")
    return SparseAutoencoder(
        form(checkpoint, width, concepts, k=facts.get("k"), asked=asked, activation="topk"),
        {
            "encoder_CD": checkpoint.tensor("encoder.weight", (concepts, width)),
            "encoder_bias_C": checkpoint.tensor("encoder.bias", (concepts,)),
            "decoder_CD": checkpoint.tensor("W_dec", (concepts, width)),
            "decoder_bias_D": checkpoint.tensor("b_dec", (width,)),
        },
    )


formats.add(
    "sparsify",
    House(_TENSORS, recognises, read, write),
)
