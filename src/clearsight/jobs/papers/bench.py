"""What recipes measure with: models by name, tasks from the user's folder, vectors from the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clearsight.errors import DataError, UsageError
from clearsight.jobs.papers.base import Published
from clearsight.progress import Progress, Silent

if TYPE_CHECKING:
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import LoadedModel
    from clearsight.types import Embeddings, Task

SEED = 0
"""Of what loaders draw: M-BEIR's instruction of a query, one of four."""


@dataclass
class Bench:
    """One run of one table.

    Attributes:
        table: what is redone.
        models: names, hub ids or folders.
        data: a benchmark's folder, or a folder of benchmarks' folders named as the benchmarks are; None:
            none was given.
        tasks: task sources that stand for the table's own; empty: its own.
        n: at most so many queries of a task; None: the paper's number.
        form: of prompts (see `clearsight.models.prompts.FORMS`).
        concepts, epochs: of autoencoders; None: the paper's numbers for the paper's models, else as `sae
            train` chooses.
        cache: folder of vectors, and of autoencoders in `autoencoders/`.
        skipped: (item id, reason) of what was left out.
        used: task -> facts on it for the manifest.
    """

    table: Published
    models: tuple[str, ...]
    data: Path | None = None
    tasks: tuple[str, ...] = ()
    n: int | None = None
    form: Literal["chat", "vlm2vec"] = "chat"
    concepts: int | None = None
    epochs: int | None = None
    device: str | None = None
    cache: Path = Path(".cache/clearsight/vectors")
    on_error: Literal["raise", "skip"] = "raise"
    progress: Progress = field(default_factory=Silent)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    used: dict[str, dict[str, Any]] = field(default_factory=dict)
    _loaded: dict[str, LoadedModel] = field(default_factory=dict)

    @property
    def limit(self) -> int | None:
        return self.n or self.table.queries

    def load(self, model: str) -> LoadedModel:
        """The model; one at a time stays in memory."""
        from clearsight.models.load import load_model

        if model not in self._loaded:
            self._loaded.clear()
            self._loaded[model] = load_model(model, device=self.device)
        return self._loaded[model]

    def encoder(self, model: str, prompt: str, pooling: str) -> Encoder:
        """Contrastive models have neither prompts nor poolings: theirs are their own features."""
        from clearsight.models.encoder import Encoder

        loaded = self.load(model)
        if loaded.kind == "contrastive":
            prompt, pooling = "plain", "features"
        elif self.form != "chat":
            prompt = f"{prompt}@{self.form}"
        return Encoder(loaded, prompt=prompt, pooling=pooling, cache=self.cache, on_error=self.on_error)

    def sides(self, encoder: Encoder, task: Task) -> tuple[Task, Embeddings, Embeddings]:
        """The task without items that were refused, and the vectors of both its sides."""
        from clearsight.jobs.embedding import embed_task, kept

        queries, candidates = embed_task(encoder, task, self.progress)
        self.skipped += [*queries.skipped.items(), *candidates.skipped.items()]
        return kept(task, queries, candidates), queries, candidates

    def has(self, names: Iterable[str]) -> str | None:
        """The first of these tasks whose files are there."""
        return next((name for name in names if self._folder(name) is not None or _own(name)), None)

    def task(self, names: Sequence[str], measures: Sequence[str] | None = None) -> Task:
        """The first of these tasks whose files are there.

        Args:
            measures: instead of the benchmark's own.

        Raises:
            DataError, UsageError: no data were given, or none of the tasks is in them; which, where to get
                them and how they must lie.
        """
        from clearsight.data import Skipped, load_task

        name = self.has(names)
        if name is None:
            raise self.missing(names)
        bad: list[Skipped] = []
        folder = self._folder(name)
        keep = bad if self.on_error == "skip" else None
        task = load_task(name, data=folder, n=self.limit, seed=SEED, skipped=keep)
        self.skipped += list(bad)
        self.used[task.name] = {
            "seed": SEED,
            "queries": len(task.queries),
            "candidates": len(task.candidates),
            "instructions": _instructions(task),
        }
        return replace(task, measures=tuple(measures)) if measures else task

    def missing(self, names: Sequence[str]) -> UsageError | DataError:
        """The error for data that are not there."""
        from clearsight.data.benchmarks import BENCHMARKS

        benchmarks = list(dict.fromkeys(name.partition("/")[0] for name in names))
        rows = [BENCHMARKS.get(name) for name in benchmarks]
        what = " or ".join(names[:4]) + (" ..." if len(names) > 4 else "")
        where_to_get = " Or: ".join(
            f"{row.title} ({row.source}; {row.size}). Layout: {row.layout}" for row in rows
        )
        how = f"{where_to_get} Give its folder as --data, or a folder that holds it as '{benchmarks[0]}'."
        if self.data is None:
            return UsageError(f"'{self.table.name}' needs the data of {what}.", do=how)
        return DataError(f"'{self.table.name}' needs {what}.", where=str(self.data), do=how)

    def _folder(self, name: str) -> Path | None:
        """The folder that holds the set, by its own layout."""
        from clearsight.data.benchmarks import BENCHMARKS

        benchmark, _, of = name.partition("/")
        if self.data is None or benchmark not in BENCHMARKS.names():
            return None
        row = BENCHMARKS.get(benchmark)
        wanted = {of, of.partition("@")[0], row.known_as(of)}
        return next(
            (
                place
                for place in (self.data / benchmark, self.data)
                if place.is_dir() and row.looks(place) and not wanted.isdisjoint(row.found(place))
            ),
            None,
        )


def _own(name: str) -> bool:
    """A task that needs no data, or one's own folder."""
    return name.startswith("world/") or Path(name).exists()


def _instructions(task: Task) -> dict[str, int]:
    """The task instructions that queries were given -> how many; at most the twenty commonest."""
    return dict(Counter(item.instruction or "" for item in task.queries).most_common(20))
