"""A retriever (model, prompt, pooling, layer, repair) as a folder that sentence-transformers opens.

A stock folder needs no code of ours: Transformer, Pooling, then Normalize and Dense for each layer of the
repair, and a last Normalize. Queries and candidates repaired apart go through a Router. The prompt is in the
chat template. What stock modules cannot do is refused with its reason, or, on request, done by one readable
file in the folder (`trust_remote_code=True`).

    config.json, *.safetensors, tokenizer ...   the base model's own (hard links where possible)
    modules.json, 1_Pooling, 2_Normalize ...    what sentence-transformers reads
    chat_template.jinja                         the prompt, then the model's own chat template
    clearsight/export.json, repair.safetensors  where the folder comes from; nothing reads it to embed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from clearsight.errors import UsageError
from clearsight.formats.sentence_transformers_modules import ROUTES, Modules
from clearsight.formats.sentence_transformers_repair import Heads, heads_of
from clearsight.formats.sentence_transformers_template import own_chat_template
from clearsight.formats.sentence_transformers_transformer import (
    Dtype,
    contrastive_settings,
    generative_settings,
    loading_settings,
    needs_an_image,
    pooling_settings,
)
from clearsight.models.load import LoadedModel
from clearsight.models.prompts import Rule, Template
from clearsight.pooling import IMAGE, PROMPT, Pooling
from clearsight.repair import PerGroup, Repair
from clearsight.types import ROLES, Modality, Role

Form: TypeAlias = Literal["stock", "remote code"]

STOCK_POOLINGS = {"mean": "mean", "last": "lasttoken"}


@dataclass(frozen=True, eq=False)
class Retriever:
    """What is exported.

    Attributes:
        loaded: the base model.
        template: how items are worded.
        pooling: a row of `poolings`.
        layer: as transformers counts `hidden_states`.
        repair: fitted, or None.
        queries, candidates: the only modality of a side, where it has one; fixes wordings that depend on the
            other side, and turns a repair by modality into one by role.
    """

    loaded: LoadedModel
    template: Template
    pooling: Pooling
    layer: int = -1
    repair: PerGroup | Repair | None = None
    queries: Modality | None = None
    candidates: Modality | None = None

    @property
    def generation_prompt(self) -> bool:
        asked = self.template.generation_prompt
        return self.pooling.positions == "last" if asked == "auto" else asked

    @property
    def counterparts(self) -> dict[Role, Modality | None]:
        return {"query": self.candidates, "candidate": self.queries}


@dataclass(frozen=True, eq=False)
class Plan:
    """The folder as values, before anything is written.

    Attributes:
        form: "stock", or "remote code".
        reasons: why it is not stock; empty where it is.
        files: name -> JSON value of every settings file.
        texts: name -> text, the chat template among them.
        tensors: module's folder -> name -> values, to be written in float32.
        limits: sentences for the card, about what the folder does differently from Clearsight.
        notes: those of them that are not true of every folder.
        mixed_batches: whether one batch may hold items of different modalities.
        modalities: what it embeds.
    """

    form: Form
    reasons: tuple[str, ...]
    files: Mapping[str, Any]
    texts: Mapping[str, str]
    tensors: Mapping[str, Mapping[str, Any]]
    limits: tuple[str, ...]
    notes: tuple[str, ...]
    mixed_batches: bool
    modalities: tuple[Modality, ...]
    folded: tuple[str, ...] = field(default=())


def plan_folder(retriever: Retriever, *, remote_code: bool = False, dtype: Dtype = "float32") -> Plan:
    """What the folder will hold.

    Args:
        remote_code: allow a folder with code of ours where stock modules do not do.
        dtype: the weights are loaded in it, unless the caller of sentence-transformers says otherwise.

    Raises:
        UsageError: stock modules cannot do it and `remote_code` is off (every reason is named), or code of
            ours cannot either.
        DataError: the repair lacks a group.
    """
    heads = heads_of(retriever.repair, queries=retriever.queries, candidates=retriever.candidates)
    never = _not_even_remote(retriever)
    if never:
        raise UsageError(" ".join(never), where=retriever.loaded.name, do="Use `clearsight embed` instead.")
    reasons = _not_stock(retriever, heads)
    if reasons and not remote_code:
        raise UsageError(
            f"This retriever is no stock sentence-transformers folder. {' '.join(reasons)}",
            where=retriever.loaded.name,
            do="Change that, or give --remote-code: a folder with a small file of code in it, which loads "
            "with trust_remote_code=True.",
        )
    contrastive = retriever.loaded.kind == "contrastive"
    transformer, texts = (contrastive_settings if contrastive else generative_settings)(
        retriever, remote=bool(reasons)
    )
    transformer |= loading_settings(dtype)
    folder = Modules(remote=bool(reasons))
    folder.add("", "Transformer", {"sentence_bert_config.json": transformer})
    if not contrastive:
        mode = STOCK_POOLINGS[retriever.pooling.positions]
        folder.add("Pooling", "Pooling", {"config.json": pooling_settings(retriever.loaded, mode)})
    folder.heads(heads)
    files = dict(folder.files)
    files["modules.json"] = folder.modules
    files["config_sentence_transformers.json"] = {
        "model_type": "SentenceTransformer",
        "similarity_fn_name": "cosine",
        **_prompts(retriever, remote=bool(reasons)),
    }
    mixed = bool(reasons) or not (contrastive or needs_an_image(retriever.loaded))
    fused = not contrastive or bool(reasons)
    notes = _notes(retriever, heads, mixed)
    return Plan(
        form="remote code" if reasons else "stock",
        reasons=tuple(reasons),
        files=files,
        texts=texts,
        tensors=folder.tensors,
        limits=(*_limits(retriever), *notes),
        notes=tuple(notes),
        mixed_batches=mixed and not needs_an_image(retriever.loaded),
        modalities=("text", "image", "image+text") if fused else ("text", "image"),
        folded=tuple(_folded(heads)),
    )


# What stock modules cannot do


def _not_stock(retriever: Retriever, heads: Heads) -> list[str]:
    """Reasons against a stock folder, a sentence each."""
    loaded, pooling = retriever.loaded, retriever.pooling
    reasons = []
    if pooling.leaves_out:
        what = " and ".join({IMAGE: "image", PROMPT: "prompt"}[kind] for kind in pooling.leaves_out)
        reasons.append(f"Its mean leaves out {what} tokens, which no stock pooling can.")
    elif pooling.stream == "attention":
        reasons.append(f"Pooling '{pooling.name}' reads states that the model does not give out.")
    if heads.by == "modality":
        reasons.append(
            "Its repair differs by modality, and stock modules cannot tell modalities apart after pooling; "
            "if each side has one modality, name both (--queries text --candidates image)."
        )
    if loaded.kind == "contrastive" and _prefixes(retriever) is None:
        reasons.append(
            f"The prompt '{retriever.template.name}' writes behind the text, and a contrastive model has no "
            "chat template that could; use --prompt plain."
        )
    if loaded.kind == "contrastive" and "image+text" in (retriever.queries, retriever.candidates):
        reasons.append("A contrastive model has no stock input of image and text in one.")
    if "auto_map" in loaded.model.config.to_dict():
        reasons.append("The base model itself runs code from its repository.")
    return reasons


def _not_even_remote(retriever: Retriever) -> list[str]:
    loaded = retriever.loaded
    reasons = []
    if retriever.template.form != "chat":
        reasons.append(f"A prompt in the form '{retriever.template.form}' is worded by code of its own.")
    if loaded.kind == "generative" and own_chat_template(loaded) is None:
        reasons.append(f"The family '{loaded.family.name}' words its inputs by code of its own.")
    if PROMPT in retriever.pooling.leaves_out and needs_an_image(loaded):
        reasons.append(f"The processor of '{loaded.family.name}' rewrites texts, which hides prompt tokens.")
    return reasons


def _prefixes(retriever: Retriever) -> dict[Role, str] | None:
    """Role -> what the prompt writes before a text; None where it writes anything behind it."""
    found: dict[Role, str] = {}
    for role in ROLES:
        rule = _rule(retriever, role)
        if rule is None or rule.after or rule.instruction:
            return None
        found[role] = (f"{rule.system}\n" if rule.system else "") + rule.before
    return found


def _rule(retriever: Retriever, role: Role) -> Rule | None:
    counterpart = retriever.counterparts[role]
    return next((rule for rule in retriever.template.rule if rule.fits(role, "text", counterpart)), None)


# What the card says


def _prompts(retriever: Retriever, *, remote: bool) -> dict[str, Any]:
    """A generative model's prompt is in its chat template; what a caller gives as a prompt is the item's
    instruction there. A contrastive model's can only be a prefix."""
    empty = {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}
    prefixes = _prefixes(retriever) if retriever.loaded.kind == "contrastive" and not remote else None
    if prefixes is None or not any(prefixes.values()):
        return empty
    named = {ROUTES[role]: prefix for role, prefix in prefixes.items()}
    return {"prompts": named, "default_prompt_name": "document"}


