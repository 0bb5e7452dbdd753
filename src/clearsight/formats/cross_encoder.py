"""A reranker (model, scorer, wording) as a stock CrossEncoder folder of sentence-transformers.

Transformer, Pooling (the last token), then Dense layers that hold the language head's rows of the answers'
tokens (`cross_encoder_head`); the wording is in the chat template (`cross_encoder_template`). The base model
is loaded without its head, and no logits of the whole vocabulary exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clearsight.errors import UsageError
from clearsight.formats.cross_encoder_head import SIGMOID, Layer, expected_place, run, tokens_of
from clearsight.formats.cross_encoder_template import images_out_of_order, pair_template
from clearsight.formats.sentence_transformers import Plan
from clearsight.formats.sentence_transformers_modules import Modules
from clearsight.formats.sentence_transformers_template import own_chat_template
from clearsight.formats.sentence_transformers_transformer import (
    Dtype,
    loading_settings,
    needs_an_image,
    pooling_settings,
    token_settings,
)
from clearsight.models.load import LoadedModel
from clearsight.rerank import Reranker
from clearsight.types import Item

FORMS: Mapping[str, str] = {"p_true": "true_false", "number": "digit"}
"""Scorers whose score is read off one answer to one prompt a pair -> the form of the wording."""

_TOGETHER = "shows the model all candidates of a query in one prompt, and a CrossEncoder sees one pair"
WHY_NOT: Mapping[str, str] = {
    "choice": "asks twice a pair, with the labels in both orders, and a CrossEncoder reads a pair once",
    "listwise": _TOGETHER,
    "listwise_release": _TOGETHER,
    "likelihood": "adds up the probabilities of a whole text, with and without the other side",
    "likelihood_plain": "adds up the probabilities of a whole text",
    "number_paper": "lets the model write its answer",
    "p_true_release": "cuts its score to two decimals and breaks ties by an entropy",
}
AGREES = 1e-3
"""Largest difference of scores between the layers and the model's own head that counts as none."""


@dataclass(frozen=True, eq=False)
class PairJudge:
    """What is exported: a reranker with a built-in scorer, no tie-break."""

    reranker: Reranker

    @property
    def scorer(self) -> Any:
        return self.reranker.scorer

    @property
    def loaded(self) -> LoadedModel:
        loaded: LoadedModel = self.scorer.judge.loaded
        return loaded

    @property
    def repair(self) -> None:
        return None


def plan_reranker(judge: PairJudge, *, dtype: Dtype = "float32") -> Plan:
    """What the folder will hold.

    Raises:
        UsageError: no CrossEncoder of stock modules gives these scores; the message says why.
    """
    reasons = _not_stock(judge)
    if reasons:
        raise UsageError(
            f"This reranker is no stock CrossEncoder. {' '.join(reasons)}",
            where=judge.loaded.name,
            do=f"Choose one of {', '.join(FORMS)}, or use `clearsight rerank` instead.",
        )
    loaded, phrasing = judge.loaded, judge.scorer.phrasing
    own = own_chat_template(loaded)
    assert own is not None, "refused before"
    several = loaded.family.several_images
    template = pair_template(phrasing, FORMS[judge.scorer.name], own, several_images=several)
    layers, activation = _layers(judge)
    folder = _modules(loaded, template, layers, dtype)
    files = {
        **folder.files,
        "modules.json": folder.modules,
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": activation,
            "prompts": {},
            "default_prompt_name": None,
        },
    }
    return Plan(
        form="stock",
        reasons=(),
        files=files,
        texts={"chat_template.jinja": template},
        tensors=folder.tensors,
        limits=(*LIMITS, *_notes(judge)),
        notes=tuple(_notes(judge)),
        mixed_batches=not needs_an_image(loaded),
        modalities=("text", "image", "image+text"),
        folded=(f"the language head's rows of the answers' tokens: {len(layers)} Dense",),
    )


def reranker_facts(judge: PairJudge, plan: Plan) -> dict[str, Any]:
    """What clearsight/export.json holds: enough to score the same pairs with Clearsight."""
    import clearsight

    scorer = judge.scorer
    return {
        "clearsight": clearsight.__version__,
        "form": plan.form,
        "scorer": scorer.name,
        "phrasing": scorer.phrasing.name,
        "model": judge.loaded.name,
        "revision": judge.loaded.revision,
        "answers": {"words": scorer.form.words.words, "tokens": scorer.form.words.sets},
        "several_images": judge.loaded.family.several_images,
        "limits": plan.limits,
        "mixed_batches": plan.mixed_batches,
        "modalities": plan.modalities,
    }


