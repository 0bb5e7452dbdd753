"""Sparse autoencoders on disk: SAELens' format is ours; other houses' files are read, sparsify's written.

A pickle is never written, and read only by `clearsight.formats.unpickle`, which runs nothing.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearsight.errors import DataError, UsageError
from clearsight.formats import dictionary_learning, overcomplete, saelens, sparsify  # noqa: F401 (register)
from clearsight.formats.checkpoint import Checkpoint, open_checkpoint
from clearsight.formats.house import Asked, House, formats
from clearsight.formats.saelens import own_facts
from clearsight.sae import SparseAutoencoder

__all__ = ["Description", "House", "describe_sae", "formats", "load_sae", "save_sae"]


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, by its names and shapes; no numbers are read.

    Attributes:
        format: a name of `formats`.
        file: where the weights are.
        shapes: of every tensor, by name.
        settings: what the house's own cfg.json or config.json says.
        facts: what was given to `save_sae`; empty for other houses' files.
    """

    format: str
    file: Path
    shapes: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]


def save_sae(
    sae: SparseAutoencoder,
    path: str | os.PathLike[str],
    format: str = "saelens",
    *,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder of safetensors and JSON. Returns the folder.

    The autoencoder that is read back has the same codes and reconstructions; attention scores are written
    folded into one encoder and decoder.

    Args:
        path: a folder; made if needed, its files of the same names replaced.
        format: "saelens" or "sparsify".
        facts: where it comes from (model, layer, seed), as JSON knows it; `describe_sae` gives it back.

    Raises:
        UsageError: an unknown format, one that is only read, or one that has no such kind.
    """
    house = formats.get(format)
    if house.write is None:
        written = [name for name in formats if formats.get(name).write is not None]
        raise UsageError(f"'{format}' is read, not written.", do=f"Write {' or '.join(written)}.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UsageError("This is a file.", where=str(folder), do="Give a folder.")
    house.write(sae, folder, facts or {})
    return folder


def load_sae(
    path: str | os.PathLike[str],
    format: str | None = None,
    k: int | None = None,
    *,
    activation: str | None = None,
) -> SparseAutoencoder:
    """Read an autoencoder of any known house, on the CPU, float32.

    Args:
        path: a folder, or a .safetensors, .pt or .pth file.
        format: a name of `formats`; None: found by the names of its tensors.
        k: instead of what the file says; of overcomplete, whose files say nothing, the papers' 50 if None.
        activation: its kind, for files that do not say (overcomplete, dictionary_learning).

    Raises:
        DataError: nothing there; a checkpoint that is cut short, damaged, of unknown format, of shapes that
            do not fit, or with settings that have no counterpart here; a pickle that asks for more than
            weights.
        UsageError: an unknown format; k beyond the number of concepts.
    """
    house = None if format is None else formats.get(format)
    checkpoint = open_checkpoint(path)
    if house is not None and not house.recognises(checkpoint):
        raise DataError(
            f"This is no checkpoint of {format}: that has {', '.join(house.looks_for)}.",
            where=str(checkpoint.file),
            do=f"There are: {', '.join(sorted(checkpoint.tensors)[:8])}. Leave the format out to detect it.",
        )
    return (house or formats.get(_detect(checkpoint))).read(checkpoint, Asked(k, activation))


def describe_sae(path: str | os.PathLike[str]) -> Description:
    """Whose checkpoint this is and what it holds. Raises DataError as `load_sae` does."""
    checkpoint = open_checkpoint(path)
    found = _detect(checkpoint)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    return Description(found, checkpoint.file, shapes, checkpoint.facts, _own_facts(checkpoint))


def _own_facts(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What `save_sae` was given, wherever the house has a place for it."""
    try:
        ours = own_facts(checkpoint.facts) or json.loads(checkpoint.header.get("clearsight", "{}"))
    except (ValueError, RecursionError):  # somebody else's text under our name
        return {}
    facts = ours.get("facts") if isinstance(ours, dict) else None
    return facts if isinstance(facts, dict) else {}


def _detect(checkpoint: Checkpoint) -> str:
    found = next((name for name in formats if formats.get(name).recognises(checkpoint)), None)
    if found is not None:
        return found
    looked = "; ".join(f"{name} ({', '.join(formats.get(name).looks_for)})" for name in formats)
    nearest = max(formats, key=lambda name: _likeness(checkpoint, formats.get(name)))
    missing = [name for name in formats.get(nearest).looks_for if name not in checkpoint.tensors]
    lacks = f": it lacks {', '.join(missing)}" if missing else ""
    raise DataError(
        f"This is no SAE of a known format: it holds {', '.join(sorted(checkpoint.tensors)[:8])}.",
        where=str(checkpoint.file),
        do=f"Looked for {looked}. The nearest is {nearest}{lacks}.",
    )


def _likeness(checkpoint: Checkpoint, house: House) -> float:
    """How many of the house's names are there, or nearly."""
    ratios = [
        max(difflib.SequenceMatcher(None, name, there).ratio() for there in checkpoint.tensors)
        for name in house.looks_for
    ]
    return sum(ratios) / len(ratios)
