"""Training: a stream in, autoencoders out, with checkpoints that resume to the bit.

Legend of shapes: N rows, B rows of a batch, D width, C concepts, S steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clearsight.errors import UsageError
from clearsight.progress import Progress, Silent
from clearsight.sae.autoencoder import SparseAutoencoder
from clearsight.sae.config import TrainConfig
from clearsight.sae.stream import ActivationStream, ArrayStream
from clearsight.sae.training import Every, Folder, Training, check_batch


def train_sae(
    stream: ActivationStream | NDArray[Any] | Tensor,
    config: TrainConfig,
    *,
    folder: Folder | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    every: Every | None = None,
    engine: str = "auto",
    device: torch.device | str = "cpu",
) -> SparseAutoencoder:
    """Train one autoencoder to the end of the stream, or for `config.steps` steps.

    With a folder, a checkpoint is written now and then and at the end. A training that was killed goes on
    from its last checkpoint; on a CPU (with the same number of threads) its weights then equal those of an
    uninterrupted one bit by bit.

    Args:
        stream: where the vectors come from; an array (N, D) is wrapped in an `ArrayStream` of `config.epochs`
            and `config.seed`.
        folder: of the checkpoint; None: none is written.
        progress: counts steps; with a folder, those that are in a checkpoint.
        resume: go on from the folder's checkpoint; False: begin anew.
        every: how often to write one; default: every 60 seconds.
        engine: "auto", or a name of `clearsight.sae.steps.ENGINES`.
        device: where to train; the autoencoder comes back there.

    Raises:
        DataError: vectors of another width; NaN or infinity (the batch is named); no whole batch; fewer
            vectors than concepts; a checkpoint that is truncated, foreign, or of another stream; a checkpoint
            that cannot be written.
        UsageError: a checkpoint of other settings; an engine that refuses; a loss that is no longer finite.
    """
    return train_many(
        stream,
        [config],
        folders=None if folder is None else [folder],
        progress=progress,
        resume=resume,
        every=every,
        engine=engine,
        device=device,
    )[0]


def train_many(
    stream: ActivationStream | NDArray[Any] | Tensor,
    configs: Sequence[TrainConfig],
    *,
    folders: Sequence[Folder] | None = None,
    progress: Progress | None = None,
    resume: bool = True,
    every: Every | None = None,
    engine: str = "auto",
    device: torch.device | str = "cpu",
) -> list[SparseAutoencoder]:
    """Train several autoencoders from one stream, each batch read once. As `train_sae`, one folder each.

    Raises:
        UsageError: no config; batches of different sizes; not one folder for each config; as `train_sae`.
    """
    stream = _stream(stream, configs, folders)
    place, told = torch.device(device), progress or Silent()
    places: Sequence[Folder | None] = folders or [None] * len(configs)
    trainings = [
        Training(config, folder, resume=resume, every=every or Every(), engine=engine, device=place)
        for config, folder in zip(configs, places, strict=True)
    ]
    for training in trainings:
        training.check_stream(stream)
    ends = [config.steps for config in configs]
    told.start(None if None in ends else sum(end or 0 for end in ends), "Training")
    try:
        told.advance(sum(training.kept for training in trainings))
        _run(stream, trainings, told)
    finally:
        told.close()
    return [training.result() for training in trainings]


def _run(stream: ActivationStream, trainings: list[Training], told: Progress) -> None:
    active = [training for training in trainings if not training.finished]
    if active:
        # One batch earlier than the first that is missing: it proves that the stream is still the same.
        first = max(0, min(training.steps for training in active) - 1)
        size = active[0].config.batch
        for number, rows_BD in enumerate(stream.batches(size, first=first), start=first):
            check_batch(rows_BD, number, (size, stream.width))
            safe = sum(training.take(number, rows_BD) for training in active)
            if safe:
                told.advance(safe)
            if all(training.finished for training in active):
                break
    told.advance(sum(training.end() for training in active))


def _stream(
    stream: ActivationStream | NDArray[Any] | Tensor,
    configs: Sequence[TrainConfig],
    folders: Sequence[Folder] | None,
) -> ActivationStream:
    if not configs or len({config.batch for config in configs}) > 1:
        raise UsageError(
            "One stream needs configs of one batch size.", do="Give at least one, of equal batch."
        )
    if folders is not None and len({os.path.abspath(folder) for folder in folders}) != len(configs):
        raise UsageError("Each autoencoder needs a folder of its own.", do="Give one folder for each config.")
    if not isinstance(stream, np.ndarray | Tensor):
        return stream
    if len({(config.epochs, config.seed) for config in configs}) > 1:
        raise UsageError(
            "An array is read in one order, and the configs differ in epochs or seed.",
            do="Give an ArrayStream with the order you mean.",
        )
    return ArrayStream(stream, epochs=configs[0].epochs, seed=configs[0].seed)
