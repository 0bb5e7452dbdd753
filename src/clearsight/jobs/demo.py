"""`clearsight demo`: the main job on the shipped model, offline: chance, repaired, one table, one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clearsight.jobs.ui import Labelled, Quiet, Ui

if TYPE_CHECKING:
    from clearsight.jobs.compare import Outcome
    from clearsight.jobs.embedding import Captioned
    from clearsight.jobs.reranking import Scores
    from clearsight.models.load import LoadedModel
    from clearsight.report import Caption, ReportData, ResultRow
    from clearsight.run import Run
    from clearsight.types import Task

# (prompt, pooling): the papers' base (mean over all tokens) without and with their prompt; the last token.
EMBEDDINGS = (("plain", "mean"), ("one_word", "mean"), ("one_word", "last"))
COMPOSED = EMBEDDINGS[1:]
HEADLINE = ("plain", "mean")
REPAIRS = ("base", "centred", "realign", "realign_chosen", "self_aligned", "refined")
RERANK_TOP = 20
COMPOSED_REPAIRS = ("base", "centred", "realign", "self_aligned")


@dataclass(frozen=True)
class DemoConfig:
    """The main job on the shipped model, offline, in two minutes.

    The model captions scenes it has never seen, embeds scenes and texts, retrieves near chance, is repaired
    without training or labels, and retrieves again; of a sample of queries it judges the first candidates
    itself. One table, and a run folder with a page to look at.
    """

    out: Annotated[Path, "run folder to write"] = Path("runs/demo")
    scenes: Annotated[int, "held-out scenes in the gallery"] = 2000
    unlabelled: Annotated[int, "further scenes that the model captions to align itself"] = 500
    reranked: Annotated[int, "queries each way whose first 20 candidates the model judges again; 0: none"] = (
        50
    )
    seed: Annotated[int, "draws the scenes"] = 0
    cache: Annotated[Path | None, "folder of a vector cache; none: everything is computed"] = None
    overwrite: Annotated[bool, "replace a run that is already there"] = False


@dataclass(frozen=True)
class DemoResult:
    run: Path
    outcomes: tuple[Outcome, ...]
    fine_rows: tuple[ResultRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        from clearsight.report import rows_to_json

        rows = [*(outcome.row() for outcome in self.outcomes), *self.fine_rows]
        return {"run": str(self.run), "rows": rows_to_json(rows)}


def demo(config: DemoConfig, ui: Ui | None = None) -> DemoResult:
    """Caption, embed, rank, repair, rank again, compare with the contrastive control, and write the run."""
    from clearsight.data import world
    from clearsight.jobs.compare import record, write_report
    from clearsight.jobs.embedding import self_caption
    from clearsight.models.captioner import Captioner
    from clearsight.models.load import load_model
    from clearsight.report import render_table
    from clearsight.run import Run

    ui = ui or Quiet()
    with Run.create(config.out, "demo", asdict(config), seed=config.seed, overwrite=config.overwrite) as run:
        i2t = world.image_to_text(config.scenes, config.seed)
        t2i = world.text_to_image(config.scenes, config.seed)
        composed = world.composed(config.scenes // 8, config.seed)
        model = load_model("tiny", head=True)
        unlabelled = world.unlabelled_images(config.unlabelled, config.seed)
        captioned = self_caption(Captioner(model), unlabelled, ui.progress)
        captions = _look(captioned, ui)

        outcomes: list[Outcome] = []
        for prompt, pooling in EMBEDDINGS:
            outcomes += _both_ways(model, config, prompt, pooling, (i2t, t2i), captioned, ui)
        for prompt, pooling in COMPOSED:
            outcomes += _composed(model, config, prompt, pooling, composed, captioned, ui)
        outcomes += _control(config, (i2t, t2i, composed), ui)

        fine_rows, fine_scores = _reranked(run, config, model, outcomes, ui)
        record(run, outcomes, fine_rows, fine_scores)
        write_report(run, _report_data(run, outcomes, fine_rows, captions))
    ui.show(render_table([*(outcome.row() for outcome in outcomes), *fine_rows], ui.width))
    ui.say(f"Look at it: {run.path('report.html')}")
    return DemoResult(config.out, tuple(outcomes), fine_rows)


def _look(captioned: Captioned, ui: Ui, count: int = 6) -> tuple[Caption, ...]:
    """The first captions, checked against their scenes, as a person would look at them."""
    from clearsight.data import world
    from clearsight.jobs.compare import item_card
    from clearsight.report import Caption

    checked = [
        world.caption_is_consistent(text, image)
        for text, image in zip(captioned.texts, captioned.images, strict=True)
    ]
    ui.say(
        f"The model's own captions ({sum(checked)} of {len(checked)} agree with their scene), for example:"
    )
    for text, good in list(zip(captioned.texts, checked, strict=True))[:3]:
        ui.say(f"  {'agrees' if good else 'errs   '[:6]}  {text}")
    return tuple(
        Caption(item_card(image), text, good)
        for image, text, good in zip(captioned.images[:count], captioned.texts, checked, strict=False)
    )


def _both_ways(
    model: LoadedModel,
    config: DemoConfig,
    prompt: str,
    pooling: str,
    tasks: tuple[Task, Task],
    captioned: Captioned,
    ui: Ui,
) -> list[Outcome]:
    """Image -> text and text -> image over the same vectors and the same repairs: these prompts word both
    sides alike, so that the second is the first with its sides exchanged."""
    from clearsight.jobs.compare import judge
    from clearsight.jobs.embedding import embed_pairs, embed_task
    from clearsight.jobs.recipes import RECIPES, Sides
    from clearsight.models.encoder import Encoder

    i2t, t2i = tasks
    encoder = Encoder(model, prompt=prompt, pooling=pooling, cache=config.cache)
    images, texts = embed_task(encoder, i2t, ui.progress)
    sides = Sides(images, texts, pairs=embed_pairs(encoder, captioned, i2t, ui.progress))
    progress = Labelled(ui.progress, f"repairs ({pooling}, {prompt})")
    progress.start(len(REPAIRS), "")
    repaired = {}
    for name in REPAIRS:
        repaired[name] = RECIPES.get(name).apply(sides)
        progress.advance()
    progress.close()
    words, shape = f"{pooling}, {prompt}", (prompt, pooling) == HEADLINE
    turned = {name: one.turned() for name, one in repaired.items()}
    return [
        *judge(i2t, repaired, embedding=words, task_label="image -> text", k=RERANK_TOP, with_geometry=shape),
        *judge(t2i, turned, embedding=words, task_label="text -> image", k=RERANK_TOP, with_geometry=False),
    ]


def _composed(
    model: LoadedModel,
    config: DemoConfig,
    prompt: str,
    pooling: str,
    task: Task,
    captioned: Captioned,
    ui: Ui,
) -> list[Outcome]:
    """Image + edit -> edited image, beside what the image alone and the edit alone would find."""
    from clearsight.jobs.compare import compare
    from clearsight.jobs.embedding import embed_pairs, embed_task
    from clearsight.jobs.recipes import Sides
    from clearsight.models.encoder import Encoder
    from clearsight.types import Item

    encoder = Encoder(model, prompt=prompt, pooling=pooling, cache=config.cache)
    pairs = embed_pairs(encoder, captioned, task, ui.progress)
    queries, candidates = embed_task(encoder, task, ui.progress)
    alone = {
        "image only": [Item(query.id, image=query.image) for query in task.queries],
        "text only": [Item(query.id, text=query.text) for query in task.queries],
    }
    embedded = {"": queries}
    for note, items in alone.items():
        labelled = Labelled(ui.progress, f"queries, {note} ({pooling}, {prompt})")
        embedded[note] = encoder.embed(items, "query", counterpart="image", progress=labelled)
    outcomes = []
    for note, rows in embedded.items():
        outcomes += compare(
            task,
            Sides(rows, candidates, pairs=pairs),
            COMPOSED_REPAIRS if not note else ("base", "self_aligned"),
            embedding=f"{pooling}, {prompt}",
            task_label="image + edit -> image",
            note=note,
            with_geometry=False,
        )
    return outcomes


def _control(config: DemoConfig, tasks: tuple[Task, Task, Task], ui: Ui) -> list[Outcome]:
    """The contrastive model trained on the same world: what a model made for retrieval does as it is."""
    from clearsight.jobs.compare import judge
    from clearsight.jobs.embedding import embed_task
    from clearsight.jobs.recipes import RECIPES, Sides
    from clearsight.models.encoder import Encoder

    encoder, base = Encoder.load("tiny-contrastive", cache=config.cache), RECIPES.get("base")
    i2t, t2i, composed = tasks
    both_ways, edited = (
        base.apply(Sides(*embed_task(encoder, task, ui.progress))) for task in (i2t, composed)
    )
    outcomes = []
    for task, label, repaired in (
        (i2t, "image -> text", both_ways),
        (t2i, "text -> image", both_ways.turned()),
        (composed, "image + edit -> image", edited),
    ):
        outcomes += judge(
            task,
            {"base": repaired},
            embedding="contrastive control",
            task_label=label,
            with_geometry=False,
        )
    return outcomes


def _reranked(
    run: Run, config: DemoConfig, model: LoadedModel, outcomes: Sequence[Outcome], ui: Ui
) -> tuple[tuple[ResultRow, ...], Scores]:
    """The headline's last repair, both ways, its first candidates judged again by likelihood: a sample."""
    from clearsight.jobs.reranking import Fine, again

    if config.reranked == 0:
        return (), {}
    cache = None if config.cache is None else config.cache / "answers"
    fine = Fine(
        ("likelihood",),
        RERANK_TOP,
        min(config.reranked, config.scenes),
        config.seed,
        options={"cache": cache},
    )
    judges = again(model, fine, ui.progress)
    headline = f"{HEADLINE[1]}, {HEADLINE[0]}"
    rows: list[ResultRow] = []
    scores: Scores = {}
    for outcome in outcomes:
        if (outcome.embedding, outcome.recipe, outcome.note) == (headline, REPAIRS[-1], ""):
            more, by_name, _ = judges(run, outcome)
            rows += more
            scores |= by_name
    return tuple(rows), scores


