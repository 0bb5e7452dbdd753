"""A diagnosis as uneven as a real one, made of drawn scenes and random numbers; for tests only."""

from __future__ import annotations

import io

import numpy as np

from clearsight.data import world
from clearsight.data.images import open_image
from clearsight.report.data import Card
from clearsight.report.diagnosis import (
    NO_ITEM,
    AttentionEfficiency,
    ConceptTable,
    DiagnosisData,
    EnergyCurve,
    Examples,
    MapView,
    MeasureRow,
    ModalityDensity,
    ModelDiagnosis,
    Overlap,
    OverlapRow,
    RetrievalRow,
)

DIRECTIONS = ("image -> text", "text -> image")


def sample_diagnosis(
    seed: int = 0, *, concepts: int = 240, scenes: int = 60, models: int = 2
) -> DiagnosisData:
    """A generative model beside a contrastive control; pictures first, then their captions."""
    rng = np.random.default_rng(seed)
    items = _items(scenes, seed)
    pairs_Q2 = np.stack([np.arange(scenes), np.arange(scenes) + scenes], axis=1)
    kinds = (("tiny-qwen2vl", "generative"), ("tiny-clip", "contrastive"))[:models]
    return DiagnosisData(
        title="Why a small generator retrieves badly",
        summary="Nine in ten of its concepts fire on pictures alone: a picture and its caption share little.",
        models=tuple(_model(rng, name, kind, concepts, scenes) for name, kind in kinds),
        findings=(
            "91% of the generator's concepts belong to pictures, against 38% of the contrastive control's: "
            "the opposite of what the paper found on large models.",
            "Its strongest 1% of concepts hold 41% of the energy; the control's hold 12%.",
            "Removing the top-attribution subspace (r = 16) changed image -> text by +0.3 points, no more "
            "than random concepts did (p = 0.41).",
            "Leaving the image tokens out of the mean costs 21.0 points.",
        ),
        items=items,
        pairs_Q2=pairs_Q2,
        warnings=("The SAE of tiny-clip was trained on pooled vectors, that of tiny-qwen2vl on tokens.",),
        manifest={"clearsight": "0.2.0", "seed": seed, "model": {"name": "tiny-qwen2vl"}},
        commands=("clearsight diagnose tiny tiny-clip --data world:image-text",),
    )


def _items(scenes: int, seed: int) -> tuple[Card, ...]:
    task = world.image_to_text(scenes, seed)
    pictures = []
    for item in task.queries:
        out = io.BytesIO()
        open_image(item.image).save(out, "PNG")
        pictures.append(Card(item.id, image=out.getvalue()))
    return (*pictures, *(Card(item.id, text=item.text) for item in task.candidates))


def _model(rng: np.random.Generator, name: str, kind: str, count: int, scenes: int) -> ModelDiagnosis:
    generative = kind == "generative"
    energy_C = rng.pareto(0.9 if generative else 2.0, count) * 0.02
    modality_C = rng.beta(0.15, 1.2, count) if generative else rng.beta(0.7, 0.7, count)
    silent = rng.random(count) < 0.06
    dead_C = silent & (rng.random(count) < 0.5)
    energy_C[silent], modality_C[silent] = 0.0, np.nan
    bridge_C = energy_C**2 * rng.lognormal(0, 0.6, count)
    monosemanticity_C = np.where(silent, np.nan, rng.beta(4, 3, count))
    table = ConceptTable(
        energy_C=energy_C,
        modality_C=modality_C,
        firing_rate_C=np.where(silent, 0.0, rng.beta(0.6, 9, count)),
        most=_examples(rng, modality_C, silent, scenes, strong=True),
        least=_examples(rng, modality_C, silent, scenes, strong=False),
        dead_C=dead_C,
        attribution_C=bridge_C * rng.normal(0.6, 0.5, count),
        bridge={"abs": bridge_C, "max": bridge_C * rng.lognormal(0, 0.2, count)},
        monosemanticity_C=monosemanticity_C,
        names=tuple("" if n % 3 else f"zebra, {n}th" for n in range(count)),
    )
    return ModelDiagnosis(
        name,
        table,
        kind,
        f"SAE of width 192, {count:,} concepts, batchtopk, k = 16.",
        ("Concepts that fire on prompt tokens alone are among the silent ones.",) if generative else (),
        _density(modality_C, energy_C),
        _energy(energy_C),
        tuple(
            OverlapRow(reduction, Overlap(*rng.uniform(0.3, 0.8, 4)), Overlap(0.0051, 0.0049, 0.0050, 0.0001))
            for reduction in ("abs", "max", "offdiag", "sum")
        ),
        tuple(
            MeasureRow(
                label, dict(zip(("anisotropy", "effective_rank", "modality_gap", "hubness"), v, strict=True))
            )
            for label, v in (("base", (0.88, 4.2, 0.71, 9.4)), ("self-aligned", (0.0, 74.0, np.nan, 1.4)))
        ),
        tuple(_removal(rng)),
        tuple(_masking(rng)),
        _attention(rng) if generative else None,
        tuple(
            MeasureRow(
                label,
                {
                    "fvu": fvu,
                    "cosine": 1 - fvu / 2,
                    "l0": 16.0,
                    "dead_share": 0.03,
                    "retrieval_recovered": 0.94,
                },
            )
            for label, fvu in (("image tokens", 0.11), ("text tokens", 0.18), ("all tokens", 0.14))
        ),
        _maps(rng, scenes),
    )


