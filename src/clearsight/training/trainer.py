"""A model in training: its steps, and its state to keep and to take up again."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import clearsight
from clearsight.errors import DataError, ModelError, UsageError
from clearsight.files import write_atomic
from clearsight.mining.clusters import Clusters
from clearsight.models.adapter import CONFIG, WEIGHTS
from clearsight.models.encoder import Encoder
from clearsight.models.load import LoadedModel, load_model
from clearsight.training.checkpoint import Checkpoint, save_checkpoint
from clearsight.training.contrast import HOTTEST
from clearsight.training.feeding import Feeding, OnError, Step
from clearsight.training.lora import Lora, need_trainable
from clearsight.training.pairs import Pairs
from clearsight.training.plan import Plan
from clearsight.training.processes import Processes
from clearsight.training.said import Saying
from clearsight.training.settings import TrainSettings, identity, rate_at
from clearsight.training.step import Stepper
from clearsight.types import Task

CPU_TOKENS, GPU_TOKENS = 4096, 16384
"""Padded tokens of a pass with gradients. On a GPU activations bound it: docs of `TrainSettings`."""
MOST_WORKERS = 8


@dataclass(frozen=True)
class Row:
    """What is kept of a step: losses in nats, and how it went.

    Attributes:
        loss: InfoNCE. said: the next-token loss of a token. rate: AdamW's. norm: of the gradient before
        clipping. temperature: during the step. pairs, masked: see `step.Losses`. tokens: of this one.
        seconds: wall time, waiting for items included.
    """

    loss: float
    said: float
    rate: float
    norm: float
    temperature: float
    pairs: float
    masked: float
    tokens: float
    seconds: float


class Training:
    """A model on its way; `train` runs one from beginning to end.

    Args:
        model: a name, or a model loaded with its head.
        tasks: by the data set's name in the clusters.

    Raises:
        UsageError: a setting that does not fit the model, or a library that is not installed.
        ModelError, DataError: as the model, the clusters and the tasks say.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel,
        clusters: Clusters,
        tasks: Mapping[str, Task],
        settings: TrainSettings,
        processes: Processes,
        *,
        on_error: OnError = "raise",
        trust_remote_code: bool = False,
    ) -> None:
        self.settings, self.processes, self.on_error = settings, processes, on_error
        self.tasks, self.clusters = dict(tasks), clusters
        self.pairs = Pairs(clusters, tasks)
        self.plan = Plan.of(self.pairs.sets_G, settings)
        self.loaded = (
            model
            if isinstance(model, LoadedModel)
            else _loaded(model, settings, processes, trust_remote_code)
        )
        need_trainable(self.loaded)
        _check_fit(self.loaded, settings)
        self.lora = Lora(self.loaded, settings)
        self.encoder = Encoder(
            self.loaded,
            prompt=settings.prompt,
            pooling=settings.pooling,
            layer=settings.layer,
            max_tokens=settings.max_tokens,
            image_size=settings.image_size,
        )
        if settings.checkpointing:
            self.loaded.model.activation_checkpointing_enable({"use_reentrant": False})
        self.log_scale = nn.Parameter(
            torch.tensor(-math.log(settings.temperature), device=self.loaded.device)
        )
        self.log_scale.requires_grad_(settings.learn_temperature)
        self.optimiser = _optimiser(self.lora, self.log_scale, settings)
        self.history: list[Row] = []
        self.skipped: dict[str, str] = {}
        self.cut = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history)

    @property
    def temperature(self) -> float:
        """Of InfoNCE, as it is now."""
        return math.exp(-float(self.log_scale.detach()))

    @property
    def same(self) -> dict[str, Any]:
        """What a training that goes on must share with this one."""
        return identity(
            self.settings,
            model=self.loaded.revision,
            clusters=clusters_digest(self.clusters),
            data={name: [len(task.queries), len(task.candidates)] for name, task in self.tasks.items()},
        )

    def steps(self, stop: int) -> None:
        """Do the steps from `self.step` to `stop`.

        Raises:
            ItemError: an item cannot be prepared. ModelError: the loss is no longer a number.
        """
        for _ in self.each(stop):
            pass

    def each(self, stop: int) -> Iterator[Row]:
        """As `steps`, yielding the row of every step once it is done."""
        stepper, feeding = self._stepper(), self._feeding()
        self.loaded.model.train()
        began = time.perf_counter()
        try:
            for step in feeding.steps(self.step, stop):
                self.skipped.update(step.skipped)
                self.cut += sum(one.prepared.cut > 0 for one in step.ready.values())
                row = self._do(step, stepper, began)
                self.history.append(row)
                began = time.perf_counter()
                yield row
        finally:
            self.loaded.model.eval()

    def renew(self, clusters: Clusters) -> None:
        """Other clusters from here on; the number of steps stays."""
        self.pairs = Pairs(clusters, self.tasks)
        settings, steps = self.settings, self.plan.steps
        self.plan = Plan(self.pairs.sets_G, settings.batch, settings.seed, settings.one_set, steps)

    def _do(self, step: Step, stepper: Stepper, began: float) -> Row:
        settings = self.settings
        rate = rate_at(step.number, peak=settings.rate, warmup=settings.warmup, steps=self.plan.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        temperature = self.temperature
        losses = stepper(step, self.log_scale.exp())
        if not math.isfinite(losses.contrast + losses.said):
            raise ModelError(
                f"The loss of step {step.number} is {losses.contrast + losses.said}.",
                where=self.loaded.name,
                do="Try a lower rate, more warm-up, or precision float32.",
            )
        weights = list(self.lora.weights.values())
        self.processes.add_up(_gradient(weight) for weight in weights)
        norm = float(nn.utils.clip_grad_norm_(weights, settings.clip or math.inf))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(HOTTEST))
        return Row(
            losses.contrast,
            losses.said,
            rate,
            norm,
            temperature,
            losses.pairs,
            losses.masked,
            losses.tokens,
            time.perf_counter() - began,
        )

    def _stepper(self) -> Stepper:
        settings = self.settings
        default = CPU_TOKENS if self.loaded.device.type == "cpu" else GPU_TOKENS
        return Stepper(
            self.encoder,
            self.pairs,
            self.processes,
            token_budget=settings.token_budget or default,
            seed=settings.seed,
            widths=settings.matryoshka,
            caption_weight=settings.caption_weight,
            recomputes=settings.checkpointing,
        )

    def _feeding(self) -> Feeding:
        settings = self.settings
        saying = None
        if settings.caption_weight:
            saying = Saying(self.loaded, max_tokens=settings.max_tokens, image_size=settings.image_size)
        return Feeding(
            self.pairs,
            self.plan,
            self.encoder.preparer(_pooling(self.encoder)),
            saying=saying,
            rank=self.processes.rank,
            count=self.processes.count,
            workers=settings.workers or min(MOST_WORKERS, self.encoder.threads or 1),
            square=settings.image_size if settings.square else None,
            dtype=self.loaded.dtype,
            on_error=self.on_error,
        )

    # -------------------------------------------------------------------------------------- keep and take up
    def facts(self) -> dict[str, Any]:
        """clearsight.json: what the adapter was trained for, from what, and how."""
        return {
            "kind": "clearsight-adapter",
            "clearsight": clearsight.__version__,
            "base": {"name": self.loaded.name, "revision": self.loaded.revision},
            "encoder": {
                "prompt": str(self.settings.prompt),
                "pooling": self.encoder.pooling,
                "layer": self.settings.layer,
            },
            "settings": asdict(self.settings),
            "data": sorted(self.tasks),
            "clusters": dict(self.clusters.manifest),
            "processes": self.processes.count,
            "steps": self.step,
            "temperature": self.temperature,
        }

    def save(self, out: Path) -> None:
        """Write a checkpoint of the state as it is.

        Raises:
            DataError: it cannot be written; the one before is whole.
        """
        tensors: dict[str, Tensor] = {
            "log_scale": self.log_scale,
            "history": torch.tensor([_values(row) for row in self.history], dtype=torch.float64),
        }
        for name, weight in self._trained().items():
            for part, value in self.optimiser.state.get(weight, {}).items():
                tensors[f"{part}.{name}"] = torch.as_tensor(value)
        save_checkpoint(out, self.step, self.same, self.lora.files(self.facts()), tensors)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        tensors = dict(saved.tensors)
        with torch.no_grad():
            self.log_scale.copy_(tensors.pop("log_scale"))
        self.history = [Row(*values) for values in tensors.pop("history").tolist()]
        self.lora.restore(saved.adapter)
        trained = self._trained()
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            place = value.device if part == "step" else trained[name].device
            self.optimiser.state[trained[name]][part] = value.to(place)

    def finish(self, out: Path) -> None:
        """Write the adapter and the history; the config, which makes it an adapter, last."""
        files = self.lora.files(self.facts())
        lines = (json.dumps({"step": s, **asdict(row)}) for s, row in enumerate(self.history))
        order = sorted(files, key=lambda name: (name == CONFIG, name != WEIGHTS))
        try:
            write_atomic(out / "history.jsonl", ("\n".join(lines) + "\n").encode())
            for name in order:
                write_atomic(out / name, files[name])
        except OSError as fault:
            raise DataError(
                f"The adapter cannot be written ({fault.strerror}). Its last checkpoint is whole.",
                where=str(out),
                do="Make room on the disk and give the same command again.",
            ) from fault

    def _trained(self) -> dict[str, nn.Parameter]:
        return {**self.lora.weights, "log_scale": self.log_scale}


