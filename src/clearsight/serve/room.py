"""What all endpoints share while a server runs: the loaded service, the batcher, limits, counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio
import anyio.to_thread

from clearsight.serve.batcher import Batcher, Lane
from clearsight.serve.faults import LOG, RefusedError
from clearsight.serve.inputs import Reader
from clearsight.serve.limits import Limits
from clearsight.serve.metrics import Metrics
from clearsight.serve.service import Service

T = TypeVar("T")

READERS = 2
"""Threads that decode what requests hold, of all requests together: each may hold `Limits.pixels`."""


@dataclass(eq=False)
class Room:
    """State of one server.

    Attributes:
        load: makes the service; runs in the model's thread once the server listens.
        told: called when loading has ended, with the error if it failed.
    """

    load: Callable[[], Service]
    limits: Limits = field(default_factory=Limits)
    batching: bool = True
    told: Callable[[Exception | None], None] = lambda error: None
    metrics: Metrics = field(default_factory=Metrics)
    status: Literal["loading", "ready", "failed"] = "loading"

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            most_waiting=self.limits.waiting, batching=self.batching, watch=self.metrics.batch
        )
        self.metrics.gauges["clearsight_waiting"] = lambda: self.batcher.waiting
        self.metrics.gauges["clearsight_ready"] = lambda: self.status == "ready"
        self._service: Service | None = None
        self._readers = anyio.CapacityLimiter(READERS)

    async def open(self) -> None:
        """Load the service; requests are answered 503 meanwhile."""
        try:
            [self._service] = await self.batcher.run(Lane("load", self._loaded, 1), [None])
        except Exception as error:
            self.status = "failed"
            LOG.error("the model or the index cannot be loaded: %s", error)
            self.told(error)
        else:
            self.status = "ready"
            self.told(None)

    def _loaded(self, payloads: list[Any]) -> list[Any]:
        service = self.load()
        assert service.width > 0  # a first pass: what is slow once is slow now
        return [service]

    @property
    def service(self) -> Service:
        """
        Raises:
            RefusedError: not loaded yet (503).
        """
        if self._service is None:
            raise RefusedError(
                503,
                "The model is still being loaded."
                if self.status == "loading"
                else "The model failed to load.",
                do="Ask again in a few seconds; /health says when.",
                headers={"Retry-After": "2"},
            )
        return self._service

    async def run(self, lane: Lane, payloads: Sequence[Any]) -> list[Any]:
        """Through the model, beside the other requests."""
        return await self.batcher.run(lane, payloads)

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Texts and pictures of a request, read in a thread of few."""
        return await anyio.to_thread.run_sync(work, Reader(self.limits), limiter=self._readers)

    def apart(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Work of minutes, in a thread of its own that does not keep a stopped server alive."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def tell(set_outcome: Callable[[Any], None], outcome: Any) -> None:
            if not future.done():
                set_outcome(outcome)

        def run() -> None:
            try:
                told = (future.set_result, work())
            except Exception as error:
                told = (future.set_exception, error)  # type: ignore[assignment]
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(tell, *told)

        threading.Thread(target=run, name="clearsight-apart", daemon=True).start()
        return future

    async def aside(self, work: Callable[..., T], *given: Any) -> T:
        """Work of the index that needs no model, in a thread."""
        return await anyio.to_thread.run_sync(work, *given)
