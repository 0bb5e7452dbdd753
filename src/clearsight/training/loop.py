"""The training from beginning to end: steps, checkpoints, and a plain peft adapter.

Legend of shapes: S steps done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clearsight.mining.clusters import Clusters
from clearsight.models.encoder import Encoder
from clearsight.models.load import LoadedModel
from clearsight.progress import Progress, Silent
from clearsight.training.checkpoint import clear, load_checkpoint
from clearsight.training.feeding import OnError
from clearsight.training.processes import Processes
from clearsight.training.settings import TrainSettings
from clearsight.training.trainer import Row, Training
from clearsight.types import Task

SAVE_SECONDS = 60.0

Refresh = Callable[[Encoder, int], Clusters]
"""New clusters from the model as it is at a step."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training.

    Attributes:
        folder: the adapter's.
        history: one row a step, those before a resumption included.
        encoder: over the model with the adapter, in eval mode; other models' calls are not disturbed.
        skipped: item id -> why pairs of it were left out.
        cut: texts of steps of this process that were cut to `max_tokens`.
    """

    folder: Path
    history: tuple[Row, ...]
    encoder: Encoder
    skipped: Mapping[str, str]
    cut: int


def train(
    model: str | Path | LoadedModel,
    clusters: Clusters,
    tasks: Mapping[str, Task],
    settings: TrainSettings,
    out: str | Path,
    *,
    processes: Processes | None = None,
    refresh: Refresh | None = None,
    refresh_every: int = 0,
    on_error: OnError = "raise",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Fine-tune a model with LoRA on clusters of pairs; the same call goes on where a killed one was.

    Args:
        model: a name, or a model loaded with its head, into which the adapter is built.
        clusters, tasks: pairs, and by the names of their data sets the tasks that their ids refer to.
        out: folder of the adapter and of the checkpoints.
        processes: this process among several; by default as accelerate finds it.
        refresh: asked for new clusters at every `refresh_every`-th step; checkpoints are written there alone.
        overwrite: begin anew where checkpoints lie.

    Raises:
        UsageError: a setting that does not fit, a checkpoint of another configuration (what differs is
            listed). DataError: clusters of other data, a disk that is full. ItemError: an item that cannot be
            prepared, with `on_error="raise"`. ModelError: as `load_model`; a loss that is no number.
    """
    place = Path(out)
    processes = processes or Processes()
    progress = progress or Silent()
    training = Training(
        model, clusters, tasks, settings, processes, on_error=on_error, trust_remote_code=trust_remote_code
    )
    if overwrite and processes.main:
        clear(place)
    processes.wait()
    saved = load_checkpoint(place, training.same)
    if saved is not None:
        training.restore(saved)
    processes.wait()
    progress.start(training.plan.steps, "training")
    progress.advance(training.step)
    processes.begin_log(training.same)
    try:
        _run(training, place, progress, refresh, refresh_every)
    finally:
        progress.close()
    processes.end_log()
    if processes.main:
        training.finish(place)
    processes.wait()
    return Trained(place, tuple(training.history), training.encoder, dict(training.skipped), training.cut)


def _run(
    training: Training, out: Path, progress: Progress, refresh: Refresh | None, refresh_every: int
) -> None:
    total, kept, at = training.plan.steps, training.step, time.monotonic()
    main, every = training.processes.main, training.settings.save_every
    while training.step < total:
        stop = total
        if refresh is not None:
            training.renew(refresh(training.encoder, training.step))
            stop = min(total, (training.step // refresh_every + 1) * refresh_every)
        for row in training.each(stop):
            step = training.step
            training.processes.log({k: v for k, v in asdict(row).items() if k != "seconds"}, step)
            due = step % every == 0 or time.monotonic() - at > SAVE_SECONDS
            if (main and step in (stop, total)) or (main and due and refresh is None):
                training.save(out)
                progress.advance(step - kept)
                kept, at = step, time.monotonic()


def losses_of(history: tuple[Row, ...]) -> NDArray[np.float64]:
    """InfoNCE of every step, (S,)."""
    return np.array([row.loss for row in history])
