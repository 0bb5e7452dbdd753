"""Retrievers to export, small ones of every kind, and the items that they are asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.data import open_image
from clearsight.data.world import composed
from clearsight.formats.sentence_transformers import Plan, Retriever, plan_folder
from clearsight.formats.sentence_transformers_folder import export_facts, write_export
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.pooling import poolings
from clearsight.repair import Centre, Chain, PerGroup, SelfAlign, ShrinkageZCA
from clearsight.types import Embeddings, Item
from families.build import BUILDERS

Fit = Callable[[Embeddings, Embeddings], Any]


def make_items(folder: Path) -> tuple[list[Item], list[dict[str, Any]]]:
    """Four texts, four images, four of both; and the same as the other process opens them."""
    queries = composed(4).queries
    items = [Item(f"text {n}", text=query.text) for n, query in enumerate(queries)]
    items += [Item(f"image {n}", image=query.image) for n, query in enumerate(queries)]
    items += [Item(f"both {n}", query.text, query.image) for n, query in enumerate(queries)]
    rows = []
    for place, item in enumerate(items):
        file = None
        if item.image is not None:
            file = str(folder / f"{place}.png")
            open_image(item.image).save(file)
        rows.append({"text": item.text, "image": file})
    return items, rows


def by_side(queries: Embeddings, candidates: Embeddings) -> PerGroup:
    return PerGroup(ShrinkageZCA(), by="side").fit(queries, candidates)


def by_modality(queries: Embeddings, candidates: Embeddings) -> PerGroup:
    return PerGroup(ShrinkageZCA(), by="modality").fit(queries, candidates)


def jointly(queries: Embeddings, candidates: Embeddings) -> PerGroup:
    return PerGroup(ShrinkageZCA(shrinkage=0.3), by="joint").fit(queries, candidates)


def chained(queries: Embeddings, candidates: Embeddings) -> PerGroup:
    """Two steps that fold into one, by side."""
    return PerGroup(Chain([Centre(), ShrinkageZCA()]), by="side").fit(queries, candidates)


def chained_with_norms(queries: Embeddings, candidates: Embeddings) -> PerGroup:
    """Two steps with a norm between them, which do not."""
    return PerGroup(Chain([Centre(), ShrinkageZCA()], normalize_between=True), by="joint").fit(candidates)


def aligned(queries: Embeddings, candidates: Embeddings) -> PerGroup:
    images, texts = (candidates.take(candidates.modality_N == kind) for kind in ("image", "text"))
    return PerGroup(SelfAlign(components=4)).fit_pairs(images, texts)


@dataclass(frozen=True)
class Form:
    """One retriever: a family of `families.build` or a shipped model, and what was chosen for it."""

    model: str
    prompt: str = "one_word"
    pooling: str = "mean"
    fit: Fit | None = None
    layer: int = -1
    sides: Mapping[str, Any] = field(default_factory=dict)
    remote: bool = False


@dataclass(frozen=True)
class Made:
    """An exported folder and Clearsight's own unit vectors of the items, by role."""

    folder: Path
    plan: Plan
    items: tuple[int, ...]
    rows: Mapping[str, np.ndarray]
    ids: Mapping[str, list[list[int]]]


def make(form: Form, folder: Path, items: list[Item], models: Path) -> Made:
    place = models / form.model
    shipped = form.model.startswith("tiny")
    if not shipped and not place.exists():
        BUILDERS[form.model](place)
    loaded = load_model(form.model if shipped else place)
    encoder = Encoder(loaded, prompt=form.prompt, pooling=form.pooling, layer=form.layer)
    fused = form.remote or loaded.kind == "generative"
    chosen = [n for n, item in enumerate(items) if fused or item.modality != "image+text"]
    kept = [items[n] for n in chosen]
    queries = encoder.embed(kept, "query", counterpart=form.sides.get("candidates"))
    candidates = encoder.embed(kept, "candidate", counterpart=form.sides.get("queries"))
    repair = None if form.fit is None else form.fit(queries, candidates)
    pooling = poolings.get(encoder.pooling)
    retriever = Retriever(loaded, encoder.template, pooling, form.layer, repair, **form.sides)
    plan = plan_folder(retriever, remote_code=form.remote)
    write_export(
        folder, retriever, plan, facts=export_facts(retriever, plan, encoder.origin()), card="# card"
    )
    rows = {
        role: unit(side if repair is None else repair.transform(side))
        for role, side in (("query", queries), ("candidate", candidates))
    }
    preparer = encoder.preparer(pooling)
    ids = {
        role: [
            preparer(
                item,
                role,
                None if item.image is None else open_image(item.image),
                counterpart=form.sides.get("candidates" if role == "query" else "queries"),
            ).ids_L.tolist()
            for item in kept
        ]
        for role in ("query", "candidate")
    }
    return Made(folder, plan, tuple(chosen), rows, ids)


def unit(embeddings: Embeddings) -> np.ndarray:
    return embeddings.rows_ND / np.linalg.norm(embeddings.rows_ND, axis=1, keepdims=True)
