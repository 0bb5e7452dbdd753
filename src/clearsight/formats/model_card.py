"""The model card of an exported retriever, by huggingface_hub's own ModelCard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearsight.formats.cross_encoder import PairJudge
    from clearsight.formats.sentence_transformers import Plan, Retriever
    from clearsight.types import Score

_NEEDS = "sentence-transformers 6.2 or newer, and torchvision where the model's processor asks for it."
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    Attributes:
        base: the base model as the user named it.
        task: where the scores were measured.
        scores: measure -> score of that run; empty where there was none.
        recentred: whether those scores were measured on rows centred on their own mean.
    """

    base: str
    revision: str
    prompt: str
    pooling: str
    layer: int
    remote: bool
    mixed_batches: bool
    modalities: tuple[str, ...]
    repair: str
    folded: tuple[str, ...]
    limits: tuple[str, ...]
    reasons: tuple[str, ...]
    task: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)
    recentred: bool = False

    @classmethod
    def of(cls, retriever: Retriever, plan: Plan, task: str, scores: Mapping[str, Score]) -> CardFacts:
        from clearsight.repair import PerGroup, SelfAlign

        repair = retriever.repair
        estimator = repair.estimator if isinstance(repair, PerGroup) else repair
        return cls(
            base=retriever.loaded.name,
            revision=retriever.loaded.revision,
            prompt=retriever.template.name,
            pooling=retriever.pooling.name,
            layer=retriever.layer,
            remote=plan.form != "stock",
            mixed_batches=plan.mixed_batches,
            modalities=plan.modalities,
            repair="none" if estimator is None else type(estimator).__name__,
            folded=plan.folded,
            limits=plan.limits,
            reasons=plan.reasons,
            task=task,
            scores=scores,
            recentred=bool(scores) and isinstance(estimator, SelfAlign),
        )


def model_card(facts: CardFacts) -> str:
    """README.md: metadata and text."""
    from huggingface_hub import ModelCard, ModelCardData

    known: dict[str, Any] = {"base_model": facts.base} if _HUB_ID.fullmatch(facts.base) else {}
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[
            "sentence-transformers",
            "feature-extraction",
            "clearsight",
            *(["multimodal"] if len(facts.modalities) > 1 else []),
            *(["custom_code"] if facts.remote else []),
        ],
        **known,
    )
    parts = [_head(facts), _usage(facts), _made(facts), _scores(facts), _limits(facts)]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n")
    return str(card)


def _head(facts: CardFacts) -> str:
    return (
        f"# A retriever made from {facts.base}\n\n"
        "A generative or contrastive model used as an embedding model, written by Clearsight. "
        f"It embeds {', '.join(facts.modalities)}; compare vectors by cosine."
    )


def _usage(facts: CardFacts) -> str:
    trust = ", trust_remote_code=True" if facts.remote else ""
    both = "image+text" in facts.modalities
    lines = [
        "from PIL import Image",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("FOLDER"{trust})',
        'image = Image.open("photo.jpg")',
        'queries = model.encode_query(["a red square above a circle"])',
        "documents = model.encode_document([image])",
        *(
            ['both = model.encode_document([{"image": image, "text": "what it shows"}])  # image first']
            if both
            else []
        ),
        "print(model.similarity(queries, documents))",
    ]
    code = "\n".join(lines)
    remote = ""
    if facts.remote:
        remote = "\n\nIt runs `clearsight_modules.py` of this folder, because: " + " ".join(facts.reasons)
    return f"## Use\n\n```python\n{code}\n```\n\nNeeds {_NEEDS}{remote}"


def _made(facts: CardFacts) -> str:
    layer = "the last" if facts.layer == -1 else str(facts.layer)
    rows = [
        ("base model", f"{facts.base}, revision {facts.revision}"),
        ("prompt", f"{facts.prompt} (in the chat template)"),
        ("pooling", f"{facts.pooling}, layer {layer}"),
        ("repair", facts.repair),
        *(("folded, in float32", text) for text in facts.folded),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## How it was made\n\n| | |\n|---|---|\n{table}"


def _scores(facts: CardFacts) -> str:
    if not facts.scores:
        return ""
    rows = "\n".join(
        f"| {name} | {score.mean:.4f} | {score.low:.4f} .. {score.high:.4f} | {score.chance:.4f} | "
        f"{score.judged} |"
        for name, score in facts.scores.items()
    )
    note = (
        "\n\nThese scores were measured on rows centred on the mean of their own set; the folder keeps the "
        "means of the fit, so its scores differ."
        if facts.recentred
        else ""
    )
    return (
        f"## Scores\n\nOn {facts.task}, by Clearsight, before this folder was written.\n\n"
        "| measure | mean | 95% interval | chance | queries |\n|---|---|---|---|---|\n"
        f"{rows}{note}"
    )


def _limits(facts: CardFacts) -> str:
    return "## Limits\n\n" + "\n".join(f"* {limit}" for limit in facts.limits)


def reranker_card(judge: PairJudge, plan: Plan) -> str:
    """README.md of a reranker: metadata and text."""
    from huggingface_hub import ModelCard, ModelCardData

    base, scorer = judge.loaded.name, judge.scorer
    known: dict[str, Any] = {"base_model": base} if _HUB_ID.fullmatch(base) else {}
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="text-ranking",
        tags=["sentence-transformers", "cross-encoder", "reranker", "clearsight", "multimodal"],
        **known,
    )
    words = ", ".join(f"`{word}`" for word in scorer.form.words.words)
    rows = [
        ("base model", f"{base}, revision {judge.loaded.revision}"),
        ("score", f"{scorer.name}: the next token among {words}"),
        ("wording", f"{scorer.phrasing.name} (in the chat template)"),
        ("head, in float32", plan.folded[0]),
    ]
    parts = [
        f"# A reranker made from {base}\n\nA generative model that judges pairs without training, written by "
        "Clearsight. Each side is a text, an image, or both.",
        f"## Use\n\n```python\n{_RERANK}\n```\n\nNeeds {_NEEDS}",
        "## How it was made\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows),
        "## Limits\n\n" + "\n".join(f"* {limit}" for limit in plan.limits),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


_RERANK = """\
from PIL import Image
from sentence_transformers import CrossEncoder

model = CrossEncoder("FOLDER")
images = [Image.open("first.jpg"), Image.open("second.jpg")]
print(model.rank("a red square above a circle", images))"""
