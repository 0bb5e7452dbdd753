"""dictionary_learning: `ae.pt`, with a `config.json` beside it; read only.

Its top-k and batch top-k autoencoders have the same tensors, and both keep a threshold; only config.json says
which one it is. Without it the kind must be told, unless no threshold was learnt (it is then negative).

Legend of shapes: D width, C concepts.
"""

from __future__ import annotations

from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.formats.checkpoint import Checkpoint
from clearsight.formats.house import Asked, House, form, formats
from clearsight.sae import SparseAutoencoder

_CLASSES = {"AutoEncoderTopK": "topk", "BatchTopKSAE": "batchtopk"}
_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_JUMP = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def recognises(checkpoint: Checkpoint) -> bool:
    linear = checkpoint.holds("encoder.weight", "decoder.weight")
    return linear or (checkpoint.pickled and checkpoint.holds(*_JUMP))


def read(checkpoint: Checkpoint, asked: Asked) -> SparseAutoencoder:
    """AutoEncoder (relu), AutoEncoderNew (relu), AutoEncoderTopK, BatchTopKSAE, JumpReluAutoEncoder.

    Raises:
        DataError: other tensors; a kind that neither the file nor its config.json says.
        UsageError: an activation that such a file cannot hold.
    """
    if checkpoint.holds("W_enc"):
        return _jump(checkpoint, asked)
    concepts, width = checkpoint.shape("encoder.weight")
    weights = {
        "encoder_CD": checkpoint.tensor("encoder.weight", (concepts, width)),
        "encoder_bias_C": checkpoint.tensor("encoder.bias", (concepts,)),
        "decoder_CD": checkpoint.tensor("decoder.weight", (width, concepts)).T,
    }
    for bias, centred in (("bias", True), ("decoder.bias", False)):
        if checkpoint.holds(bias):  # a plain ReLU: the kind is known by the name of its bias
            _agree(checkpoint, asked, "relu")
            checkpoint.only((*_LINEAR, bias))
            # AutoEncoderNew is made with a decoder bias of zero and not centred.
            weights["decoder_bias_D"] = checkpoint.tensor(bias, (width,))
            return SparseAutoencoder(
                form(checkpoint, width, concepts, asked=asked, activation="relu", centred=centred),
                weights,
            )
    checkpoint.only((*_LINEAR, "b_dec", "k", "threshold"))
    weights["decoder_bias_D"] = checkpoint.tensor("b_dec", (width,))
    threshold = checkpoint.tensor("threshold", ()) if checkpoint.holds("threshold") else None
    activation = _topk_kind(checkpoint, asked, threshold)
    k = int(checkpoint.tensor("k", ()))
    if activation == "batchtopk" and threshold is not None:  # a ReLU goes before the threshold
        weights["threshold_C"] = threshold.clamp(min=0).expand(concepts)
    return SparseAutoencoder(
        form(checkpoint, width, concepts, k=k, asked=asked, activation=activation), weights
    )


def _topk_kind(checkpoint: Checkpoint, asked: Asked, threshold: Tensor | None) -> str:
    trainer = checkpoint.facts.get("trainer")
    said = _CLASSES.get(str(trainer.get("dict_class"))) if isinstance(trainer, dict) else None
    if said is None and (threshold is None or threshold < 0):
        said = "topk"
    if said is not None:
        _agree(checkpoint, asked, said)
        return said
    if asked.activation in ("topk", "batchtopk"):
        return asked.activation
    raise DataError(
        "This may be a top-k or a batch top-k autoencoder: both have these tensors.",
        where=str(checkpoint.file),
        do="Copy the config.json of its folder as well, or give activation='topk' or 'batchtopk'.",
    )


def _jump(checkpoint: Checkpoint, asked: Asked) -> SparseAutoencoder:
    _agree(checkpoint, asked, "jumprelu")
    checkpoint.only(_JUMP)
    width, concepts = checkpoint.shape("W_enc")
    return SparseAutoencoder(
        form(checkpoint, width, concepts, asked=asked, activation="jumprelu", centred=False),
        {
            "encoder_CD": checkpoint.tensor("W_enc", (width, concepts)).T,
            "encoder_bias_C": checkpoint.tensor("b_enc", (concepts,)),
            "decoder_CD": checkpoint.tensor("W_dec", (concepts, width)),
            "decoder_bias_D": checkpoint.tensor("b_dec", (width,)),
            "threshold_C": checkpoint.tensor("threshold", (concepts,)).clamp(min=0),
        },
    )


def _agree(checkpoint: Checkpoint, asked: Asked, activation: str) -> None:
    if asked.activation not in (None, activation):
        raise UsageError(
            f"This checkpoint is {activation}, not {asked.activation}.",
            where=str(checkpoint.file),
            do=f"Give '{activation}' or nothing.",
        )


formats.add("dictionary_learning", House((*_LINEAR, "b_dec", "k", "threshold"), recognises, read))
