"""`clearsight reproduce`: a published table or figure, measured, beside what was published."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.papers import Published, Redone


@dataclass(frozen=True)
class ReproduceConfig:
    """Redo a published table or figure: our number, the published one, their difference, and what differs.

    Without a TABLE: what there is. A table needs a --model (its own are listed) and its --data.
    """

    table: Annotated[str | None, "a table's name, such as prompts or giants-table-2; none lists them"] = (
        field(default=None, metadata={"positional": True})
    )
    model: Annotated[tuple[str, ...], "model folders, hub ids, `tiny`; one after the other"] = ()
    data: Annotated[Path | None, "a benchmark's folder, or a folder of folders named as benchmarks are"] = (
        None
    )
    task: Annotated[
        tuple[str, ...], "task sources instead of the table's own (prompts, embedder-figure-1)"
    ] = ()
    n: Annotated[int | None, "at most so many queries of a task; default: as in the paper"] = None
    form: Annotated[
        Literal["chat", "vlm2vec"], "vlm2vec: prompts as that line of releases writes them, bare image token"
    ] = "chat"
    concepts: Annotated[int | None, "concepts of an autoencoder; default: the paper's number"] = None
    epochs: Annotated[int | None, "passes over an autoencoder's vectors; default: the paper's"] = None
    cache: Annotated[Path, "folder of vectors and autoencoders, kept for a second run"] = Path(
        ".cache/clearsight/vectors"
    )
    out: Annotated[Path | None, "run folder to write; default: runs/reproduce-TABLE"] = None
    overwrite: Annotated[bool, "replace a run that is already there"] = False
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the manifest and go on"] = "raise"


@dataclass(frozen=True)
class ReproduceResult:
    """The run's folder, None where tables were listed; and the rows of what was shown."""

    run: Path | None
    rows: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {"run": None if self.run is None else str(self.run), "rows": list(self.rows)}


def reproduce(config: ReproduceConfig, ui: Ui | None = None) -> ReproduceResult:
    """Measure a published table and write the run: table.json, table.md, and figures.

    Raises:
        UsageError: no such table; no model or data where it needs them (which, where to get them, their
            layout).
        ModelError, DataError, ItemError: as the model, the data or an item say.
    """
    from clearsight.jobs.papers import PUBLISHED

    ui = ui or Quiet()
    if config.table is None:
        rows = [listed(PUBLISHED.get(name)) for name in PUBLISHED]
        ui.show(_listing(rows))
        return ReproduceResult(None, tuple(rows))
    return _redo(config, PUBLISHED.get(config.table), ui)


def _redo(config: ReproduceConfig, table: Published, ui: Ui) -> ReproduceResult:
    from clearsight.jobs.papers.bench import SEED, Bench
    from clearsight.jobs.papers.shown import markdown, terminal
    from clearsight.run import Run

    bench = Bench(
        table=table,
        models=_models(config, table),
        data=config.data,
        tasks=config.task,
        n=config.n,
        form=config.form,
        concepts=config.concepts,
        epochs=config.epochs,
        cache=config.cache,
        on_error=config.on_error,
        progress=ui.progress,
    )
    out = config.out or Path("runs") / f"reproduce-{table.name}"
    with Run.create(out, "reproduce", asdict(config), seed=SEED, overwrite=config.overwrite) as run:
        redone = table.redo(bench)
        rows = records(redone)
        for item_id, reason in dict.fromkeys(bench.skipped):
            run.skip(item_id, reason)
        run.note(tasks=bench.used)
        run.write_json(
            "table.json",
            {**listed(table), "rows": rows, "differs": redone.differs, "published": table.numbers},
        )
        run.write_text("table.md", markdown(table, redone))
        _write_figures(run, redone)
    ui.show(terminal(table, redone, ui.width))
    ui.say(f"Table: {run.path('table.md')}")
    return ReproduceResult(out, tuple(rows))


def listed(table: Published) -> dict[str, Any]:
    """What a table is and needs, as plain values."""
    return {
        "name": table.name,
        "title": table.title,
        "paper": table.paper,
        "place": table.place,
        "models": dict(table.models),
        "data": [list(names) for names in table.data],
        "queries": table.queries,
        "unit": table.unit,
        "missing": table.missing,
    }


def records(redone: Redone) -> list[dict[str, Any]]:
    """One record a cell, of plain values; NaN where nothing was measured."""
    return [{**asdict(cell), "difference_from_published": cell.difference} for cell in redone.cells]


def _models(config: ReproduceConfig, table: Published) -> tuple[str, ...]:
    if config.model:
        labels = [table.label_of(model) for model in config.model]
        if len(set(labels)) < len(labels):
            raise UsageError("Two of the models have one name.", where="--model", do="Give different models.")
        return config.model
    if table.default_model is not None:
        return (table.default_model,)
    raise UsageError(
        f"'{table.name}' needs a model.",
        where="--model",
        do=f"The paper's: {', '.join(table.models.values())}. Or any other, such as tiny.",
    )


def _write_figures(run: Any, redone: Redone) -> None:
    """Each as SVG and PNG, light and dark."""
    from clearsight.jobs.papers.drawings import darken
    from clearsight.report.figure_style import to_png, to_svg

    for name, figure in redone.figures.items():
        for shade in ("", "-dark"):
            if shade:
                darken(figure)
            run.write_bytes(f"figures/{name}{shade}.svg", to_svg(figure))
            run.write_bytes(f"figures/{name}{shade}.png", to_png(figure))


def _listing(rows: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    shown = Text()
    for row in rows:
        paper = row["paper"].partition(",")[2].partition("(")[0].strip()
        shown.append(f"{row['name']}\n", "bold")
        shown.append(f"    {row['title']} ({paper}: {row['place']})\n")
        data = "; ".join(" or ".join(names) for names in row["data"])
        shown.append(f"    models: {', '.join(row['models'])}\n    data: {data}\n", "dim")
    shown.rstrip()
    return shown
