"""From Generator to Embedder, table II: MMEB without training, beside contrastively trained models."""

from __future__ import annotations

from clearsight.jobs.papers.base import EMBEDDER, PUBLISHED, Published, Redone
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.mmeb import DATA, META, SENTENCES, meta_columns, mmeb_tasks
from clearsight.jobs.papers.settings import Setting, measured_cells

# Table II, last block: the bare model, and the hierarchical prompt.
_PRINTED = {
    "Qwen2-VL-2B, no prompt": (21.4, 8.9, 9.5, 21.2, 13.9),
    "Qwen2-VL-2B, hierarchical": (48.6, 33.3, 44.1, 52.6, 43.3),
    "Qwen2-VL-7B, hierarchical": (47.7, 32.1, 43.1, 54.8, 42.6),
    "Phi3.5-V, hierarchical": (35.3, 20.6, 36.4, 56.6, 34.0),
}
# Table II, the blocks above it: trained by contrast, not measured here. SigLIP's average is not the mean that
# its four figures give (30.7 over 36 sets).
TRAINED = {
    "CLIP": (42.8, 9.1, 53.0, 51.8, 37.8),
    "OpenCLIP": (47.8, 10.9, 52.3, 53.3, 39.7),
    "SigLIP": (40.3, 8.4, 31.6, 59.5, 34.8),
    "MagicLens": (38.8, 8.3, 35.4, 26.0, 27.1),
    "E5-V (LLaVA-NeXT)": (21.8, 4.9, 11.5, 19.0, 13.3),
    "UniME (Phi3.5-V)": (42.5, 18.3, 40.5, 59.9, 40.3),
    "MMRet (LLaVA-1.6)": (47.2, 18.4, 56.5, 62.6, 44.0),
}
LABELS = (*META, "Avg.")


def settings() -> tuple[Setting, ...]:
    return (
        Setting("no prompt", "no_prompt"),
        Setting("hierarchical", "hierarchical", against="no prompt"),
    )


def redo(bench: Bench) -> Redone:
    tasks, absent = mmeb_tasks(bench)
    cells = measured_cells(bench, settings(), tasks, meta_columns())
    more = "Phi-3.5-V's model code is not part of transformers; that row is not measured."
    return Redone(tuple(cells), (*SENTENCES, *absent, more))


TABLE = PUBLISHED.add(
    "embedder-table-2",
    Published(
        name="embedder-table-2",
        title="MMEB without training",
        paper=EMBEDDER,
        place="Table II",
        models={
            "Qwen2-VL-2B": "Qwen/Qwen2-VL-2B-Instruct",
            "Qwen2-VL-7B": "Qwen/Qwen2-VL-7B-Instruct",
        },
        data=DATA,
        numbers={row: dict(zip(LABELS, values, strict=True)) for row, values in (_PRINTED | TRAINED).items()},
        redo=redo,
    ),
)
