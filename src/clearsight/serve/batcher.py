"""Requests that wait at the same moment pass the model together; a lone one starts at once.

One thread runs the model, the event loop decides what runs next. While a batch runs, requests queue; when it
is done, all that wait in the oldest one's lane go together, up to the lane's size. Where several requests
are about, those that were just answered may soon ask again: the next batch is held open for them, for a
quarter of the time that the last one took and `linger` seconds at most. Otherwise they would fall into groups
that take turns, each in a batch too small. A lone sender is never held.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from clearsight.errors import ClearsightError

Work: TypeAlias = Callable[[list[Any]], Sequence[Any]]
"""Payloads to answers, in their order; an exception in an answer's place fails its request alone."""

Watch: TypeAlias = Callable[[str, int, int, float], None]
"""Told of every batch: lane, requests, payloads, seconds."""

LINGER = 0.02
"""Seconds that a batch is held open at most."""
PATIENCE = 0.25
"""Part of the last batch's time that the next is held open at most."""


class BusyError(ClearsightError):
    """More requests wait than the server keeps."""


@dataclass(frozen=True, eq=False)
class Lane:
    """Requests that can share a batch.

    Attributes:
        run: called in the model's thread with the payloads of one or several requests.
        most: payloads of a batch; longer requests go through in pieces, so that others get their turn.
    """

    name: str
    run: Work
    most: int


@dataclass(eq=False)
class _Job:
    lane: Lane
    payloads: Sequence[Any]
    future: asyncio.Future[list[Any]]


_Outcomes: TypeAlias = "list[tuple[_Job, list[Any] | BaseException]]"


class Batcher:
    """The queue before the model.

    Args:
        most_waiting: requests that may wait; one more is refused.
        batching: False runs one request after the other (for comparison).
        linger, patience: see the top of this module.
    """

    def __init__(
        self,
        *,
        most_waiting: int = 256,
        batching: bool = True,
        linger: float = LINGER,
        patience: float = PATIENCE,
        watch: Watch | None = None,
    ) -> None:
        self._most_waiting, self._batching = most_waiting, batching
        self._linger, self._patience = linger, patience
        self._watch: Watch = watch or (lambda lane, requests, payloads, seconds: None)
        self._waiting: deque[_Job] = deque()
        self._running = False
        self._timer: asyncio.Handle | None = None
        self._expected, self._until = 0, 0.0
        """Requests that may come soon, and until when they are waited for."""
        self._orders: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Within the event loop that will send requests."""
        self._loop = asyncio.get_running_loop()
        # A daemon: a model that takes a minute to load must not keep a stopped server alive.
        self._thread = threading.Thread(target=self._work, name="clearsight-model", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Who waits is told; the batch that runs is not waited for."""
        while self._waiting:
            job = self._waiting.popleft()
            if not job.future.done():
                job.future.set_exception(BusyError("The server is stopping."))
        self._orders.put(None)
        self._loop = None

    async def run(self, lane: Lane, payloads: Sequence[Any]) -> list[Any]:
        """The answers to one request's payloads.

        A cancelled caller leaves nothing in the queue; what already runs for it runs to its end, unread.

        Raises:
            BusyError: too many wait.
            Exception: what `lane.run` raised for this request, or gave in place of an answer.
        """
        if len(self._waiting) >= self._most_waiting:
            raise BusyError("The server is busy.", do="Ask again in a moment.")
        answers: list[Any] = []
        for start in range(0, len(payloads), lane.most):
            answers += await self._one(lane, payloads[start : start + lane.most])
        return answers

    async def _one(self, lane: Lane, payloads: Sequence[Any]) -> list[Any]:
        if self._loop is None:
            raise BusyError("The server is stopping.")
        job = _Job(lane, payloads, self._loop.create_future())
        self._waiting.append(job)
        self._turn()
        try:
            return await job.future
        except asyncio.CancelledError:
            if job in self._waiting:
                self._waiting.remove(job)
            raise

    def _turn(self) -> None:
        """Start the next batch, now or when it is due."""
        if self._running or not self._waiting or self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._waiting) < self._expected and self._until > self._loop.time():
            self._timer = self._loop.call_at(self._until, self._go)
        else:
            # After this turn of the loop, in which others may be about to ask as well.
            self._timer = self._loop.call_soon(self._go)

    def _go(self) -> None:
        self._timer = None
        if not self._running and self._waiting:
            self._running = True
            self._orders.put(self._next())

    def _next(self) -> list[_Job]:
        """The oldest request, and those that can go with it."""
        first = self._waiting.popleft()
        jobs, room = [first], first.lane.most - len(first.payloads)
        if not self._batching:
            return jobs
        rest: deque[_Job] = deque()
        for job in self._waiting:
            if job.lane is first.lane and len(job.payloads) <= room:
                jobs.append(job)
                room -= len(job.payloads)
            else:
                rest.append(job)
        self._waiting = rest
        return jobs

    def _done(self, outcomes: _Outcomes, seconds: float) -> None:
        self._running = False
        around = len(outcomes) + len(self._waiting)
        self._expected = around if self._batching and around > 1 else 0
        if self._loop is not None:
            self._until = self._loop.time() + min(self._linger, self._patience * seconds)
        for job, outcome in outcomes:
            if job.future.done():  # its caller has gone
                continue
            if isinstance(outcome, BaseException):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        self._turn()

    def _work(self) -> None:
        """The model's thread."""
        while (jobs := self._orders.get()) is not None:
            start = time.perf_counter()
            outcomes = _attempt(jobs)
            payloads = sum(len(job.payloads) for job in jobs)
            seconds = time.perf_counter() - start
            self._watch(jobs[0].lane.name, len(jobs), payloads, seconds)
            loop = self._loop
            del jobs
            if loop is not None:
                try:
                    loop.call_soon_threadsafe(self._done, outcomes, seconds)
                except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                    return
            del outcomes


def _attempt(jobs: list[_Job]) -> _Outcomes:
    """All at once; where that fails, one by one, so that a request fails by its own fault alone."""
    try:
        return _together(jobs)
    except Exception as error:
        if len(jobs) == 1:
            return [(jobs[0], error)]
    outcomes: _Outcomes = []
    for job in jobs:
        outcomes += _attempt([job])
    return outcomes


def _together(jobs: list[_Job]) -> _Outcomes:
    payloads = [payload for job in jobs for payload in job.payloads]
    answers = jobs[0].lane.run(payloads)
    if len(answers) != len(payloads):
        raise RuntimeError(f"{len(payloads)} payloads were given, {len(answers)} answers came back.")
    outcomes: _Outcomes = []
    start = 0
    for job in jobs:
        mine = list(answers[start : start + len(job.payloads)])
        start += len(job.payloads)
        refused = next((answer for answer in mine if isinstance(answer, Exception)), None)
        outcomes.append((job, mine if refused is None else refused))
    return outcomes
