"""A training on disk: one safetensors file with a JSON description. Legend: S steps, C concepts, D width.

The only I/O of this room. A killed write leaves the checkpoint before it whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clearsight.errors import ClearsightError, DataError, UsageError
from clearsight.files import write_atomic
from clearsight.sae.config import TrainConfig
from clearsight.sae.state import TrainState

FILE = "training.safetensors"
KEY = "clearsight_sae_training"
FORMAT = 1


@dataclass(eq=False)
class Checkpoint:
    """A training as it stood after `state.step` steps.

    Attributes:
        history_S5: loss, error, active, dead, gradient of every step (`StepStats`), float32.
        engine: what made the steps; a resume uses the same, as two engines differ in the last digits.
        last_batch: SHA-256 of the last batch's bytes: a resume proves by it that the stream is the same.
    """

    config: TrainConfig
    state: TrainState
    history_S5: Tensor
    engine: str
    last_batch: str


def save_checkpoint(folder: str | os.PathLike[str], checkpoint: Checkpoint) -> Path:
    """Write it, whole or not at all. Returns the file.

    Raises:
        DataError: it cannot be written (a full disk, no permission); the checkpoint before it is still there.
    """
    file = Path(folder) / FILE
    tensors = {**checkpoint.state.to_tensors(), "history_S5": checkpoint.history_S5}
    facts = {
        "format": FORMAT,
        "config": checkpoint.config.to_plain(),
        "engine": checkpoint.engine,
        "last_batch": checkpoint.last_batch,
    }
    data = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={KEY: json.dumps(facts)},
    )
    try:
        write_atomic(file, data)
    except OSError as error:
        raise DataError(
            f"The checkpoint cannot be written: {error.strerror or error}.",
            where=str(file),
            do="Make room or give another folder; training goes on from the last whole checkpoint.",
        ) from error
    return file


def has_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder holds a checkpoint file, readable or not."""
    return (Path(folder) / FILE).is_file()


def load_checkpoint(folder: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read what `save_checkpoint` wrote, to the bit.

    Raises:
        DataError: no checkpoint, a truncated or foreign file, tensors that do not fit its own config.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise DataError("There is no checkpoint here.", where=str(file), do="Give the folder of a training.")
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            facts = json.loads((opened.metadata() or {}).get(KEY, "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(
            f"This checkpoint is truncated, or no checkpoint: {error}.",
            where=str(file),
            do="Delete it to start anew.",
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DataError(
            "This file is no checkpoint of a known format.",
            where=str(file),
            do="Give the folder of a training of this version, or delete the file to start anew.",
        )
    try:
        config = TrainConfig.from_plain(facts["config"])
        history_S5 = tensors["history_S5"].cpu()
        state = TrainState.from_tensors(tensors, config)
        return Checkpoint(config, state, history_S5, str(facts["engine"]), str(facts["last_batch"]))
    except (ClearsightError, KeyError, TypeError) as error:
        raise DataError(
            f"This checkpoint is not whole: {error}", where=str(file), do="Delete it to start anew."
        ) from error


def check_same(found: TrainConfig, wanted: TrainConfig, folder: str | os.PathLike[str]) -> None:
    """Refuse to go on with a training of other settings. Raises UsageError, which names the first of them."""
    if found == wanted:
        return
    old, new = _flat(found.to_plain()), _flat(wanted.to_plain())
    name = next(name for name in new if old.get(name) != new[name])
    raise UsageError(
        f"The training here was begun with {name} = {old.get(name)}, not {new[name]}.",
        where=str(folder),
        do="Give the same settings, another folder, or resume=False to begin anew.",
    )


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
