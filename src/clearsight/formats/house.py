"""A house whose files are read, or written: one row each, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearsight.errors import DataError, UsageError
from clearsight.formats.checkpoint import Checkpoint
from clearsight.registry import Registry
from clearsight.sae import SaeConfig, SparseAutoencoder


@dataclass(frozen=True)
class Asked:
    """What a checkpoint may leave open and its reader must be told.

    Attributes:
        k: concepts a row.
        activation: its kind: relu, topk, batchtopk.
    """

    k: int | None = None
    activation: str | None = None


@dataclass(frozen=True)
class House:
    """One format.

    Attributes:
        looks_for: names of tensors by which it is known, for messages.
        recognises: whether a checkpoint is of this house, by the names of its files and tensors.
        read: raises DataError for what cannot be read faithfully.
        write: (sae, folder, facts); None: it is only read. Raises UsageError for what the format cannot hold.
    """

    looks_for: tuple[str, ...]
    recognises: Callable[[Checkpoint], bool]
    read: Callable[[Checkpoint, Asked], SparseAutoencoder]
    write: Callable[[SparseAutoencoder, Path, Mapping[str, Any]], None] | None = None


def form(
    checkpoint: Checkpoint, width: int, concepts: int, *, k: Any = None, asked: Asked, **rest: Any
) -> SaeConfig:
    """The form of an autoencoder whose k is told by the user, or else by the file; 32 where it means nothing.

    Raises:
        DataError: the file's k makes no sense.
        UsageError: the user's k makes no sense.
    """
    if asked.k is not None:
        return SaeConfig(width, concepts, k=asked.k, **rest)
    try:
        return SaeConfig(width, concepts, k=min(SaeConfig.k, concepts) if k is None else round(k), **rest)
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"The checkpoint says k = {k!r} with {concepts} concepts.",
            where=str(checkpoint.file),
            do="Give k, if you know it.",
        ) from error


formats: Registry[House] = Registry("sae_format")
