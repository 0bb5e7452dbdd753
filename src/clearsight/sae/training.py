"""One autoencoder on its way: batch by batch, from and to its checkpoint.

Legend of shapes: B rows of a batch, D width, C concepts, S steps.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clearsight.errors import DataError, UsageError
from clearsight.sae.autoencoder import History, SparseAutoencoder
from clearsight.sae.checkpoint import (
    Checkpoint,
    check_same,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from clearsight.sae.config import TrainConfig
from clearsight.sae.state import TrainState
from clearsight.sae.steps import StepStats, choose_engine, make_step
from clearsight.sae.stream import ActivationStream, ArrayStream

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written: as soon as one of the two has passed. None: that one never does."""

    seconds: float | None = 60.0
    steps: int | None = None


class Training:
    """One autoencoder on its way."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Folder | None,
        *,
        resume: bool,
        every: Every,
        engine: str,
        device: torch.device,
    ) -> None:
        self.config, self.folder, self.every, self.device = config, folder, every, device
        self.state: TrainState | None = None
        self.kept = 0
        self._history: list[Tensor] = []
        self._waiting_for: str | None = None  # the digest of the batch before the first missing one
        self._last: Tensor | None = None
        self._saved_at = time.monotonic()
        if folder is not None and resume and has_checkpoint(folder):
            found = load_checkpoint(folder, device=device)
            check_same(found.config, config, folder)
            self.state, self.kept = found.state, found.state.step
            self._history = [found.history_S5]
            self._waiting_for = found.last_batch
            engine = found.engine if engine == "auto" else engine
        self.engine = choose_engine(config, device, engine)
        self._step = make_step(config, self.engine, device)

    @property
    def steps(self) -> int:
        """Steps done."""
        return 0 if self.state is None else self.state.step

    @property
    def finished(self) -> bool:
        return self.config.steps is not None and self.steps >= self.config.steps

    def check_stream(self, stream: ActivationStream) -> None:
        """Raise DataError where the stream cannot feed this autoencoder."""
        sae = self.config.sae
        if stream.width != sae.width:
            raise DataError(
                f"The stream's vectors have {stream.width} entries, the autoencoder {sae.width}.",
                do=f"Set width to {stream.width}, or give the stream it was meant for.",
            )
        if isinstance(stream, ArrayStream):
            check_enough(len(stream), self.config)

    def take(self, number: int, rows_BD: Tensor) -> int:
        """Learn from batch `number`, if it is the next one. Returns how many steps became safe by it."""
        if number == self.steps - 1 and self._waiting_for is not None:
            self._check_same_batch(rows_BD)
        if number != self.steps or self.finished:
            return 0
        rows_BD = rows_BD.to(self.device)
        if self.state is None:
            self.state = TrainState.start(self.config, rows_BD)
        scaled_BD = rows_BD / self.state.scale if self.config.scaled else rows_BD
        stats: StepStats = self._step(self.state, scaled_BD)
        self._history.append(torch.stack(stats)[None])
        self._last = rows_BD
        if self.folder is None:
            return 1
        return self.save() if self._due() else 0

    def end(self) -> int:
        """The stream has ended or enough steps are done. Returns how many steps became safe."""
        seen = self.steps * self.config.batch
        if self._waiting_for is not None and not self.finished:
            raise DataError(
                f"The stream ends before batch {self.steps - 1}, where the training here stopped.",
                where=str(self.folder),
                do="Give the stream it was begun with, another folder, or resume=False.",
            )
        if self.state is None:
            raise DataError(
                f"The stream holds no batch of {self.config.batch} vectors.",
                do="Give more vectors or a smaller batch.",
            )
        if not self.finished:
            check_enough(seen, self.config)
        return self.save() if self.folder is not None and self.kept < self.steps else self._check_finite()

    def save(self) -> int:
        """Write a checkpoint. Returns how many steps it holds more than the one before."""
        assert self.state is not None
        assert self._last is not None
        assert self.folder is not None
        self._check_finite()
        checkpoint = Checkpoint(self.config, self.state, self._history_S5(), self.engine, _digest(self._last))
        save_checkpoint(self.folder, checkpoint)
        more, self.kept = self.steps - self.kept, self.steps
        self._saved_at = time.monotonic()
        return more

    def result(self) -> SparseAutoencoder:
        """The autoencoder with its history."""
        assert self.state is not None
        sae = self.state.autoencoder(self.config)
        sae.history = History(*np.ascontiguousarray(self._history_S5().numpy().T))
        return sae

    def _due(self) -> bool:
        waited = time.monotonic() - self._saved_at
        return (self.every.seconds is not None and waited >= self.every.seconds) or (
            self.every.steps is not None and self.steps - self.kept >= self.every.steps
        )

    def _history_S5(self) -> Tensor:
        self._history = [torch.cat(self._history).cpu()]
        return self._history[0]

    def _check_finite(self) -> int:
        loss_S = self._history_S5()[:, 0]
        if not loss_S.isfinite().all():
            step = int((~loss_S.isfinite()).nonzero()[0, 0])
            raise UsageError(
                f"The loss is not finite any more at step {step}.",
                do="Lower the learning rate, clip the gradient, or scale the rows.",
            )
        return 0

    def _check_same_batch(self, rows_BD: Tensor) -> None:
        if _digest(rows_BD) != self._waiting_for:
            raise DataError(
                f"Batch {self.steps - 1} of the stream is not the one that the training here has seen.",
                where=str(self.folder),
                do="Give the stream it was begun with, another folder, or resume=False.",
            )
        self._waiting_for = None


def check_enough(vectors: int, config: TrainConfig) -> None:
    """Refuse fewer distinct vectors than concepts: each could get a concept of its own. Raises DataError."""
    if vectors < config.sae.concepts:
        raise DataError(
            f"{vectors} vectors are too few for {config.sae.concepts} concepts.",
            do=f"Give more vectors (ten a concept are a good start), or at most {max(vectors, 1)} concepts.",
        )


def check_batch(rows_BD: Tensor, number: int, shape: tuple[int, int]) -> None:
    """Refuse a batch of another form, or with NaN or infinity. Raises DataError, which names batch and row.

    On another device than the CPU this waits for the device.
    """
    if tuple(rows_BD.shape) != shape or rows_BD.dtype != torch.float32:
        raise DataError(
            f"A batch should be float32 {shape}; it is {rows_BD.dtype} {tuple(rows_BD.shape)}.",
            where=f"batch {number}",
            do="Mend the stream.",
        )
    if rows_BD.sum().isfinite():  # one pass; a sum may overflow where no entry is infinite
        return
    finite_B = rows_BD.isfinite().all(dim=1)
    if not finite_B.all():
        row = int((~finite_B).nonzero()[0, 0])
        raise DataError(
            f"{int((~finite_B).sum())} of {len(rows_BD)} vectors hold NaN or infinity.",
            where=f"batch {number}, first in row {row}",
            do="Leave these vectors out, or harvest them in float32.",
        )


def _digest(rows_BD: Tensor) -> str:
    return hashlib.sha256(rows_BD.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
