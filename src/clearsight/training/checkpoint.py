"""Checkpoints: all that a training carries from one step to the next, whole or not there at all.

    OUT/adapter_config.json, adapter_model.safetensors, clearsight.json    the adapter, when training is done
    OUT/history.jsonl                                                      one line a step
    OUT/checkpoints/step-00000100/   an adapter's folder as above, and
        training.json           step, and what must be the same to go on
        training.safetensors    AdamW's moments, the temperature, the history

A checkpoint is written beside its place and takes its name when all of it is on the disk; the one before is
removed only then. Random numbers need no saving: those of a step follow from the seed and its number.

Legend of shapes: S steps done.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.files import to_json, write_atomic
from clearsight.models.adapter import WEIGHTS
from clearsight.training.settings import differences

FOLDER = "checkpoints"
_STATE, _TENSORS = "training.json", "training.safetensors"
_NAME = "step-{:08d}"
_PARTIAL = ".partial"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state that was saved.

    Attributes:
        step: steps done.
        adapter: tensors of the adapter by the names of its file.
        tensors: all others.
    """

    step: int
    adapter: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]


def save_checkpoint(
    out: Path, step: int, same: Mapping[str, Any], adapter: Mapping[str, bytes], tensors: Mapping[str, Tensor]
) -> Path:
    """Write the checkpoint of `step` steps, then remove those before it.

    Args:
        same: what a training that goes on must share.
        adapter: name -> bytes of the adapter's files.

    Raises:
        DataError: the disk is full or cannot be written; the checkpoint before is whole.
    """
    place = out / FOLDER / _NAME.format(step)
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}{_PARTIAL}")
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    files = {**adapter, _TENSORS: save(plain), _STATE: to_json({"step": step, "same": dict(same)})}
    try:
        new.mkdir(parents=True)
        for name, data in files.items():
            write_atomic(new / name, data)
        if place.exists():
            shutil.rmtree(place)
        os.replace(new, place)
    except OSError as fault:
        shutil.rmtree(new, ignore_errors=True)
        before = _found(out)
        kept = f"The one of step {_step(before[-1])} is whole." if before else "There is none before it."
        raise DataError(
            f"The checkpoint of step {step} cannot be written ({fault.strerror}). {kept}",
            where=str(place),
            do="Make room on the disk and give the same command again: it goes on from there.",
        ) from fault
    for old in _found(out):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    return place


def load_checkpoint(out: Path, same: Mapping[str, Any]) -> Checkpoint | None:
    """The last checkpoint; None where there is none. What a kill left half written is removed.

    Raises:
        UsageError: it is of another configuration; every difference is listed.
        DataError: it cannot be read.
    """
    for partial in (out / FOLDER).glob(f".*{_PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)
    found = _found(out)
    if not found:
        return None
    place = found[-1]
    try:
        state = json.loads((place / _STATE).read_bytes())
        adapter, tensors = load_file(place / WEIGHTS), load_file(place / _TENSORS)
    except (OSError, ValueError, SafetensorError) as fault:
        raise DataError(
            f"The checkpoint cannot be read ({fault}).", where=str(place), do="Remove it, and train again."
        ) from fault
    differ = differences(state["same"], json.loads(to_json(same)))
    if differ:
        raise UsageError(
            "A checkpoint of another configuration lies here. " + "; ".join(differ) + ".",
            where=str(place),
            do="Give the same settings to go on, another --out, or --overwrite to begin anew.",
        )
    return Checkpoint(int(state["step"]), adapter, tensors)


def clear(out: Path) -> None:
    """Remove the checkpoints."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def _found(out: Path) -> list[Path]:
    return sorted((out / FOLDER).glob("step-*"))


def _step(place: Path) -> int:
    return int(place.name.partition("-")[2])
