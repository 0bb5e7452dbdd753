"""Requests a second and their times at 32 clients, with and without batching, over real sockets.

A server of the shipped model over a drawn world runs in a process of its own, the clients in another; each of
32 connections asks again as soon as it is answered. The floor is the forward passes alone: the same texts
through the encoder in the largest batches, without a server.

    python benchmarks/bench_serve.py [--save]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import line, report

CLIENTS = 32
SECONDS = 8.0
ROUNDS = 3
SCENES = 200
PATHS = {
    "embeddings": (
        "/v1/embeddings",
        lambda text: {"model": "tiny", "input": text, "encoding_format": "base64"},
    ),
    "search": ("/search", lambda text: {"text": text, "top": 10}),
}


def serve(folder: Path, batching: bool, listening: socket.socket) -> None:
    """The server's process."""
    import torch
    import uvicorn

    from clearsight.index import Index
    from clearsight.serve.app import create_app
    from clearsight.serve.service import Service

    torch.set_num_threads(1)
    app = create_app(lambda: Service(Index.open(folder)), batching=batching)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def texts(number: int) -> list[str]:
    from clearsight.data import world

    return [item.text or "" for item in world.texts(number, seed=1)]


async def client(port: int, path: str, bodies: list[bytes], until: float, times: list[float]) -> None:
    """One connection, which asks again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    n = 0
    while (start := time.perf_counter()) < until:
        body = bodies[n % len(bodies)]
        n += 1
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        told = await reader.readuntil(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200"), told
        length = next(
            int(one.split(b":")[1])
            for one in told.split(b"\r\n")
            if one.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        times.append(time.perf_counter() - start)
    writer.close()


def load(port: int, what: str, clients: int, seconds: float) -> dict[str, float]:
    """What `clients` connections see for so many seconds."""
    path, body = PATHS[what]
    bodies = [json.dumps(body(text)).encode() for text in texts(640)]
    times: list[float] = []

    async def run() -> None:
        until = time.perf_counter() + seconds
        share = len(bodies) // clients
        await asyncio.gather(
            *(client(port, path, bodies[n * share : (n + 1) * share], until, times) for n in range(clients))
        )

    start = time.perf_counter()
    asyncio.run(run())
    spent = time.perf_counter() - start
    cuts = statistics.quantiles(times, n=100)
    return {"per_s": len(times) / spent, "p50_ms": 1e3 * cuts[49], "p95_ms": 1e3 * cuts[94]}


def floor(folder: Path) -> float:
    """Texts a second through the encoder alone, 64 at a time."""
    import torch

    from clearsight import Item
    from clearsight.index import Index

    torch.set_num_threads(1)
    encoder = Index.open(folder).encoder
    batches = [
        [Item(str(n), text=text) for n, text in enumerate(texts(640)[s : s + 64])] for s in range(0, 640, 64)
    ]
    encoder.embed(batches[0], "query")
    start = time.perf_counter()
    for batch in batches:
        encoder.embed(batch, "query")
    return 640 / (time.perf_counter() - start)


def wait(port: int) -> None:
    """Until the model is loaded."""
    import urllib.request

    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except OSError:  # not listening to us yet, or 503: loading
            time.sleep(0.1)
    raise SystemExit("the server does not come up")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    save = parser.parse_args().save
    from clearsight.jobs.serve import _listen
    from clearsight.jobs.serve_world import world_index
    from clearsight.jobs.ui import Quiet

    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("CLEARSIGHT_CACHE", cache)
        folder = world_index(Quiet(), scenes=SCENES)
        context = multiprocessing.get_context("spawn")
        servers, ports = [], {}
        for batching in (True, False):
            listening = _listen("127.0.0.1", 0)
            ports[batching] = listening.getsockname()[1]
            servers.append(context.Process(target=serve, args=(folder, batching, listening), daemon=True))
            servers[-1].start()
        try:
            facts = measured(ports, folder)
        finally:
            for server in servers:
                server.terminate()
                server.join(20)
    found = line("serve", clients=CLIENTS, items=2 * SCENES, model="tiny", rounds=ROUNDS, **facts)
    report(found, save=save)


def measured(ports: dict[bool, int], folder: Path) -> dict[str, Any]:
    """Medians over rounds in which every contender runs once, in turn."""
    for port in ports.values():
        wait(port)
        for what in PATHS:
            load(port, what, CLIENTS, 0.7)
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    floors = []
    for _ in range(ROUNDS):
        for what in PATHS:
            for batching, port in ports.items():
                found = load(port, what, CLIENTS, SECONDS)
                seen.setdefault((what, "batched" if batching else "one_by_one"), []).append(found)
        floors.append(floor(folder))
    alone = load(ports[True], "embeddings", 1, 1.5)
    facts: dict[str, Any] = {"floor_texts_per_s": round(statistics.median(floors), 1)}
    for (what, how), rounds in seen.items():
        facts.setdefault(what, {})[how] = {
            name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]
        }
    for what in PATHS:
        pair = zip(seen[what, "batched"], seen[what, "one_by_one"], strict=True)
        facts[what]["times_the_rate"] = round(statistics.median(a["per_s"] / b["per_s"] for a, b in pair), 2)
    facts["alone_ms"] = {name: round(value, 2) for name, value in alone.items() if name != "per_s"}
    return facts


if __name__ == "__main__":
    main()