LIMITS = (
    'Give pairs (query, document): each a text, an image, or {"image": ..., "text": ...}, the image first.',
    "A `prompt` is the query's instruction, where the wording has a place for one.",
    "Load it in float32, as it asks for: bfloat16 moves the scores.",
    "A text that spells one of the model's control tokens is read as that token; Clearsight reads it as "
    "text.",
)


def _notes(judge: PairJudge) -> list[str]:
    notes = []
    if not judge.loaded.family.several_images:
        notes.append("The model reads one image a prompt: a pair of two images is refused.")
    if needs_an_image(judge.loaded):
        notes.append("Pairs of texts and pairs with an image go in calls of their own (its processor).")
    return notes


def _not_stock(judge: PairJudge) -> list[str]:
    scorer, loaded = judge.scorer, judge.loaded
    if scorer.name not in FORMS:
        return [f"The scorer '{scorer.name}' {WHY_NOT.get(scorer.name, 'is not one prompt a pair')}."]
    reasons = []
    if judge.reranker.tie != "none":
        reasons.append("Ties are broken by a second prompt.")
    if own_chat_template(loaded) is None:
        reasons.append(f"The family '{loaded.family.name}' words its inputs by code of its own.")
    if scorer.form.words.how == "whole words":
        reasons.append("The tokenizer splits the answers, so each is scored as a text of its own.")
    swapped = images_out_of_order(scorer.phrasing, FORMS[scorer.name]) if loaded.family.several_images else []
    if swapped:
        pairs = " and ".join(f"{query} with {candidate}" for query, candidate in swapped)
        reasons.append(f"The wording shows the candidate's image first for {pairs}; a processor cannot.")
    if "auto_map" in loaded.model.config.to_dict():
        reasons.append("The base model itself runs code from its repository.")
    return reasons or _other_head(judge)


def _sets(judge: PairJudge) -> tuple[tuple[int, ...], ...]:
    """The answers' tokens, the worst answer first."""
    sets: tuple[tuple[int, ...], ...] = judge.scorer.form.words.sets
    return sets[::-1] if judge.scorer.name == "p_true" else sets


def _layers(judge: PairJudge) -> tuple[tuple[Layer, ...], str]:
    loaded, sets = judge.loaded, _sets(judge)
    head: Any = loaded.model.get_output_embeddings()
    tokens = tokens_of(sets)
    rows_SD, bias_S = (
        None if one is None else one.detach()[tokens].double().cpu().numpy()
        for one in (head.weight, head.bias)
    )
    assert rows_SD is not None
    cap = getattr(loaded.model.config.get_text_config(), "final_logit_softcapping", None)
    return expected_place(sets, rows_SD, bias_S, cap=cap)


def _other_head(judge: PairJudge) -> list[str]:
    """Whether the model does to its logits what no Dense does: both are asked about the same states."""
    scorer, loaded, sets = judge.scorer, judge.loaded, _sets(judge)
    probe = Item("probe", text="a")
    scorer.score(probe, [probe])  # the judge learns what the model returns
    width = loaded.model.config.get_text_config().hidden_size
    random = torch.Generator().manual_seed(0)
    states_TD = torch.randn(8, width, generator=random).to(loaded.device, loaded.dtype)
    with torch.inference_mode():
        logits_TV = scorer.judge.passes.head.logits(states_TD).double().cpu()
    p_TA = torch.stack([logits_TV[:, list(some)].logsumexp(1) for some in sets], 1).softmax(1).numpy()
    layers, activation = _layers(judge)
    found_T = run(layers, states_TD.double().cpu().numpy())
    found_T = 1 / (1 + np.exp(-found_T)) if activation == SIGMOID else found_T
    if abs(found_T - p_TA @ np.arange(len(sets))).max() <= AGREES:
        return []
    return ["The model changes its logits in a way that Dense layers cannot."]


def _modules(loaded: LoadedModel, template: str, layers: tuple[Layer, ...], dtype: Dtype) -> Modules:
    transformer = token_settings(loaded, template, "last_hidden_state") | loading_settings(dtype)
    folder = Modules(remote=False)
    folder.add("", "Transformer", {"sentence_bert_config.json": transformer})
    folder.add("Pooling", "Pooling", {"config.json": pooling_settings(loaded, "lasttoken")})
    for place, layer in enumerate(layers, start=1):
        width, out = layer.matrix_DF.shape
        config: dict[str, Any] = {
            "in_features": width,
            "out_features": out,
            "bias": True,
            "activation_function": layer.activation,
        }
        if place == len(layers):
            config |= {"module_input_name": "sentence_embedding", "module_output_name": "scores"}
        path = folder.add("Dense", "Dense", {"config.json": config})
        folder.tensors[path] = {"linear.weight": layer.matrix_DF.T, "linear.bias": layer.offset_F}
    return folder
