"""Train both shipped models: ``python -m clearsight.models.tiny.train --out DIR``.

One seeded run of four phases with fixed step counts: a vision warm-up with dense attribute supervision
(throw-away heads; it stands for a pretrained tower), the joint phase by next-token prediction, a second cycle
of it that is fed more of what must find one object among several, and the contrastive control. A killed run
goes on from its last checkpoint: the data of a step depends on the seed, the phase and the step alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing as mp
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Full
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from clearsight.models.tiny import fast, forms, recipe
from clearsight.models.tiny.phases import BATCHES, LOSSES, build, compiles, trained
from clearsight.models.tiny.recipe import Recipe
from clearsight.models.tiny.replicas import Flat, Optimiser

log = logging.getLogger("clearsight.tiny")
SNAPSHOT_SECONDS = 150.0


def _produce(queue: Any, phase: str, plan: Recipe, tokenizer: Any, numbers: range) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the cores belong to the training processes
    parent = os.getppid()
    for number in numbers:
        batch = BATCHES[phase](plan, tokenizer, number)
        while os.getppid() == parent:  # else the training process was killed
            try:
                queue.put(batch, timeout=5)
                break
            except Full:
                continue


def ahead(phase: str, plan: Recipe, tokenizer: Any, numbers: range) -> Generator[Any]:
    """The batches of these numbers in order, drawn ahead by a worker process."""
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=8)
    worker = context.Process(target=_produce, args=(queue, phase, plan, tokenizer, numbers))
    worker.start()
    try:
        for _ in numbers:
            yield queue.get(timeout=600)
    finally:
        worker.terminate()
        worker.join()


@dataclass
class Phase:
    """One phase of a run as every process of it sees it; picklable."""

    name: str
    plan: Recipe
    out: Path
    device: str
    tokenizer: Any
    steps: int
    rate: float
    replicas: int
    compiled: bool = False
    start: int = 0
    seconds: float = 0.0

    @property
    def file(self) -> Path:
        return self.out / f"{self.name}.pt"

    def work(
        self, modules: list[Any], flat: Flat, rank: int, barrier: Any, snapshot: Callable[[], None]
    ) -> None:
        """The steps of one process; the first process logs and saves."""
        processes = len(flat.grads)
        own = self.replicas // processes
        parameters = flat.attach(trained(self.name, modules))
        optimiser = Optimiser(flat, parameters, rank, barrier, self.steps, self.rate, self.plan.weight_decay)
        # Batch number r + replicas * step belongs to replica r; a lone process works through all of them.
        numbers = range(self.start * self.replicas + rank, self.steps * self.replicas, self.replicas // own)
        batches = ahead(self.name, self.plan, self.tokenizer, numbers)
        watch = Watch(self, rank)
        for step in range(self.start, self.steps):
            for _ in range(own):
                loss, measured = LOSSES[self.name](modules, next(batches), self.device)
                loss.backward()
                watch.note({"loss": loss.detach(), **measured})
            optimiser.update(step, self.replicas)
            if watch.after(step + 1):
                self.save(flat, step + 1, watch.seconds)
                snapshot()
        batches.close()

    def save(self, flat: Flat, step: int, seconds: float) -> None:
        """Write beside and rename, so that a kill never leaves half a checkpoint."""
        part = self.file.with_suffix(".part")
        torch.save({**flat.state(), "step": step, "seconds": seconds}, part)
        os.replace(part, self.file)


class Watch:
    """Progress of a phase: a line every ten seconds, and when to save. Only the first process speaks."""

    def __init__(self, phase: Phase, rank: int) -> None:
        self.phase, self.rank, self.notes = phase, rank, dict[str, list[Tensor]]()
        self.began = self.saved = self.shown = time.monotonic()
        self.shown_step = phase.start

    @property
    def seconds(self) -> float:
        """Seconds of the phase so far, earlier runs included."""
        return self.phase.seconds + time.monotonic() - self.began

    def note(self, values: dict[str, Tensor]) -> None:
        """Remember measured values for the next line."""
        if self.rank == 0:
            for key, value in values.items():
                self.notes.setdefault(key, []).append(value)

    def after(self, done: int) -> bool:
        """Log if it is time; True if a checkpoint is due."""
        if self.rank:
            return False
        now, last = time.monotonic(), done == self.phase.steps
        if last or now - self.shown > 10:
            speed = (done - self.shown_step) / (now - self.shown)
            means = ", ".join(
                f"{k} {float(torch.stack(v).float().nanmean()):.3f}" for k, v in self.notes.items()
            )
            log.info(
                "%s %d/%d, %.2f steps/s, %.1f min left: %s",
                self.phase.name,
                done,
                self.phase.steps,
                speed,
                (self.phase.steps - done) / speed / 60,
                means,
            )
            self.shown, self.shown_step, self.notes = now, done, {}
        due = last or now - self.saved > SNAPSHOT_SECONDS
        if due:
            self.saved = now
        return due


def _replica(phase: Phase, flat: Flat, rank: int, barrier: Any) -> None:
    """Entry of every process but the first."""
    torch.set_num_threads(1)
    if phase.compiled:
        compile_layers()
    modules = build(phase.name, phase.plan, phase.tokenizer, phase.device, phase.compiled)
    phase.work(modules, flat, rank, barrier, lambda: None)


def run_phase(phase: Phase, modules: list[Any], snapshot: Callable[[], None]) -> float:
    """Run a phase, or the rest of it after a checkpoint; a finished one is only loaded. Returns seconds."""
    processes = phase.replicas if phase.device == "cpu" else 1
    flat = Flat.of(trained(phase.name, modules), processes)
    if phase.file.exists():
        state = torch.load(phase.file, map_location=phase.device, weights_only=True)
        flat.restore(state)
        phase.start, phase.seconds = state["step"], state["seconds"]
        log.info("%s: going on at step %d of %d", phase.name, phase.start, phase.steps)
    if phase.start == phase.steps:
        flat.attach(trained(phase.name, modules))
        return phase.seconds
    context, others, barrier = mp.get_context("spawn"), [], None
    if processes > 1:
        flat.share()
        barrier = context.Barrier(processes)
        others = [
            context.Process(target=_replica, args=(phase, flat, rank, barrier), daemon=False)
            for rank in range(1, processes)
        ]
        for process in others:
            process.start()
        torch.set_num_threads(1)
    try:
        phase.work(modules, flat, 0, barrier, snapshot)
    finally:
        for process in others:
            process.join(30)
            if process.is_alive():
                process.terminate()
    return float(torch.load(phase.file, weights_only=True)["seconds"])


def compile_layers() -> None:
    """Compile the layers of the packed forward pass, for this process."""
    fast.decoder_layer = torch.compile(fast.decoder_layer, dynamic=False)
    fast.vision_block = torch.compile(fast.vision_block, dynamic=False)


def save(model: Any, tokenizer: Any, processor: Any, folder: Path) -> None:
    """A normal Hugging Face folder in bfloat16."""
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(plan: Recipe, out: Path, device: str, compiled: bool = False) -> None:
    """All phases; leaves the folders ``generator`` and ``contrastive`` and ``run.json`` in ``out``.

    Args:
        plan: sizes and step counts.
        out: an existing folder; checkpoints in it are continued.
        device: ``cpu`` or ``cuda``.
        compiled: compile the layers first; needs a C++ compiler on a CPU.
    """
    if compiled:
        compile_layers()
    tokenizer = recipe.train_tokenizer(forms.training_texts(np.random.default_rng(plan.seed), 3000))
    small = recipe.control_tokenizer(tokenizer)
    seconds: dict[str, float] = {}

    def run(name: str, modules: list[Any], steps: int, words: Any, snapshot: Callable[[], None]) -> None:
        rate = plan.focus_rate if name == "focus" else plan.rate
        phase = Phase(name, plan, out, device, words, steps, rate, plan.replicas[name], compiled)
        seconds[name] = run_phase(phase, modules, snapshot)

    def keep_generator() -> None:
        save(warm[0], tokenizer, recipe.image_processor(), out / "generator")

    def keep_control() -> None:
        save(control[0], small, recipe.control_image_processor(), out / "contrastive")

    warm: list[Any] = build("warmup", plan, tokenizer, device)
    run("warmup", warm, plan.warmup_steps, tokenizer, lambda: None)
    run("joint", warm[:1], plan.joint_steps, tokenizer, keep_generator)
    run("focus", warm[:1], plan.focus_steps, tokenizer, keep_generator)
    keep_generator()
    control: list[Any] = build("control", plan, small, device, compiled)
    run("control", control, plan.control_steps, small, keep_control)
    keep_control()
    facts = {
        "recipe": asdict(plan),
        "seconds": seconds,
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "transformers": transformers.__version__,
    }
    (out / "run.json").write_text(json.dumps(facts, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m clearsight.models.tiny.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, log and both models")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies every step count (1.0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and initial weights (0)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda"
    )
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(sys.stderr), logging.FileHandler(given.out / "train.log")],
    )
    compiled = compiles(given.device)
    if not compiled:
        log.info("no C++ compiler: training without compiled layers, slower")
    train(Recipe(seed=given.seed).scaled(given.steps_scale), given.out, given.device, compiled)


if __name__ == "__main__":
    main()