def _examples(
    rng: np.random.Generator, modality_C: np.ndarray, silent: np.ndarray, scenes: int, *, strong: bool
) -> Examples:
    """Eight items a concept, pictures or texts as its modality says; a few rows are shorter."""
    count = len(modality_C)
    text_C8 = rng.random((count, 8)) < np.nan_to_num(modality_C)[:, None]
    items_C8 = rng.integers(0, scenes, (count, 8)) + scenes * text_C8
    items_C8[rng.random(count) < 0.1, 5:] = NO_ITEM
    items_C8[silent] = NO_ITEM
    low, high = (0.5, 3.0) if strong else (0.001, 0.05)
    activation_C8 = np.sort(rng.uniform(low, high, (count, 8)), axis=1)
    return Examples(items_C8, activation_C8[:, ::-1] if strong else activation_C8)


def _density(modality_C: np.ndarray, energy_C: np.ndarray) -> ModalityDensity:
    score_G = np.linspace(0, 1, 101)
    there = np.isfinite(modality_C)
    bumps_GC = np.exp(-0.5 * ((score_G[:, None] - modality_C[there]) / 0.06) ** 2) / (0.06 * 2.507)
    weight_C = energy_C[there] / energy_C[there].sum()
    return ModalityDensity(score_G, bumps_GC.mean(1), bumps_GC @ weight_C)


def _energy(energy_C: np.ndarray) -> EnergyCurve:
    held_C = np.cumsum(np.sort(energy_C)[::-1]) / energy_C.sum()
    share_C = np.arange(1, len(energy_C) + 1) / len(energy_C)
    gini = float(2 * np.trapezoid(held_C, share_C) - 1)
    return EnergyCurve(share_C, held_C, gini, float(held_C[max(1, len(energy_C) // 100) - 1]))


def _retrieval(rng: np.random.Generator, mean: float, **named: object) -> RetrievalRow:
    spread = 0.02 + 0.01 * rng.random()
    return RetrievalRow(
        measure="hit_rate@1", mean=mean, low=max(0.0, mean - spread), high=mean + spread, chance=0.001,
        queries=1000, **named,
    )  # fmt: skip


def _removal(rng: np.random.Generator) -> list[RetrievalRow]:
    rows = []
    for direction in DIRECTIONS:
        base = float(rng.uniform(0.2, 0.4))
        rows.append(_retrieval(rng, base, name="base", direction=direction))
        rows.append(
            _retrieval(rng, base + 0.03, name="centred", direction=direction, control=True, p_value=0.01)
        )
        for name, slope in (
            ("top attribution", 0.002),
            ("random concepts", -0.001),
            ("bottom attribution", 0.0005),
            ("top principal components", 0.003),
        ):
            rows += [
                _retrieval(
                    rng, float(np.clip(base + slope * r + rng.normal(0, 0.01), 0, 1)), name=name, rank=r,
                    direction=direction, control=name != "top attribution", p_value=float(rng.random()),
                )
                for r in (1, 2, 4, 8, 16, 32)
            ]  # fmt: skip
    return rows


def _masking(rng: np.random.Generator) -> list[RetrievalRow]:
    return [
        _retrieval(rng, mean + float(rng.normal(0, 0.01)), name=name, direction=direction, p_value=p)
        for direction in DIRECTIONS
        for name, mean, p in (
            ("base", 0.31, np.nan),
            ("without image tokens", 0.10, 0.0002),
            ("without prompt tokens", 0.27, 0.012),
        )
    ]


def _attention(rng: np.random.Generator) -> AttentionEfficiency:
    published = rng.uniform(0.2, 3.0, (5, 3)).cumsum(0)
    return AttentionEfficiency(
        ("image", "user", "system"), (0, 1, 2, 3, 4), published, rng.uniform(0.4, 1.8, (5, 3)),
        rng.uniform(0.3, 0.8, 5),
    )  # fmt: skip


def _maps(rng: np.random.Generator, scenes: int) -> tuple[MapView, ...]:
    items_P = np.arange(2 * scenes)
    theme_Q2 = rng.normal(0, 3, (8, 2))[rng.integers(0, 8, scenes)] + rng.normal(0, 0.8, (scenes, 2))
    gap = np.repeat([[-6.0, 0.0], [6.0, 1.0]], scenes, axis=0)
    both_P2 = np.concatenate([theme_Q2, theme_Q2 + rng.normal(0, 0.7, (scenes, 2))])
    return (
        MapView("before repair", "PaCMAP, 10 neighbours", items_P, both_P2 + gap),
        MapView("self-aligned", "PaCMAP, 10 neighbours", items_P, both_P2),
    )
