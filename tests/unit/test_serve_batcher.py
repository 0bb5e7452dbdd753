"""The queue before the model: what goes together, what waits, what fails alone, what is left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from clearsight.serve.batcher import Batcher, BusyError, Lane


class Model:
    """Doubles numbers, slowly if told; fails as a whole on 13, on 7 for that number alone."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[Any]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, payloads: list[Any]) -> Sequence[Any]:
        self.batches.append(list(payloads))
        self.threads.add(threading.get_ident())
        self.gate.wait(10)
        time.sleep(self.seconds)
        if 13 in payloads:
            raise ValueError("thirteen")
        return [KeyError("seven") if payload == 7 else 2 * payload for payload in payloads]


def run(story: Callable[[Batcher], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        batcher = Batcher(**options)
        batcher.start()
        try:
            await asyncio.wait_for(story(batcher), 20)
        finally:
            batcher.close()

    asyncio.run(whole())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_requests_of_the_same_moment_go_together_and_each_gets_its_own() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(batcher.run(lane, [n, n + 100]) for n in range(20, 30)))
        assert answers == [[2 * n, 2 * n + 200] for n in range(20, 30)]

    run(story)
    assert len(model.batches) == 1
    assert len(model.threads) == 1


def test_what_arrives_while_the_model_is_busy_goes_together() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        model.gate.clear()
        first = asyncio.create_task(batcher.run(lane, [1]))
        await until(lambda: len(model.batches) == 1)
        later = [asyncio.create_task(batcher.run(lane, [n])) for n in (2, 3, 4)]
        await until(lambda: batcher.waiting == 3)
        model.gate.set()
        assert await first == [2]
        assert [await task for task in later] == [[4], [6], [8]]

    run(story)
    assert model.batches == [[1], [2, 3, 4]]


def test_without_batching_one_after_the_other() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        assert await asyncio.gather(*(batcher.run(lane, [n]) for n in range(3))) == [[0], [2], [4]]

    run(story, batching=False)
    assert model.batches == [[0], [1], [2]]


def test_a_long_request_goes_in_pieces_and_lets_others_in_between() -> None:
    model = Model()
    lane = Lane("double", model, 4)

    async def story(batcher: Batcher) -> None:
        model.gate.clear()
        long = asyncio.create_task(batcher.run(lane, list(range(20, 32))))
        await until(lambda: len(model.batches) == 1)
        short = asyncio.create_task(batcher.run(lane, [1]))
        await until(lambda: batcher.waiting == 1)
        model.gate.set()
        assert await short == [2]
        assert not long.done()
        assert await long == [2 * n for n in range(20, 32)]

    run(story)
    assert all(len(batch) <= 4 for batch in model.batches)


def test_a_bad_payload_fails_its_own_request_alone() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        asked = [batcher.run(lane, [1]), batcher.run(lane, [7, 2]), batcher.run(lane, [3])]
        good, bad, also = await asyncio.gather(*asked, return_exceptions=True)
        assert (good, also) == ([2], [6])
        assert isinstance(bad, KeyError)

    run(story)
    assert len(model.batches) == 1


def test_a_batch_that_fails_as_a_whole_is_tried_one_by_one() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        asked = [batcher.run(lane, [n]) for n in (1, 13, 3)]
        good, bad, also = await asyncio.gather(*asked, return_exceptions=True)
        assert (good, also) == ([2], [6])
        assert isinstance(bad, ValueError)
        assert await batcher.run(lane, [5]) == [10]

    run(story)


def test_a_full_queue_refuses_and_recovers() -> None:
    model = Model()
    lane = Lane("double", model, 1)

    async def story(batcher: Batcher) -> None:
        model.gate.clear()
        kept = [asyncio.create_task(batcher.run(lane, [1]))]
        await until(lambda: len(model.batches) == 1)
        kept += [asyncio.create_task(batcher.run(lane, [n])) for n in (2, 3)]
        await until(lambda: batcher.waiting == 2)
        with pytest.raises(BusyError):
            await batcher.run(lane, [4])
        model.gate.set()
        assert await asyncio.gather(*kept) == [[2], [4], [6]]
        assert await batcher.run(lane, [4]) == [8]

    run(story, most_waiting=2)


def test_a_cancelled_request_leaves_nothing_in_the_queue() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.run(lane, [1]))
        await until(lambda: len(model.batches) == 1)
        waiting = asyncio.create_task(batcher.run(lane, [2]))
        await until(lambda: batcher.waiting == 1)
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert batcher.waiting == 0
        model.gate.set()
        assert await batcher.run(lane, [3]) == [6]

    run(story)
    assert model.batches == [[1], [3]]


def test_lanes_do_not_mix_and_the_oldest_goes_first() -> None:
    model = Model()
    one, two = Lane("one", model, 64), Lane("two", model, 64)

    async def story(batcher: Batcher) -> None:
        model.gate.clear()
        tasks = [asyncio.create_task(batcher.run(one, [1]))]
        await until(lambda: len(model.batches) == 1)
        tasks += [
            asyncio.create_task(batcher.run(lane, [n]))
            for lane, n in ((two, 2), (one, 3), (two, 4), (one, 5))
        ]
        await until(lambda: batcher.waiting == 4)
        model.gate.set()
        await asyncio.gather(*tasks)

    run(story)
    assert model.batches == [[1], [2, 4], [3, 5]]


def test_after_a_shared_batch_the_next_is_held_open_but_a_lone_sender_is_not() -> None:
    model = Model()
    lane = Lane("double", model, 64)

    async def story(batcher: Batcher) -> None:
        await batcher.run(lane, [1])
        start = time.perf_counter()
        await batcher.run(lane, [2])
        assert time.perf_counter() - start < 5  # far below the linger of this test
        await asyncio.gather(batcher.run(lane, [3]), batcher.run(lane, [4]))
        one = asyncio.create_task(batcher.run(lane, [5]))
        await asyncio.sleep(0.05)
        assert len(model.batches) == 3
        assert await asyncio.gather(one, batcher.run(lane, [6])) == [[10], [12]]

    run(story, linger=15.0, patience=1e9)
    assert model.batches == [[1], [2], [3, 4], [5, 6]]


def test_closing_tells_those_who_wait() -> None:
    model = Model()
    lane = Lane("double", model, 1)

    async def whole() -> None:
        batcher = Batcher()
        batcher.start()
        model.gate.clear()
        running = asyncio.create_task(batcher.run(lane, [1]))
        await until(lambda: len(model.batches) == 1)
        waiting = asyncio.create_task(batcher.run(lane, [2]))
        await until(lambda: batcher.waiting == 1)
        batcher.close()
        with pytest.raises(BusyError, match="stopping"):
            await waiting
        with pytest.raises(BusyError, match="stopping"):
            await batcher.run(lane, [3])
        running.cancel()
        model.gate.set()

    asyncio.run(whole())


def test_a_model_that_loses_answers_is_an_error() -> None:
    lane = Lane("short", lambda payloads: payloads[:-1], 8)

    async def story(batcher: Batcher) -> None:
        with pytest.raises(RuntimeError, match="answers came back"):
            await batcher.run(lane, [1, 2])

    run(story)


def test_batches_are_watched() -> None:
    seen: list[tuple[str, int, int]] = []
    lane = Lane("double", Model(), 8)

    async def story(batcher: Batcher) -> None:
        await asyncio.gather(batcher.run(lane, [1, 2]), batcher.run(lane, [3]))

    run(story, watch=lambda name, requests, payloads, seconds: seen.append((name, requests, payloads)))
    assert seen == [("double", 2, 3)]
