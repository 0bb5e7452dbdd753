"""Several processes as one batch, over accelerate: rows are gathered, gradients are summed.

Legend of shapes: U rows of this process, N rows of all, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from clearsight.errors import UsageError

Log = Literal["tensorboard", "wandb"]


class Gathered(NamedTuple):
    """Rows of all processes, and where this one's stand among them."""

    rows_ND: Tensor
    start: int


class Processes:
    """This process among those of one training (`accelerate launch`, `torchrun`; alone without them).

    Args:
        device: "cpu" keeps accelerate off a GPU; None leaves the choice to it.
        log: a tracker that accelerate writes losses to, beside our own file.
        folder: where trackers write.

    Raises:
        UsageError: accelerate, or the tracker's library, is not installed.
    """

    def __init__(self, device: str | None = None, log: Log | None = None, folder: Path | None = None) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import is_tensorboard_available, is_wandb_available
        except ImportError as error:
            do = 'pip install "clearsight[train]"'
            raise UsageError("Training needs the library accelerate.", do=do) from error
        there = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
        if log is not None and not there[log]():
            raise UsageError(f"{log} is not installed.", where="--log", do=f"pip install {log}")
        self._accelerator: Any = Accelerator(cpu=device == "cpu", log_with=log, project_dir=folder)
        self._tracked = log is not None

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def count(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process's model belongs."""
        place: torch.device = self._accelerator.device
        return place

    def gather(self, rows_UD: Tensor) -> Gathered:
        """Rows of all processes in their order; each may have another number of them, none too."""
        if self.count == 1:
            return Gathered(rows_UD, 0)
        sizes = self._accelerator.gather(torch.tensor([len(rows_UD)], device=rows_UD.device)).tolist()
        filled = rows_UD.new_zeros(max(sizes), *rows_UD.shape[1:])
        filled[: len(rows_UD)] = rows_UD
        parts = self._accelerator.gather(filled).split(max(sizes)) if max(sizes) else ()
        rows = [part[:size] for part, size in zip(parts, sizes, strict=False)]
        return Gathered(torch.cat(rows) if rows else rows_UD, sum(sizes[: self.rank]))

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Sum each tensor over all processes, in place; float32, one message for all."""
        listed = list(tensors)
        if self.count == 1 or not listed:
            return
        flat = torch.cat([one.flatten() for one in listed])
        flat = self._accelerator.reduce(flat, reduction="sum")
        for one, part in zip(listed, flat.split([one.numel() for one in listed]), strict=True):
            one.copy_(part.view_as(one))

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def begin_log(self, config: Mapping[str, Any]) -> None:
        """Open the tracker."""
        if self._tracked:
            plain = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in config.items()}
            self._accelerator.init_trackers("clearsight", config=plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._tracked:
            self._accelerator.log(dict(values), step=step)

    def end_log(self) -> None:
        if self._tracked:
            self._accelerator.end_training()
