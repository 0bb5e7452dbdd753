"""SAELens, our own format: a folder of `sae_weights.safetensors` and `cfg.json`; our facts under `metadata`.

| here | there |
|---|---|
| relu, topk, jumprelu | standard, topk, jumprelu |
| batchtopk | jumprelu with its learnt threshold: the same codes at inference |
| any other kind | `clearsight_<kind>`, which SAELens refuses: only Clearsight reads it |

Attention scores are written as the encoder and decoder they fold into.

Legend of shapes: D width, C concepts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.formats.checkpoint import Checkpoint, write_checkpoint
from clearsight.formats.house import Asked, House, form, formats
from clearsight.sae import SaeConfig, SparseAutoencoder

WEIGHTS, DESCRIPTION = "sae_weights.safetensors", "cfg.json"
VERSION = "6.0.0"
"""Of SAELens' description that is written; an older or missing one makes SAELens rewrite the description."""

OWN = "clearsight_"
_WRITTEN = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "jumprelu"}
_READ = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")


def write(sae: SparseAutoencoder, folder: Path, facts: Mapping[str, Any]) -> None:
    """Both files; the description last, so that a folder without one was not finished."""
    plain = sae.folded()
    config = plain.config
    native = _WRITTEN.get(config.activation)
    tensors: dict[str, Tensor] = {
        "W_enc": plain.encoder_CD.T,
        "b_enc": plain.encoder_bias_C,
        "W_dec": plain.decoder_CD,
        "b_dec": plain.decoder_bias_D if config.decoder_bias else plain.decoder_bias_D * 0,
    }
    if native in (None, "jumprelu"):
        tensors["threshold"] = plain.threshold_C
    description: dict[str, Any] = {
        "architecture": native or f"{OWN}{config.activation}",
        "d_in": config.width,
        "d_sae": config.concepts,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **({"k": config.k, "rescale_acts_by_decoder_norm": False} if native == "topk" else {}),
        "metadata": {
            "sae_lens_version": VERSION,
            "clearsight": {"config": asdict(config), "score": sae.config.score, "facts": dict(facts)},
        },
    }
    write_checkpoint(folder / WEIGHTS, tensors, folder / DESCRIPTION, description)


def recognises(checkpoint: Checkpoint) -> bool:
    return not checkpoint.pickled and checkpoint.holds("W_enc", "W_dec")


def read(checkpoint: Checkpoint, asked: Asked) -> SparseAutoencoder:
    """Of SAELens 6, its training checkpoints of batchtopk, and descriptions of versions before 6.

    Raises:
        DataError: an architecture, input normalisation or tensor that would change the codes and has no
            counterpart here; a description that is missing or does not fit the tensors.
    """
    facts = checkpoint.facts
    if not facts:
        raise DataError(
            f"There is no {DESCRIPTION} beside the weights.",
            where=str(checkpoint.file.parent),
            do="Copy it as well; if this was the place of an interrupted save, save again.",
        )
    width, concepts = checkpoint.shape("W_enc")
    for name, size in (("d_in", width), ("d_sae", concepts)):
        if facts.get(name, size) != size:
            raise DataError(
                f"{DESCRIPTION} says {name} {facts[name]}, but W_enc has the shape {(width, concepts)}.",
                where=str(checkpoint.file.parent),
                do="The two files are not of one SAE.",
            )
    ours = _ours(checkpoint)
    architecture, activation = _architecture(facts, checkpoint, ours)
    _no_surprises(facts, checkpoint)
    weights = {
        "encoder_CD": checkpoint.tensor("W_enc", (width, concepts)).T,
        "encoder_bias_C": checkpoint.tensor("b_enc", (concepts,)),
        "decoder_CD": checkpoint.tensor("W_dec", (concepts, width)),
        "decoder_bias_D": checkpoint.tensor("b_dec", (width,)),
    }
    threshold = None
    if architecture.endswith("batchtopk"):
        checkpoint.only((*_MATRICES, "topk_threshold"))
        threshold = checkpoint.tensor("topk_threshold", ()).expand(concepts)
    elif architecture == "jumprelu" or architecture.startswith(OWN):
        checkpoint.only((*_MATRICES, "threshold"))
        threshold = checkpoint.tensor("threshold", (concepts,))
    else:
        checkpoint.only(_MATRICES)
    if threshold is not None:  # SAELens applies ReLU as well: nothing below 0 passes
        weights["threshold_C"] = threshold.clamp(min=0)
    if facts.get("rescale_acts_by_decoder_norm"):
        _fold_lengths(weights)
    if ours is not None:
        return SparseAutoencoder(ours if asked.k is None else replace(ours, k=asked.k), weights)
    k = facts.get("k", _old_k(facts))
    if architecture == "topk" and k is None and asked.k is None:
        raise DataError(
            f"{DESCRIPTION} does not say k.", where=str(checkpoint.file.parent), do="Give k, if you know it."
        )
    centred = bool(facts.get("apply_b_dec_to_input", True))
    return SparseAutoencoder(
        form(checkpoint, width, concepts, k=k, asked=asked, activation=activation, centred=centred), weights
    )


