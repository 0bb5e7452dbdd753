"""`clearsight train`: clusters of pairs to a LoRA adapter that every command takes as a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import DataError, UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.mining import Clusters
    from clearsight.training import TrainSettings
    from clearsight.training.estimate import Estimate
    from clearsight.training.loop import Refresh
    from clearsight.training.processes import Processes
    from clearsight.training.trainer import Row
    from clearsight.types import Task


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a model with LoRA on clusters of pairs, and write a peft adapter.

    Give the file of `clearsight mine`; it knows its data, prompt and pooling. What no flag and no --recipe
    says is the paper's (From Generator to Embedder), with a batch for one small machine.

    A training that was interrupted goes on where it was: give the same command. Several processes:
    `accelerate launch --num-processes 8 -m clearsight train ...` (or torchrun); losses are those of one.
    """

    model: Annotated[str, "a generative model: a folder, a hub id, or `tiny`"] = field(
        metadata={"positional": True}
    )
    clusters: Annotated[Path, "file of clusters that `clearsight mine` wrote"] = Path("clusters.parquet")
    data: Annotated[tuple[str, ...], "the data sets mined, if they moved; default: as the clusters say"] = ()
    files: Annotated[Path | None, "folder that holds a benchmark's files, if it moved"] = None
    out: Annotated[Path, "folder of the adapter; its checkpoints lie in it too"] = Path("adapter")
    recipe: Annotated[str | None, "settings of a published training: qwen2-vl-2b, qwen2-vl-7b"] = None
    prompt: Annotated[str | None, "prompt name or TOML file; default: the clusters'"] = None
    pooling: Annotated[str | None, "last, mean ...; default: the clusters'"] = None
    batch: Annotated[int | None, "clusters of a step, of all processes together; 32"] = None
    one_set: Annotated[bool | None, "clusters of a step come from one data set; off"] = None
    epochs: Annotated[float | None, "how often each cluster is seen; 1.5"] = None
    steps: Annotated[int | None, "steps, in place of epochs"] = None
    rate: Annotated[float | None, "AdamW's highest rate; 5e-5"] = None
    warmup: Annotated[int | None, "steps in which the rate rises; 100"] = None
    temperature: Annotated[float | None, "of InfoNCE; 0.02"] = None
    learn_temperature: Annotated[bool | None, "learn it, from there; off"] = None
    matryoshka: Annotated[tuple[int, ...], "further widths whose leading entries must stand alone"] = ()
    rank: Annotated[int | None, "LoRA's rank; 8"] = None
    alpha: Annotated[int | None, "LoRA's alpha; 64"] = None
    dropout: Annotated[float | None, "LoRA's dropout, 0 to 1; 0.1"] = None
    dora: Annotated[bool | None, "DoRA: directions and lengths apart; off"] = None
    caption_weight: Annotated[
        float | None, "weight of the next-token loss of the pairs' texts, felt from about 20; 0"
    ] = None
    max_tokens: Annotated[int | None, "tokens of a sequence, at most; 1024"] = None
    image_size: Annotated[int | None, "pixels of a side that images are shrunk to; none"] = None
    token_budget: Annotated[int | None, "padded tokens of one pass with gradients; by device"] = None
    checkpointing: Annotated[bool | None, "recompute layers in the backward pass: less memory; off"] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, "of the frozen weights; bfloat16 where the GPU has it"
    ] = None
    refresh: Annotated[int | None, "mine again with the model as it is, every so many steps"] = None
    seed: Annotated[int | None, "of first weights, order and dropout; 0"] = None
    workers: Annotated[int | None, "threads that open and prepare; by cores"] = None
    save_every: Annotated[int | None, "steps between checkpoints (and one a minute); 100"] = None
    log: Annotated[Literal["tensorboard", "wandb"] | None, "also write losses there"] = None
    device: Annotated[Literal["cpu"] | None, "cpu; default: a GPU where there is one"] = None
    estimate: Annotated[bool, "measure a few steps, say time and memory, and write nothing"] = False
    overwrite: Annotated[bool, "begin anew where checkpoints lie"] = False
    on_error: Annotated[Literal["raise", "skip"], "skip: leave out pairs of a bad item, and name it"] = (
        "raise"
    )
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class TrainResult:
    """The adapter's folder and how the losses went; or an estimate, and no folder."""

    out: Path | None
    history: tuple[Row, ...] = ()
    estimate: Estimate | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        from clearsight.files import to_plain

        last = self.history[-1] if self.history else None
        return {
            "out": None if self.out is None else str(self.out),
            "steps": len(self.history),
            "last": to_plain(last),
            "estimate": to_plain(self.estimate),
            "skipped": [{"item": item, "reason": reason} for item, reason in self.skipped],
        }