def clusters_digest(clusters: Clusters) -> str:
    """Changes with the pairs, their order and their clusters; not with similarities."""
    digest = blake2b(digest_size=16)
    for name in ("dataset", "cluster", "query", "positive"):
        digest.update(f"{name}\0".encode())
        digest.update("\0".join(map(str, clusters.table.column(name).to_pylist())).encode())
    return digest.hexdigest()


def _loaded(
    model: str | Path, settings: TrainSettings, processes: Processes, trust_remote_code: bool
) -> LoadedModel:
    device = processes.device
    bfloat16 = settings.precision == "bfloat16" or (
        settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    return load_model(model, device=device, dtype=dtype, head=True, trust_remote_code=trust_remote_code)


def _check_fit(loaded: LoadedModel, settings: TrainSettings) -> None:
    if settings.max_tokens > loaded.context:
        raise UsageError(
            f"The model reads {loaded.context} tokens at most, {settings.max_tokens} were asked for.",
            where="max_tokens",
            do="Give at most that many: no limit is changed silently.",
        )
    if settings.matryoshka:
        width = int(loaded.base.config.get_text_config().hidden_size)
        if max(settings.matryoshka) > width:
            raise UsageError(
                f"Vectors have {width} entries, not {max(settings.matryoshka)}.",
                where="matryoshka",
                do=f"Give widths up to {width}.",
            )


def _optimiser(lora: Lora, log_scale: nn.Parameter, settings: TrainSettings) -> torch.optim.AdamW:
    groups = [
        {"params": list(lora.weights.values()), "weight_decay": settings.weight_decay},
        {"params": [log_scale] if settings.learn_temperature else [], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([one for one in groups if one["params"]], lr=settings.rate)


def _gradient(weight: nn.Parameter) -> Tensor:
    """The gradient, zeros where no item of this process reached the weight."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _pooling(encoder: Encoder) -> Any:
    from clearsight.pooling import poolings

    return poolings.get(encoder.pooling)


def _values(row: Row) -> list[float]:
    return [getattr(row, field.name) for field in fields(row)]
