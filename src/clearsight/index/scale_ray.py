"""Ray: whether it is there, started and ended, its errors as ours, and an index built by its machines."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clearsight.errors import ClearsightError, ModelError, UsageError
from clearsight.store.lance_files import Place

RABITQ_BITS = 5
"""Of each dimension, in the approximate index."""


@dataclass(frozen=True)
class Cluster:
    """How Ray is used.

    Attributes:
        address: of a running cluster ("auto": the one this machine belongs to); None: $RAY_ADDRESS, else Ray
            is started here, for this process.
        actors: most processes that embed; None: one for each GPU, or each core but one where there is none.
        gpus: of each; None: 1 where the cluster has any.
        batch_rows: items embedded by one call.
        file_rows: rows of a Lance file, which pass one machine's memory at once (about 20 kB each).
        commit_seconds: between commits; a killed run loses what came since, and files not yet full.
        first: rows that the repair is fitted on.
        storage: most of this machine's memory for Ray's store of objects, in bytes (where Ray starts here).
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | None = None
    batch_rows: int = 64
    file_rows: int = 16_384
    commit_seconds: float = 60.0
    first: int = 4096
    storage: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_rows", "file_rows", "first"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}.", where=name, do="Give 1 or more.")
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors is {self.actors}.", where="actors", do="Give 1 or more.")


def build_on_ray(
    dataset: Any, column: str, kind: str, name: str, partitions: int, workers: int | None = None
) -> None:
    """Build an approximate index on the cluster: centroids here, of a sample, the lists on its machines.

    Args:
        workers: a core each; None: all cores but one.
    """
    import lance_ray
    import ray

    lance_ray.create_index(
        dataset.uri,
        column,
        kind,
        name=name,
        metric="cosine",
        num_partitions=partitions,
        num_workers=workers or max(1, int(ray.cluster_resources().get("CPU", 1)) - 1),
        storage_options=Place.of(dataset.uri).options or None,
        # lance-ray takes 1 bit unless told; this is Lance's own default, which `create_here` takes.
        **({"num_bits": RABITQ_BITS} if kind == "IVF_RQ" else {}),
    )


def need_ray() -> None:
    """Nothing, where Ray can be used. Raises UsageError: it is not installed."""
    try:
        import lance_ray  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as fault:
        raise UsageError(
            f"Ray is not installed ({fault}).",
            where="--engine ray",
            do='pip install "clearsight[ray]", on every machine of the cluster.',
        ) from fault


@contextmanager
def started(cluster: Cluster) -> Iterator[None]:
    """Ray, started here and ended again, unless it runs already."""
    need_ray()
    import logging

    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    mine = not ray.is_initialized()
    if mine:
        address = cluster.address or os.environ.get("RAY_ADDRESS")
        here = {"include_dashboard": False, "object_store_memory": cluster.storage}
        try:
            with warnings.catch_warnings():  # Ray starts programs, it does not go on as a fork
                warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
                ray.init(address, log_to_driver=False, logging_level="error", **({} if address else here))
        except Exception as fault:  # Ray raises just that, for a machine that is too busy too
            what = f"Ray cannot be {'reached' if address else 'started'} ({str(fault).splitlines()[0]})."
            do = "Start it (ray start --head), give its address, or leave out --engine ray."
            raise UsageError(what, where=address, do=do) from fault
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
        if mine:
            ray.shutdown()


@contextmanager
def as_ours() -> Iterator[None]:
    """What failed on a worker, told as if it had failed here."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as fault:
        cause: BaseException | None = fault
        while cause is not None:
            if isinstance(cause, ClearsightError):
                raise cause from None
            cause = getattr(cause, "cause", None) or cause.__cause__
        short = str(fault).strip().splitlines()[-1][:300]
        raise ModelError(
            f"A worker of the cluster failed ({short}).",
            do="Look at Ray's own log of it (ray logs); the same command goes on from what was committed.",
        ) from fault