def train(config: TrainConfig, ui: Ui | None = None) -> TrainResult:
    """Load clusters and their data, train, and write the adapter.

    Raises:
        UsageError: a setting that does not fit, a checkpoint of another configuration (every difference is
            listed). DataError: clusters of other data, a full disk. ModelError, ItemError: as the model or an
            item say.
    """
    from clearsight.mining import read_clusters
    from clearsight.training.loop import train as run
    from clearsight.training.processes import Processes
    from clearsight.training.trainer import Training

    ui = ui or Quiet()
    clusters = read_clusters(config.clusters)
    settings = settings_of(config, clusters.manifest)
    tasks = load_data(config, clusters)
    processes = Processes(config.device, config.log, config.out)
    if config.estimate:
        from clearsight.training.estimate import estimate

        training = Training(
            config.model,
            clusters,
            tasks,
            settings,
            processes,
            on_error=config.on_error,
            trust_remote_code=config.trust_remote_code,
        )
        found = estimate(training)
        ui.say(_estimated(found, processes))
        return TrainResult(None, estimate=found)
    done = run(
        config.model,
        clusters,
        tasks,
        settings,
        config.out,
        processes=processes,
        refresh=None if config.refresh is None else refresher(clusters, tasks),
        refresh_every=config.refresh or 0,
        on_error=config.on_error,
        overwrite=config.overwrite,
        trust_remote_code=config.trust_remote_code,
        progress=ui.progress if processes.main else None,
    )
    if processes.main:
        first, last = done.history[0], done.history[-1]
        ui.say(f"{len(done.history):,} steps, loss {first.loss:.4f} to {last.loss:.4f}; {config.out}")
        if done.cut:
            ui.say(f"{done.cut:,} items were longer than {settings.max_tokens} tokens and were cut.")
        ui.say(
            f"Use it as a model: clearsight evaluate {config.out} --prompt {settings.prompt} "
            f"--pooling {settings.pooling}"
        )
    return TrainResult(config.out, done.history, skipped=tuple(done.skipped.items()))


def settings_of(config: TrainConfig, manifest: Mapping[str, Any]) -> TrainSettings:
    """Flags before the recipe, the recipe before what the clusters were mined with, and that before defaults.

    Raises:
        UsageError: an unknown recipe, a value out of its range, --refresh below 1.
    """
    from clearsight.training import TrainSettings
    from clearsight.training.recipes import RECIPES

    if config.refresh is not None and config.refresh < 1:
        raise UsageError(f"refresh is {config.refresh}.", where="--refresh", do="Give steps from 1.")
    names = {one.name for one in fields(TrainSettings)}
    mined = {name: manifest[name] for name in ("prompt", "pooling") if name in manifest}
    recipe = {} if config.recipe is None else dict(RECIPES.get(config.recipe).settings)
    given = {
        one.name: getattr(config, one.name)
        for one in fields(config)
        if one.name in names and getattr(config, one.name) not in (None, ())
    }
    return TrainSettings(**{**mined, **recipe, **given})


def load_data(config: TrainConfig, clusters: Clusters) -> dict[str, Task]:
    """The tasks that the clusters' ids refer to, by name: as given, else as the clusters' manifest has them.

    Raises:
        UsageError: none given and none in the manifest. DataError: as the data say.
    """
    from clearsight.data import load_task

    facts = {one.get("source"): one for one in clusters.manifest.get("data", ())}
    specs = config.data or tuple(name for name in facts if name)
    if not specs:
        raise UsageError("The clusters do not say of which data.", where="--data", do="Give the data mined.")
    settings = {name: clusters.manifest[name] for name in ("n", "seed") if name in clusters.manifest}
    tasks: dict[str, Task] = {}
    for spec in specs:
        folder = config.files or facts.get(spec, {}).get("files")
        task = load_task(spec, data=folder, **settings, skipped=[] if config.on_error == "skip" else None)
        if task.name in tasks:
            raise DataError(f"Two data sets are named '{task.name}'.", where=spec, do="Rename one.")
        tasks[task.name] = task
    return tasks


def refresher(clusters: Clusters, tasks: Mapping[str, Task]) -> Refresh:
    """Mines again as the clusters were mined, with the encoder as it is by then."""
    from clearsight.data.content import content_key
    from clearsight.jobs.embedding import embed_task
    from clearsight.mining import Mining, TrainingPairs, mine_pairs, open_search
    from clearsight.mining.found import name_clusters
    from clearsight.mining.parts import join_clusters
    from clearsight.mining.strategies import distinct_rows
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Silent

    manifest = clusters.manifest
    used = {name: manifest[name] for name in ("negatives", "pool", "beta", "seed") if name in manifest}
    pairs = {
        name: TrainingPairs.of(
            task,
            query_content=[content_key(item) for item in task.queries],
            candidate_content=[content_key(item) for item in task.candidates],
        )
        for name, task in tasks.items()
    }

    def again(encoder: Encoder, step: int) -> Clusters:
        parts = []
        for name, task in tasks.items():
            queries, candidates = embed_task(encoder, task, Silent())
            rows = distinct_rows(pairs[name], candidates)
            mining = Mining(pairs[name], queries, rows, partial(open_search, "exact", rows), **used)
            parts.append(name_clusters([(pairs[name], mine_pairs(manifest["strategy"], mining))]))
        return join_clusters(parts)

    return again


def _estimated(found: Estimate, processes: Processes) -> str:
    share = f", {processes.count} processes" if processes.count > 1 else ""
    return (
        f"{found.steps:,} steps of {found.pairs:,} pairs: {found.step_seconds:.2f} s a step, "
        f"{found.hours:.2f} hours in all{share}; {found.tokens_per_second:,.0f} tokens a second, "
        f"{found.peak_bytes / 2**30:.2f} GiB at most."
    )
