"""Which clusters a step sees: a function of the seed and the step alone, so that any step can be begun anew.

Legend of shapes: G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.training.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of a training.

    Every epoch is a new permutation of all clusters, cut into batches; the last of an epoch may be smaller.

    Attributes:
        sets_G: the data set of each cluster.
        batch, seed, one_set: see `TrainSettings`.
        steps: of the whole training.

    Raises:
        DataError: there are no clusters.
    """

    sets_G: Sequence[str]
    batch: int
    seed: int
    one_set: bool
    steps: int
    per_epoch: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_epoch", per_epoch(self.sets_G, self.batch, self.one_set))

    @classmethod
    def of(cls, sets_G: Sequence[str], settings: TrainSettings) -> Plan:
        if not len(sets_G):
            raise DataError("There are no clusters to train on.", do="Mine again: every query was left over.")
        count = per_epoch(sets_G, settings.batch, settings.one_set)
        steps = settings.steps or math.ceil(settings.epochs * count)
        return cls(sets_G, settings.batch, settings.seed, settings.one_set, steps)

    def clusters(self, step: int) -> NDArray[np.int64]:
        """The clusters of a step, in the order in which processes deal them out."""
        epoch, place = divmod(step, self.per_epoch)
        return _epoch(self, epoch)[place]


def per_epoch(sets_G: Sequence[str], batch: int, one_set: bool) -> int:
    """Batches that see every cluster once."""
    if not one_set:
        return math.ceil(len(sets_G) / batch)
    _, counts = np.unique(np.asarray(sets_G), return_counts=True)
    return int(np.ceil(counts / batch).sum())


@lru_cache(maxsize=2)
def _epoch(plan: Plan, epoch: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng([plan.seed, epoch])
    order_G = rng.permutation(len(plan.sets_G))
    if not plan.one_set:
        return _cut(order_G, plan.batch)
    set_G = np.unique(np.asarray(plan.sets_G), return_inverse=True)[1][order_G]
    batches = [part for one in np.unique(set_G) for part in _cut(order_G[set_G == one], plan.batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _cut(order_G: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    return [order_G[start : start + batch] for start in range(0, len(order_G), batch)]
