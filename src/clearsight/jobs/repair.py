"""`clearsight repair`: vectors in, repaired vectors and a saved repair out; no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.recipes import Repaired
    from clearsight.types import Embeddings


@dataclass(frozen=True)
class RepairConfig:
    """Fit a repair on vectors one already has, or apply a saved one.

    Writes candidates.parquet, queries.parquet (if given), repair.safetensors, and the geometry of the space
    before and after.
    """

    candidates: Annotated[Path, "candidate vectors: .parquet, .safetensors, .npy or .lance"] = field(
        metadata={"positional": True}
    )
    queries: Annotated[Path | None, "query vectors; without them statistics are the candidates'"] = None
    recipe: Annotated[str, "realign, realign_release, realign_chosen, centred, self_aligned, refined"] = (
        "realign"
    )
    shrinkage: Annotated[float | None, "0..1, in place of the recipe's own (0.5; self-alignment 0.1)"] = None
    fit_on: Annotated[
        Literal["sides", "candidates", "joint", "modality"], "whose statistics a repair takes"
    ] = "sides"
    pair_images: Annotated[Path | None, "vectors of unlabelled images, for self_aligned and refined"] = None
    pair_captions: Annotated[Path | None, "vectors of the model's captions of them, in the same order"] = None
    apply: Annotated[Path | None, "a saved repair to apply; nothing is fitted"] = None
    out: Annotated[Path, "run folder to write"] = Path("runs/repair")
    overwrite: Annotated[bool, "replace a run that is already there"] = False


@dataclass(frozen=True)
class RepairResult:
    run: Path
    geometry: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        return {"run": str(self.run), "geometry": {name: dict(g) for name, g in self.geometry.items()}}


def repair(config: RepairConfig, ui: Ui | None = None) -> RepairResult:
    """Repair the vectors of a file, or of both sides.

    Raises:
        UsageError: an unknown recipe, or one of a pair of files without the other.
        DataError: a file that cannot be read, widths that differ, NaN or infinite rows.
    """
    from clearsight.data import load_vectors, save_vectors
    from clearsight.jobs.recipes import in_memory
    from clearsight.repair import save_repair
    from clearsight.run import Run

    ui = ui or Quiet()
    candidates = load_vectors(config.candidates, side="candidate")
    queries = None if config.queries is None else load_vectors(config.queries, side="query")
    repaired = (
        _apply(config.apply, queries, candidates) if config.apply else _fit(config, queries, candidates)
    )
    after = in_memory(repaired.candidates)
    with Run.create(config.out, "repair", asdict(config), overwrite=config.overwrite) as run:
        save_vectors(run.path("candidates.parquet"), after)
        if queries is not None:
            save_vectors(run.path("queries.parquet"), repaired.queries)
        if repaired.fitted is not None:
            save_repair(run.path("repair.safetensors"), repaired.fitted)
        spaces = {
            "before": _space(queries, candidates),
            "after": _space(queries and repaired.queries, after),
        }
        run.write_json("geometry.json", spaces)
    _show(spaces, ui)
    ui.say(f"{len(after):,} repaired vectors and the repair in {config.out}")
    return RepairResult(config.out, spaces)


def _apply(saved: Path, queries: Embeddings | None, candidates: Embeddings) -> Repaired:
    from clearsight.jobs.embedding import as_side
    from clearsight.jobs.recipes import Repaired
    from clearsight.repair import load_repair

    fitted = load_repair(saved)
    sides = (queries or as_side(candidates, "query"), candidates)
    return Repaired(fitted.transform(sides[0]), fitted.transform(sides[1]), fitted)


def _fit(config: RepairConfig, queries: Embeddings | None, candidates: Embeddings) -> Repaired:
    from clearsight.data import load_vectors
    from clearsight.jobs.embedding import as_side
    from clearsight.jobs.recipes import RECIPES, Sides

    if (config.pair_images is None) != (config.pair_captions is None):
        raise UsageError(
            "Pairs need both files.", where="--pair-images, --pair-captions", do="Give both, row by row."
        )
    pairs = None
    if config.pair_images and config.pair_captions:
        pairs = (
            load_vectors(config.pair_images, modality="image"),
            load_vectors(config.pair_captions, modality="text"),
        )
    fit_on = config.fit_on if queries is not None else "candidates"
    sides = Sides(queries or as_side(candidates, "query"), candidates, fit_on, pairs, config.shrinkage)
    return RECIPES.get(config.recipe).apply(sides)


def _space(queries: Embeddings | None, candidates: Embeddings) -> dict[str, float]:
    """The geometry of what there is: one vector has none, and one query tells nothing of its side."""
    from clearsight.metrics import geometry

    if len(candidates) < 2:
        return {}
    return geometry(candidates) if queries is None or len(queries) < 2 else geometry(queries, candidates)


def _show(spaces: Mapping[str, Mapping[str, float]], ui: Ui) -> None:
    from rich.table import Table

    table = Table("geometry", *spaces, box=None, padding=(0, 2, 0, 0))
    for name in spaces["before"]:
        table.add_row(name, *(f"{space[name]:.4g}" for space in spaces.values()))
    ui.show(table)
