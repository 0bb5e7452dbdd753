"""`clearsight export`: a model with its prompt, pooling and repair, as a folder for sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import DataError, UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.formats.sentence_transformers import Plan
    from clearsight.models.encoder import Encoder
    from clearsight.repair import PerGroup
    from clearsight.run import Run
    from clearsight.types import Modality


@dataclass(frozen=True)
class ExportConfig:
    """Save a retriever, or a reranker, as a folder that sentence-transformers opens without code of ours.

    Give a MODEL and what was chosen for it, or --run and --recipe: a run of `clearsight evaluate`, which
    knows its model, prompt, pooling and repairs.
    """

    model: Annotated[str | None, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        default=None, metadata={"positional": True}
    )
    out: Annotated[Path, "folder to write"] = Path("runs/export")
    prompt: Annotated[str | None, "prompt name or the path of a TOML file; one_word"] = None
    pooling: Annotated[str | None, "mean, last; with --remote-code every other one too; mean"] = None
    layer: Annotated[int, "as transformers counts hidden_states; -1 is the last, after the final norm"] = -1
    repair: Annotated[Path | None, "a saved repair (.safetensors); none: the vectors as they are"] = None
    run: Annotated[Path | None, "a run of `clearsight evaluate` to take all of this from"] = None
    recipe: Annotated[str | None, "which of the run's repairs, such as realign or self_aligned"] = None
    task: Annotated[str | None, "which of the run's tasks, where it has several"] = None
    scorer: Annotated[
        str | None, "a reranker instead (CrossEncoder): p_true or number; --prompt is then its wording"
    ] = None
    queries: Annotated[
        Literal["text", "image", "image+text"] | None, "the one modality of queries, where they have one"
    ] = None
    candidates: Annotated[
        Literal["text", "image", "image+text"] | None, "the one modality of candidates, likewise"
    ] = None
    remote_code: Annotated[bool, "allow a folder with code in it, where a stock one cannot be"] = False
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], "what the folder's weights are loaded in"] = (
        "float32"
    )
    overwrite: Annotated[bool, "replace an export that is already there"] = False
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class ExportResult:
    folder: Path
    form: str
    reasons: tuple[str, ...]
    limits: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "form": self.form,
            "reasons": list(self.reasons),
            "limits": list(self.limits),
        }


@dataclass(frozen=True)
class _Chosen:
    """What is exported, and what the card tells of where it was measured."""

    model: str
    prompt: str
    pooling: str
    repair: Path | None
    queries: Modality | None
    candidates: Modality | None
    task: str = ""
    outcome: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)


def export(config: ExportConfig, ui: Ui | None = None) -> ExportResult:
    """Write the folder, whole or not at all.

    Raises:
        UsageError: neither a model nor a run, a retriever that is no stock folder (with every reason), a
            place that is taken.
        DataError: the run or the repair cannot be read, or does not fit the model.
        ModelError: as the model says.
    """
    from clearsight.formats.model_card import CardFacts, model_card
    from clearsight.formats.sentence_transformers import Retriever, plan_folder
    from clearsight.formats.sentence_transformers_folder import export_facts, write_export
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model
    from clearsight.pooling import poolings
    from clearsight.repair import load_repair

    ui = ui or Quiet()
    if config.scorer is not None:
        from clearsight.jobs.export_reranker import export_reranker

        return export_reranker(config, config.scorer, ui)
    chosen = _chosen(config)
    repair = None if chosen.repair is None else load_repair(chosen.repair)
    loaded = load_model(chosen.model, device="cpu", trust_remote_code=config.trust_remote_code)
    encoder = Encoder(loaded, prompt=chosen.prompt, pooling=chosen.pooling, layer=config.layer)
    _check_width(encoder, repair, chosen)
    retriever = Retriever(
        loaded,
        encoder.template,
        poolings.get(encoder.pooling),
        config.layer,
        repair,
        chosen.queries,
        chosen.candidates,
    )
    plan = plan_folder(retriever, remote_code=config.remote_code, dtype=config.dtype)
    facts = export_facts(retriever, plan, encoder.origin(counterpart=chosen.candidates))
    facts["outcome"] = chosen.outcome
    card = model_card(CardFacts.of(retriever, plan, chosen.task, chosen.scores))
    write_export(config.out, retriever, plan, facts=facts, card=card, overwrite=config.overwrite)
    return told(config, plan, str(config.run or chosen.model), ui)


def _check_width(encoder: Encoder, repair: PerGroup | None, chosen: _Chosen) -> None:
    """Raises:
    DataError: the repair was fitted on vectors of another width.
    """
    from clearsight.formats.sentence_transformers_repair import heads_of
    from clearsight.types import Item

    if repair is None:
        return
    takes, gives = heads_of(repair).takes, encoder.embed([Item("probe", text="a")]).width
    if takes not in (None, gives):
        raise DataError(
            f"This repair was fitted on vectors of width {takes}; the model's have {gives}.",
            where=str(chosen.repair),
            do="Give the repair of this very model, prompt and pooling.",
        )


def told(config: ExportConfig, plan: Plan, origin: str, ui: Ui) -> ExportResult:
    """Says what was written, and what next."""
    for note in plan.notes:
        ui.say(f"note: {note}")
    form = "stock" if plan.form == "stock" else "with code (trust_remote_code=True)"
    ui.say(f"A folder for sentence-transformers, {form}: {config.out}")
    ui.say("How to use it, and its limits: README.md in it.")
    ui.say(f"Prove it: clearsight verify {config.out} --against {origin}")
    return ExportResult(config.out, plan.form, plan.reasons, plan.limits)


def _chosen(config: ExportConfig) -> _Chosen:
    if config.run is not None:
        return _from_run(config)
    if config.model is None:
        raise UsageError(
            "Give a model or a run.", do="`clearsight export MODEL --repair FILE --out FOLDER`, or --run."
        )
    if config.recipe is not None:
        raise UsageError("A recipe is one of a run.", where="--recipe", do="Give --run, or --repair FILE.")
    return _Chosen(
        config.model,
        config.prompt or "one_word",
        config.pooling or "mean",
        config.repair,
        config.queries,
        config.candidates,
    )


def _from_run(config: ExportConfig) -> _Chosen:
    from clearsight.jobs.judging import label_of
    from clearsight.run import Run

    assert config.run is not None
    given = [name for name in ("prompt", "pooling", "repair") if getattr(config, name) is not None]
    if given:
        raise UsageError(
            f"The run knows its own {' and '.join(given)}.", where="--run", do="Leave these flags out."
        )
    run = Run.open(config.run)
    settings = run.manifest.get("config", {})
    if run.manifest.get("job") != "evaluate" or (settings.get("model") or config.model) is None:
        raise UsageError(
            "This is no run of `clearsight evaluate` with a model.",
            where=str(config.run),
            do="Give MODEL, --prompt, --pooling and --repair FILE instead.",
        )
    task = _task(config, run)
    start = _slug(f"{task} {label_of(run.manifest['origins'][task][0])}")
    outcome = _outcome(run, start, config.recipe)
    file = run.folder / "repairs" / f"{outcome}.safetensors"
    queries, candidates = _sides(config, task, settings)
    return _Chosen(
        config.model or settings["model"],
        settings["prompt"],
        settings["pooling"],
        file if file.is_file() else None,
        queries,
        candidates,
        task,
        outcome,
        run.read_scores()[outcome],
    )


def _task(config: ExportConfig, run: Run) -> str:
    """The run's task, or the one that was named.

    Raises:
        UsageError: several and none named, or one that the run has not.
    """
    names: list[str] = list(run.manifest.get("origins", {}))
    if config.task is None and len(names) == 1:
        return names[0]
    if config.task is None or config.task not in names:
        what = "Which of the run's tasks?" if config.task is None else f"The run has no task '{config.task}'."
        raise UsageError(what, where="--task", do=f"There are: {', '.join(names)}.")
    return config.task


def _outcome(run: Run, start: str, recipe: str | None) -> str:
    """The name of one of the run's outcomes that begin with `start`; the only one needs no recipe.

    Raises:
        UsageError: no such recipe in the run, or several outcomes and none named.
    """
    by_recipe = {_recipe_of(name): name for name in run.read_scores() if name.startswith(f"{start}-")}
    if recipe is None and len(by_recipe) == 1:
        return next(iter(by_recipe.values()))
    if recipe is None or recipe not in by_recipe:
        what = "Which of the run's repairs?" if recipe is None else f"The run has no recipe '{recipe}'."
        raise UsageError(what, where="--recipe", do=f"There are: {', '.join(sorted(by_recipe))}.")
    return by_recipe[recipe]


def _recipe_of(outcome: str) -> str:
    """The recipe at the end of an outcome's name: the longest that fits."""
    from clearsight.jobs.recipes import RECIPES

    fitting = [name for name in RECIPES if outcome.endswith(f"-{name.replace('_', '-')}")]
    return max(fitting, key=len, default=outcome)


def _sides(
    config: ExportConfig, name: str, settings: Mapping[str, Any]
) -> tuple[Modality | None, Modality | None]:
    """The modality of each side: as given, else as the run's task has it, where it has only one."""
    if config.queries is not None or config.candidates is not None:
        return config.queries, config.candidates
    from clearsight.data import load_task
    from clearsight.types import MODALITIES, kinds_of

    known = {key: settings[key] for key in ("data", "n", "seed") if settings.get(key) is not None}
    try:
        task = load_task(name, **known)
    except (DataError, UsageError) as error:
        raise DataError(
            f"The run's task cannot be read to learn the modalities of its sides: {error.what}",
            where=name,
            do="Name them: --queries text --candidates image.",
        ) from error
    queries, candidates = (
        {MODALITIES[k] for k in set(kinds_of(side).tolist())} for side in (task.queries, task.candidates)
    )
    return (
        queries.pop() if len(queries) == 1 else None,
        candidates.pop() if len(candidates) == 1 else None,
    )


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
