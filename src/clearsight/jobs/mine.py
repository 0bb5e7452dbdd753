"""`clearsight mine`: training pairs to clusters of pairs that are hard for one another."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.mining import Clusters
    from clearsight.models.encoder import Encoder
    from clearsight.report.mining import StrategyRow


@dataclass(frozen=True)
class MineConfig:
    """Mine hard negatives for training: clusters of pairs, written as one parquet file of ids.

    Vectors are kept in the cache and clusters by data set beside the file, so that an interrupted run goes
    on where it was. `clearsight train` reads the file.
    """

    model: Annotated[str, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        metadata={"positional": True}
    )
    data: Annotated[
        tuple[str, ...],
        "pairs to train on: tasks such as mmeb_train/MSCOCO_t2i, or a file or folder of pairs",
    ] = ()
    files: Annotated[Path | None, "folder that holds a benchmark's files, or hub:NAME of a data set"] = None
    n: Annotated[int | None, "at most so many of what a task counts: rows, images, scenes"] = None
    strategy: Annotated[
        str,
        "saha (as the paper prints it), saha_whole, saha_release (its code), in_batch, hard, hard_beta",
    ] = "saha"
    repair: Annotated[
        str, "none, or a repair by statistics of these pairs' own items, no label seen: realign, self_aligned"
    ] = "none"
    unlabelled: Annotated[
        str | None, "images to caption for self_aligned: a folder, or how many of the task's own"
    ] = None
    negatives: Annotated[int, "negatives in a cluster, at most"] = 7
    pool: Annotated[int, "candidates retrieved for an anchor, in multiples of --negatives (SaHa)"] = 4
    beta: Annotated[float, "cosine above the positive's from which hard_beta passes candidates over"] = 0.02
    search: Annotated[
        Literal["exact", "approximate"], "approximate: an index of faiss, for millions of candidates"
    ] = "exact"
    compare: Annotated[
        tuple[str, ...], "strategies to measure beside it; default: all where the truth is known"
    ] = ()
    seed: Annotated[int, "seed of random batches, of an approximate index, of what a task draws"] = 0
    prompt: Annotated[str, "prompt name or the path of a TOML file"] = "one_word"
    pooling: Annotated[str, "mean, last, mean_no_image, mean_no_prompt, last_attention"] = "mean"
    out: Annotated[Path, "file to write; its page lies beside it as .html"] = Path("clusters.parquet")
    cache: Annotated[Path, "folder of the vector cache"] = Path(".cache/clearsight/vectors")
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the report and go on"] = "raise"


@dataclass(frozen=True)
class MineResult:
    """The clusters as written, where they and their page lie, and the strategies measured."""

    out: Path
    page: Path
    clusters: Clusters
    rows: tuple[StrategyRow, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        from clearsight.files import to_plain

        return {
            "out": str(self.out),
            "page": str(self.page),
            "clusters": len(self.clusters),
            "left_over": len(self.clusters.left_over),
            "manifest": to_plain(self.clusters.manifest),
            "strategies": [to_plain(row) for row in self.rows],
            "skipped": [{"item": item, "reason": reason} for item, reason in self.skipped],
        }


def mine(config: MineConfig, ui: Ui | None = None) -> MineResult:
    """Embed training pairs, mine clusters of them, data set by data set, and write file and page.

    Raises:
        UsageError: no data, an unknown strategy, repair or search, fewer than 1 negative.
        DataError: data without pairs, one query only, all positives alike, two data sets of one name.
        ModelError, ItemError: as the model or an item say.
    """
    from clearsight.data import Skipped, load_task
    from clearsight.jobs.embedding import check_images
    from clearsight.jobs.mining import load_set, mine_set
    from clearsight.jobs.mining_page import shown_clusters, write_page
    from clearsight.jobs.mining_repair import check_repair, repaired_set, what_may_help
    from clearsight.mining import STRATEGIES, write_clusters
    from clearsight.mining.parts import join_clusters
    from clearsight.mining.strategies import check_sizes
    from clearsight.report.mining import mining_table

    ui = ui or Quiet()
    if not config.data:
        raise UsageError("There is nothing to mine.", where="--data", do="For example --data world/t2i.")
    for name in (config.strategy, *config.compare):
        STRATEGIES.get(name)
    check_repair(config)
    check_sizes(config.negatives, config.pool)
    encoder: Encoder | None = None
    done, names = [], set()
    skipped: list[tuple[str, str]] = []
    for spec in config.data:
        bad_rows: list[Skipped] = []
        skip = bad_rows if config.on_error == "skip" else None
        task = load_task(spec, data=config.files, n=config.n, seed=config.seed, skipped=skip)
        if task.name in names:
            raise UsageError(
                f"Two data sets are named '{task.name}'.", where=spec, do="Rename the file or folder of one."
            )
        names.add(task.name)
        if skip is None:
            check_images(task)
        encoder = encoder or _encoder(config)
        ready = load_set(encoder, task, ui.progress)
        ready = repaired_set(ready, encoder, config, ui)
        skipped += [*bad_rows, *ready.skipped]
        done.append(mine_set(config, spec, ready, ui))
    clusters = join_clusters([one.clusters for one in done])
    manifest = _manifest(config, done)
    write_clusters(config.out, clusters, manifest)
    rows = tuple(row for one in done for row in one.rows)
    page = write_page(config, clusters, manifest, rows, shown_clusters(config, done), tuple(skipped))
    shutil.rmtree(parts_folder(config), ignore_errors=True)
    ui.show(mining_table(rows, ui.width))
    advice = what_may_help(config, len(clusters.left_over), sum(one.facts["queries"] for one in done))
    if advice is not None:
        ui.say(advice)
    ui.say(f"{len(clusters):,} clusters in {config.out}; page: {page}")
    return MineResult(
        config.out, page, replace(clusters, manifest=manifest), rows, tuple(dict.fromkeys(skipped))
    )


def _encoder(config: MineConfig) -> Encoder:
    from clearsight.jobs.mining_repair import load_for
    from clearsight.models.encoder import Encoder

    loaded = load_for(config)
    trained_for = {} if loaded.adapter is None else loaded.adapter.options
    own = {"prompt": config.prompt, "pooling": config.pooling}
    return Encoder(loaded, **{**trained_for, **own}, cache=config.cache, on_error=config.on_error)


def _manifest(config: MineConfig, done: list[Any]) -> dict[str, Any]:
    from clearsight.run import environment

    return {
        **settings_of(config),
        "data": [one.facts for one in done],
        "environment": environment(),
    }


def settings_of(config: MineConfig) -> dict[str, Any]:
    """What makes the clusters, as the manifest has it, without settings that the strategy does not use."""
    from clearsight.mining import STRATEGIES

    uses = STRATEGIES.get(config.strategy).uses
    optional = {"pool": config.pool, "beta": config.beta}
    return {
        "model": config.model,
        "prompt": config.prompt,
        "pooling": config.pooling,
        "repair": config.repair,
        "strategy": config.strategy,
        "negatives": config.negatives,
        **{name: value for name, value in optional.items() if name in uses},
        "seed": config.seed,
        "n": config.n,
    }


def parts_folder(config: MineConfig) -> Path:
    """Where the clusters of each data set lie until all are mined."""
    return config.out.with_name(f".{config.out.name}.parts")
