"""A checkpoint before anyone knows whose it is: its tensors, still in their file, and its description.

Legend of shapes: D width, C concepts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clearsight.errors import DataError
from clearsight.files import to_json, write_atomic
from clearsight.formats.unpickle import StoredTensor, read_torch

KNOWN_FILES = ("sae_weights.safetensors", "sae.safetensors", "ae.pt")
"""What a folder's weights are called, the first that is there: SAELens, sparsify, dictionary_learning."""

STATES = ("model_state", "model_state_dict", "state_dict")
"""Under which names a file of torch.save keeps the weights, where they are not the whole of it."""


class Stored(Protocol):
    """A tensor in its file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def load(self) -> Tensor: ...


@dataclass(frozen=True)
class Slice:
    """A tensor in a safetensors file."""

    file: Path
    name: str
    shape: tuple[int, ...]

    def load(self) -> Tensor:
        with safe_open(self.file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(self.name)
        return tensor


@dataclass(frozen=True)
class Checkpoint:
    """Weights that belong to nobody yet.

    Attributes:
        file: where the tensors are.
        facts: `cfg.json`, or else `config.json`, of the file's folder; empty where there is none.
        tensors: by name.
        header: texts in the head of a safetensors file.
    """

    file: Path
    facts: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    header: Mapping[str, str] = field(default_factory=dict)

    @property
    def pickled(self) -> bool:
        """Written by torch.save."""
        return isinstance(next(iter(self.tensors.values()), None), StoredTensor)

    def holds(self, *names: str) -> bool:
        return all(name in self.tensors for name in names)

    def shape(self, name: str, *, dimensions: int = 2) -> tuple[int, ...]:
        """The shape of a tensor. Raises DataError where it is missing or has another number of dimensions."""
        if name not in self.tensors:
            raise DataError(
                f"The tensor '{name}' is missing; there are: {', '.join(sorted(self.tensors))}.",
                where=str(self.file),
                do="Give a whole checkpoint of an SAE.",
            )
        shape = self.tensors[name].shape
        if len(shape) != dimensions or 0 in shape:
            raise self.misfit(name, f"{dimensions} dimensions, none of them empty")
        return shape

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor as float32.

        Raises:
            DataError: it is missing, has another shape, or is cut short.
        """
        if self.shape(name, dimensions=len(shape)) != shape:
            raise self.misfit(name, f"the shape {shape}, which the other tensors ask for")
        return self.tensors[name].load().to(torch.float32)

    def only(self, names: Collection[str]) -> None:
        """Raise DataError if there is a tensor of another name: it would change the codes."""
        others = sorted(set(self.tensors) - set(names))
        if others:
            raise DataError(
                f"The checkpoint also holds '{others[0]}', which no kind that is read here has.",
                where=str(self.file),
                do=f"Convert it with its own library to an SAE of {', '.join(names)}.",
            )

    def misfit(self, name: str, expected: str) -> DataError:
        return DataError(
            f"The tensor '{name}' has the shape {self.tensors[name].shape}, not {expected}.",
            where=str(self.file),
            do="The file is damaged, or from another version of its library: save it again.",
        )


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Find the weights and read their names and shapes, no numbers yet.

    Args:
        path: a folder, or a .safetensors, .pt or .pth file.

    Raises:
        DataError: nothing is there, or several files and none of a known name; a file that is cut short, not
            of weights, or a pickle that asks for anything else.
    """
    file = _weights_file(Path(path))
    if file.suffix == ".safetensors":
        return Checkpoint(file, _facts(file.parent), *_safetensors(file))
    return Checkpoint(file, _facts(file.parent), _state(read_torch(file), file))


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        if path.is_file():
            return path
        raise DataError("There is nothing here.", where=str(path), do="Give the folder or file of an SAE.")
    known = [path / name for name in KNOWN_FILES if (path / name).is_file()]
    kinds = (".safetensors", ".pt", ".pth")
    files = known[:1] or sorted(file for file in path.iterdir() if file.suffix in kinds and file.is_file())
    if len(files) == 1:
        return files[0]
    found = f"{len(files)} files of weights" if files else "no file of weights"
    raise DataError(
        f"This folder has {found}. Looked for {', '.join(KNOWN_FILES)}, or a single {', '.join(kinds)} file.",
        where=str(path),
        do="Name the file." if files else "Give the folder or file of an SAE.",
    )


def write_checkpoint(
    weights: Path,
    tensors: Mapping[str, Tensor],
    description: Path,
    facts: Mapping[str, Any],
    header: Mapping[str, str] | None = None,
) -> None:
    """Both files; the description last, so that a folder without one was not finished."""
    data = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata=None if header is None else dict(header),
    )
    description.unlink(missing_ok=True)
    write_atomic(weights, data)
    write_atomic(description, to_json(facts))


def _facts(folder: Path) -> Mapping[str, Any]:
    for name in ("cfg.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            facts = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"This description cannot be read: {error}.",
                where=str(file),
                do="It was cut short: save the SAE again.",
            ) from error
        if isinstance(facts, dict):
            return facts
        raise DataError("This is not a description: it is no JSON object.", where=str(file), do="Correct it.")
    return {}


def _safetensors(file: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Tensors by name, and the texts of the head."""
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
            header = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"This checkpoint cannot be read: {error}.",
            where=str(file),
            do="It was cut short or is no safetensors file: copy it again from where it came from.",
        ) from error
    return {name: Slice(file, name, shape) for name, shape in shapes.items()}, header


def _state(whole: Any, file: Path) -> dict[str, Stored]:
    """The tensors of a state dict, or of one that lies under a usual name."""
    inside = [whole, *(whole.get(name) for name in STATES)] if isinstance(whole, dict) else []
    for state in (one for one in inside if isinstance(one, dict)):
        tensors: dict[str, Stored] = {
            name: value
            for name, value in state.items()
            if isinstance(name, str) and isinstance(value, StoredTensor)
        }
        if tensors:
            return tensors
    raise DataError(
        f"This file holds no tensors by name, neither bare nor under {', '.join(STATES)}.",
        where=str(file),
        do="Save the state dict of the SAE: torch.save(sae.state_dict(), path).",
    )