def _limits(retriever: Retriever) -> list[str]:
    """What is true of every folder."""
    limits = [
        "`encode` treats an item as a document (candidate); use `encode_query` for queries.",
        "Load it in float32, as it asks for: in bfloat16 the Dense layers of a repair are cast too.",
        "A text that spells one of the model's control tokens is read as that token; Clearsight reads it as "
        "text.",
        "An item longer than the model's context is cut at the end of the whole, not of its own text.",
    ]
    if retriever.loaded.kind == "generative":
        limits.insert(
            1, "A `prompt` given to `encode` is the item's instruction, where the prompt has a place for one."
        )
    if retriever.repair is not None:
        limits.append("The repair uses the statistics it was fitted with; it never centres on a batch.")
    return limits


def _notes(retriever: Retriever, heads: Heads, mixed: bool) -> list[str]:
    """What is true of this one."""
    notes = []
    if not mixed:
        notes.append("Texts and images go in calls of their own: one batch cannot hold both.")
    elif needs_an_image(retriever.loaded):
        notes.append("Texts alone and items with an image go in calls of their own (its processor).")
    if heads.by == "role":
        notes.append(
            "Queries and documents are repaired apart: the wrong method gives a vector of the wrong space."
        )
    if retriever.queries is not None and retriever.candidates is not None:
        notes.append(
            f"Made for {retriever.queries} queries and {retriever.candidates} documents; others are worded "
            "and repaired as if they were these."
        )
    return notes


def _folded(heads: Heads) -> list[str]:
    return [
        f"{key}: " + ", then ".join(_layer_words(layer.normalize, layer.affine) for layer in layers)
        for key, layers in heads.layers.items()
        if layers
    ]


def _layer_words(normalize: bool, affine: Any) -> str:
    width, out = affine.matrix_DE.shape
    return f"{'norm, ' if normalize else ''}one Dense {width} x {out}"
