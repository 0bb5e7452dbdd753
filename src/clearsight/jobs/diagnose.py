"""`clearsight diagnose`: why a model retrieves as it does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.autoencoder import SaeOptions
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.concepts.findings import Finding
    from clearsight.jobs.embedding import Captioned
    from clearsight.jobs.examine import Examined, Subject
    from clearsight.types import Task


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(SaeOptions):
    """Show why models retrieve as they do: concepts of a sparse autoencoder, distractors, masks, attention.

    Several models stand side by side, as the paper compares generative with contrastive ones. Every table and
    figure of the paper comes out for these models: as data, as figures, and as one page with a concept
    browser. An interrupted run, called again, goes on from its token states and checkpoints.
    """

    models: Annotated[tuple[str, ...], "model folders, hub ids, `tiny`, `tiny-contrastive`"] = field(
        default=("tiny", "tiny-contrastive"), metadata={"positional": True}
    )
    form: Annotated[
        Literal["centred", "paper"],
        "paper: an autoencoder without bias, as the paper's; the findings depend on it (docs/log.md)",
    ] = "paper"
    data: Annotated[str, "a task that matches images with texts: world/i2t, coco/i2t, or a folder"] = (
        "world/i2t"
    )
    folder: Annotated[Path | None, "folder that holds the task source's files"] = None
    items: Annotated[int | None, "at most so many queries (scenes, rows) of the task"] = 1000
    unlabelled: Annotated[
        str, "images to caption for self-alignment: a folder, or how many of the task's own; 0: none"
    ] = "300"
    prompt: Annotated[str, "prompt name or the path of a TOML file"] = "plain"
    pooling: Annotated[str, "pooling of generative models"] = "mean"
    layer: Annotated[int, "decoder layer, counted from the end; -1 is the last, after the final norm"] = -1
    method: Annotated[Literal["pacmap", "umap", "pca"], "how the map is drawn"] = "pacmap"
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    out: Annotated[Path, "run folder to write"] = Path("runs/diagnose")
    work: Annotated[Path, "folder of token states and checkpoints, kept for a second run"] = Path(
        ".cache/clearsight/diagnose"
    )
    cache: Annotated[Path | None, "folder of a vector cache"] = None
    overwrite: Annotated[bool, "replace a run that is already there"] = False
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class DiagnoseResult:
    run: Path
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "findings": [
                {"claim": one.claim, "verdict": one.verdict.value, "sentence": one.sentence, **one.numbers}
                for one in self.findings
            ],
        }


def diagnose(config: DiagnoseConfig, ui: Ui | None = None) -> DiagnoseResult:
    """Embed, train autoencoders, profile, remove, mask, repair; write tables, figures and the page.

    Raises:
        UsageError: no model, the same model twice, options that do not go together.
        ModelError, DataError, ItemError: as the models, the task or an item say.
    """
    from clearsight.data import load_task
    from clearsight.jobs.diagnosis import findings_of, write_tables
    from clearsight.jobs.diagnosis_page import page_of
    from clearsight.jobs.examine import examine
    from clearsight.report.diagnosis import render_diagnosis
    from clearsight.report.figures import write_figures
    from clearsight.run import Run

    ui = ui or Quiet()
    if not config.models or len(set(config.models)) < len(config.models):
        raise UsageError("Give one or several different models.", where="MODEL")
    with Run.create(config.out, "diagnose", asdict(config), overwrite=config.overwrite) as run:
        task = load_task(config.data, data=config.folder, n=config.items)
        subjects = [_subject(config, name, task, ui) for name in config.models]
        examined: list[Examined] = []
        for place, subject in enumerate(subjects):
            ui.say(f"{subject.name}: {subject.encoder.loaded.kind}")
            others = [other for other in subjects if other is not subject]
            examined.append(
                examine(
                    subject,
                    config,
                    config.work,
                    run.path(f"autoencoders/{_slug(subject.name)}"),
                    other=others[0] if others else None,
                    masked_task=_masked_task(config),
                    captioned=_captions(config, subject, task, ui),
                    progress=ui.progress,
                )
            )
            write_tables(run, _slug(subject.name), examined[place])
        findings = findings_of(examined)
        page = page_of(run, examined, findings, config.method)
        write_figures(page, run.path("figures"))
        run.write_json("findings.json", DiagnoseResult(config.out, findings).to_json()["findings"])
        run.write_text("report.html", render_diagnosis(page))
    for finding in findings:
        ui.say(f"- {finding.sentence}")
    ui.say(f"Look at it: {run.path('report.html')}")
    return DiagnoseResult(config.out, findings)


def _subject(config: DiagnoseConfig, name: str, task: Task, ui: Ui) -> Subject:
    from clearsight.jobs.examine import embed_subject
    from clearsight.models.encoder import Encoder
    from clearsight.models.load import load_model

    head = config.unlabelled != "0"
    loaded = load_model(name, device=config.device, head=head, trust_remote_code=config.trust_remote_code)
    if loaded.kind == "contrastive":
        return embed_subject(Encoder(loaded, cache=config.cache), task, ui.progress)
    encoder = Encoder(
        loaded, prompt=config.prompt, pooling=config.pooling, layer=config.layer, cache=config.cache
    )
    return embed_subject(encoder, task, ui.progress)


def _captions(config: DiagnoseConfig, subject: Subject, task: Task, ui: Ui) -> Captioned | None:
    from clearsight.jobs.embedding import self_caption, unlabelled_images
    from clearsight.models.captioner import Captioner

    loaded = subject.encoder.loaded
    if loaded.kind == "contrastive" or config.unlabelled == "0":
        return None
    return self_caption(Captioner(loaded), unlabelled_images(config.unlabelled, task), ui.progress)


def _masked_task(config: DiagnoseConfig) -> Task | None:
    """The world's composed queries, as the paper's have image and text; another task masks its own."""
    from clearsight.data import world

    if not config.data.startswith("world/"):
        return None
    return world.composed(max(1, (config.items or 2000) // 5))


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in Path(name).name).split()).lower()