def _report_data(
    run: Run,
    outcomes: Sequence[Outcome],
    fine_rows: tuple[ResultRow, ...],
    captions: tuple[Caption, ...],
) -> ReportData:
    from clearsight.jobs.compare import curves, examples, provenance
    from clearsight.report import ReportData

    headline, composed = (f"{pooling}, {prompt}" for prompt, pooling in (HEADLINE, COMPOSED[0]))
    found = {(o.task_label, o.embedding, o.recipe, o.note): o for o in outcomes}

    def pick(label: str, recipe: str, embedding: str = headline) -> Outcome:
        return found[label, embedding, recipe, ""]

    before, after = pick("image -> text", "base"), pick("image -> text", "refined")
    measure = before.task.measures[0]
    score = (before.scores[measure], after.scores[measure])
    shown = [
        *examples(before, after, 4),
        *examples(pick("text -> image", "base"), pick("text -> image", "refined"), 4),
        *examples(
            pick("image + edit -> image", "base", composed),
            pick("image + edit -> image", "self_aligned", composed),
            4,
        ),
    ]
    return ReportData(
        title="Clearsight on its shipped model",
        summary=f"Image to text, hit rate@1 among {len(before.task.candidates):,}: {score[0].mean:.1%} as "
        f"the model is, {score[1].mean:.1%} repaired without training or labels; "
        f"chance is {score[0].chance:.2%}.",
        rows=(*(outcome.row() for outcome in outcomes), *fine_rows),
        examples=tuple(shown),
        captions=captions,
        curves=curves(outcomes),
        geometry=tuple(outcome.geometry_row() for outcome in outcomes if outcome.geometry),
        skipped=(),
        warnings=(),
        manifest=provenance(run),
        commands=("clearsight demo",),
    )
