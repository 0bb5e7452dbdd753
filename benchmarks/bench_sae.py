"""A training step of a top-k autoencoder beside the peers': same rows, same shape, Adam, the same threads.

    CLEARSIGHT_PEERS=.venv-peers/bin/python python benchmarks/bench_sae.py --width 512 --concepts 8192 --k 32

Ours are whole steps of `make_step`: codes, loss, gradients, the gradient's norm, clipping, Adam, decoder rows
kept at length 1, counters of dead concepts.
`fused`: our defaults (centred, decoder bias, gradient along the rows removed, clipping at 1).
`fused_release`: what overcomplete's step does too (no centring, no decoder bias, rows projected).
`fused_clipped`: a limit so low that every step is clipped, which costs a second pass.
`reference`: our defaults in torch's autograd.
What a peer's step contains is told in sae_peers_worker.py.
`encode` gives the codes of the rows as a CSR array's parts, without training; `encode_torch` the same with
torch.addmm, relu, topk and sorting.

The floor is one product of the encoder with the batch (`sgemm`, torch.mm into memory that is kept), and
counted beside it: the gathers of decoder rows and of batch rows, and Adam's 24 bytes a weight, at the rate at
which this machine copies memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from harness import interleave, line, ratio, report

from clearsight.sae import AdamConfig, LossConfig, SaeConfig, TrainConfig, TrainState, make_step
from clearsight.sae.steps.select import encode_topk, screen_pays

WORKER = Path(__file__).parent / "sae_peers_worker.py"
PEERS = ("overcomplete", "sparsify", "saelens", "saelens_sparse", "overcomplete+aux", "dictionary_learning")
RELEASE = {"centred": False, "decoder_bias": False}
OURS = {
    "fused": ({}, 1.0, None, "fused"),
    "fused_release": (RELEASE, 1.0, "project", "fused"),
    "fused_clipped": ({}, 1e-3, None, "fused"),
    "reference": ({}, 1.0, None, "reference"),
}


class Peers:
    """The worker in the peers' environment; one step at a time, on demand."""

    def __init__(self, python: str, shape: list[int], file: Path, names: list[str], threads: int) -> None:
        self.process = subprocess.Popen(
            [python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        order = {"make": shape, "file": str(file), "names": names, "threads": threads}
        self.versions = self.ask(order)["versions"]

    def ask(self, order: dict) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"The peers' worker ended; run it by hand: {WORKER}")
        return json.loads(answer)


def copy_rate() -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.nbytes / best


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def our_step(shape: list[int], rows, weights, form: dict, clip: float, norm, engine: str):
    width, concepts, k, batch = shape
    config = TrainConfig(
        SaeConfig(width, concepts, k=k, **form), AdamConfig(lr=1e-4, clip=clip), LossConfig(), batch=batch,
        decoder_norm=norm, scaled=False,
    )  # fmt: skip
    state = TrainState.start(config, rows)
    state.weights["encoder_CD"].copy_(weights)
    state.weights["decoder_CD"].copy_(weights)
    step = make_step(config, engine)
    return lambda: step(state, rows)


def encode_plainly(rows, weights, bias, k):
    """Codes with concepts in order, zeros left out."""
    kept = torch.addmm(bias, rows, weights.T).relu().topk(k, dim=1, sorted=False)
    index, order = kept.indices.sort(dim=1)
    value = kept.values.gather(1, order)
    return (value > 0).sum(dim=1), index[value > 0], value[value > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--concepts", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ours", nargs="*", default=["fused", "fused_release", "fused_clipped"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    python = os.environ.get("CLEARSIGHT_PEERS")
    if asked.peers and not python:
        raise SystemExit("Set CLEARSIGHT_PEERS to the python of the peers' environment (make test-peers).")
    torch.set_num_threads(asked.threads)
    shape = [asked.width, asked.concepts, asked.k, asked.batch]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(asked.batch, asked.width, generator=generator)
    weights = torch.nn.functional.normalize(torch.randn(asked.concepts, asked.width, generator=generator))

    product = torch.empty(asked.batch, asked.concepts)
    contenders = {"sgemm": lambda: torch.mm(rows, weights.T, out=product)}
    for name in asked.ours:
        contenders[name] = our_step(shape, rows, weights, *OURS[name])
    zero = torch.zeros(asked.concepts)
    contenders["encode"] = lambda: encode_topk(rows, weights, zero, asked.k)
    contenders["encode_torch"] = lambda: encode_plainly(rows, weights, zero, asked.k)
    peers = None
    if asked.peers:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "start.pt"
            torch.save({"rows": rows, "weights": weights}, file)
            peers = Peers(python, shape, file, asked.peers, asked.threads)
        for name in asked.peers:
            contenders[name] = lambda name=name: peers.ask({"step": name})["loss"]
    if "overcomplete" in asked.peers and "fused_release" in asked.ours:
        # The same weights and rows: the same loss, before and after their first update.
        for _ in range(2):
            ours, theirs = float(contenders["fused_release"]().loss), contenders["overcomplete"]()
            assert abs(ours - theirs) <= 1e-4 * theirs, (ours, theirs)

    seconds = interleave(contenders, asked.rounds, warmup=2)
    rate = copy_rate()
    gathers = 4 * 4 * asked.batch * asked.k * asked.width
    adam = 24 * 2 * asked.concepts * asked.width
    sgemm = min(seconds["sgemm"])
    result = line(
        "sae",
        shape={"width": asked.width, "concepts": asked.concepts, "k": asked.k, "batch": asked.batch},
        threads=asked.threads,
        rounds=asked.rounds,
        milliseconds={name: statistics.median(times) * 1e3 for name, times in seconds.items()},
        fastest={name: min(times) * 1e3 for name, times in seconds.items()},
        over_sgemm={name: min(times) / sgemm for name, times in seconds.items()},
        over_sgemm_by_round={name: ratio(seconds, name, "sgemm") for name in seconds},
        faster={name: ratio(seconds, name, asked.ours[0]) for name in asked.peers},
        floor={
            "sgemm": sgemm * 1e3, "gathers": gathers / rate * 1e3, "adam": adam / rate * 1e3,
            "copy_gb_s": rate / 1e9,
        },
        screened=screen_pays(),
        peer_versions=peers.versions if peers else {},
    )  # fmt: skip
    report(result, save=asked.save)


if __name__ == "__main__":
    main()