def own_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What Clearsight wrote under `metadata`; empty for a stranger's."""
    metadata = facts.get("metadata")
    ours = metadata.get("clearsight") if isinstance(metadata, dict) else None
    return ours if isinstance(ours, dict) else {}


def _ours(checkpoint: Checkpoint) -> SaeConfig | None:
    """The form that Clearsight wrote down, checked against what SAELens is told."""
    plain = own_facts(checkpoint.facts).get("config")
    if plain is None:
        return None
    try:
        known = {field.name for field in fields(SaeConfig)}
        config = SaeConfig(**{name: value for name, value in plain.items() if name in known})
    except (TypeError, AttributeError, UsageError) as error:
        raise DataError(
            f"What Clearsight wrote under metadata cannot be read: {error}",
            where=str(checkpoint.file.parent / DESCRIPTION),
            do="Remove 'clearsight' from metadata: it is then read as SAELens reads it.",
        ) from error
    facts = checkpoint.facts
    told = {
        "d_in": config.width,
        "d_sae": config.concepts,
        "architecture": _WRITTEN.get(config.activation, f"{OWN}{config.activation}"),
        "apply_b_dec_to_input": config.centred,
    }
    changed = [name for name, value in told.items() if facts.get(name) != value]
    if changed:
        raise DataError(
            f"'{changed[0]}' is {facts.get(changed[0])}, but {told[changed[0]]} under metadata.",
            where=str(checkpoint.file.parent / DESCRIPTION),
            do="Remove 'clearsight' from metadata, if somebody changed the SAE on purpose.",
        )
    return config


def _architecture(
    facts: Mapping[str, Any], checkpoint: Checkpoint, ours: SaeConfig | None
) -> tuple[str, str]:
    """(SAELens' name, ours)."""
    architecture = str(facts.get("architecture", "standard"))
    if ours is not None:
        return architecture, ours.activation
    before = str(facts.get("activation_fn_str", facts.get("activation_fn", "relu")))
    if architecture == "standard" and before == "topk":  # SAELens before 6
        return "topk", "topk"
    if architecture not in _READ or (before != "relu" and architecture != "topk"):
        near = difflib.get_close_matches(architecture, _READ, n=1)
        hint = f" The nearest is '{near[0]}'." if near else ""
        name = architecture if architecture not in _READ else f"{architecture} with activation {before}"
        raise DataError(
            f"SAELens' architecture '{name}' is not read here.{hint}",
            where=str(checkpoint.file.parent / DESCRIPTION),
            do=f"There are: {', '.join(_READ)}.",
        )
    return architecture, _READ[architecture]


def _no_surprises(facts: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise DataError for settings under which the weights alone do not give the codes."""
    refused = {
        "normalize_activations": (None, False, "none"),
        "reshape_activations": (None, "none", "hook_z"),
        "finetuning_scaling_factor": (None, False),
    }
    for name, harmless in refused.items():
        if facts.get(name) not in harmless:
            raise DataError(
                f"'{name}' is {facts[name]}: the codes depend on more than the weights.",
                where=str(checkpoint.file.parent / DESCRIPTION),
                do="Fold it into the weights with SAELens (fold_activation_norm_scaling_factor), save again.",
            )


def _fold_lengths(weights: dict[str, Tensor]) -> None:
    """Scores times the lengths of the decoder rows, and these divided out: what rescaling comes to."""
    length_C = weights["decoder_CD"].norm(dim=1)
    weights["encoder_CD"] = weights["encoder_CD"] * length_C[:, None]
    weights["encoder_bias_C"] = weights["encoder_bias_C"] * length_C
    weights["decoder_CD"] = weights["decoder_CD"] / length_C.clamp(min=1e-30)[:, None]


def _old_k(facts: Mapping[str, Any]) -> Any:
    """k as SAELens before 6 kept it."""
    arguments = facts.get("activation_fn_kwargs")
    return arguments.get("k") if isinstance(arguments, dict) else None


formats.add(
    "saelens",
    House(_MATRICES, recognises, read, write),
)
