"""Concepts of each model for the first paper's tables and figures: trained once, shared by all of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clearsight.jobs.papers.bench import Bench

if TYPE_CHECKING:
    from clearsight.concepts import ConceptProfile
    from clearsight.jobs.autoencoder import SaeOptions
    from clearsight.jobs.examine import Subject
    from clearsight.sae import SparseAutoencoder

COCO = ("coco/i2t", "mbeir/mscoco_task3")
MODELS = {
    "CLIP": "openai/clip-vit-base-patch32",
    "SigLIP2": "google/siglip2-base-patch16-512",
    "Qwen2-VL-7B-Instruct": "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen3-VL-8B-Instruct": "Qwen/Qwen3-VL-8B-Instruct",
    "Paligemma2-3B-Mix-224": "google/paligemma2-3b-mix-224",
    "Chameleon-7B": "facebook/chameleon-7b",
}
WIDTHS = {"generative": 32768, "contrastive": 7168}
"""Concepts of an autoencoder, appendix A."""
SENTENCES = (
    "The paper trains on billions of activations (28 billion for Qwen2-VL-7B), ours on the tokens of the "
    "task's own items.",
    "The k of top-k is not in the text at hand: 50, as in the authors' code.",
    "The embedding is the mean over all tokens of the last hidden state, under the authors' wordings.",
)


@dataclass(frozen=True, eq=False)
class Profiled:
    """One model's autoencoder and what its concepts do on the task."""

    label: str
    subject: Subject
    sae: SparseAutoencoder
    profile: ConceptProfile


def profiled(bench: Bench) -> Iterator[Profiled]:
    """Each model in turn. An autoencoder that was trained before on the same lies in the cache.

    Raises:
        DataError: the task lacks images or texts, or there are too few tokens to train on.
    """
    from clearsight.concepts import profile_codes
    from clearsight.jobs.autoencoder import train_on_tokens, train_on_vectors
    from clearsight.jobs.examine import embed_subject, training_key

    task = bench.task(COCO, ("hit_rate@1", "hit_rate@5", "hit_rate@10"))
    for model in bench.models:
        encoder = bench.encoder(model, "one_word", "mean")
        subject = embed_subject(encoder, task, bench.progress)
        options = _options(bench, model, encoder.loaded.kind)
        place = bench.cache / "autoencoders" / training_key(subject, options)
        if encoder.loaded.kind == "generative":
            items = list({item.id: item for item in (*task.queries, *task.candidates)}.values())
            sae, _ = train_on_tokens(encoder, items, options, place, bench.progress)
        else:
            rows_ND = np.concatenate([subject.images.rows_ND, subject.texts.rows_ND])
            sae = train_on_vectors(rows_ND, options, place, bench.progress)
        codes = [sae.encode(side.rows_ND) for side in (subject.images, subject.texts)]
        profile = profile_codes(
            codes[0], codes[1], sae.dictionary_CD, subject.pairs_P2, progress=bench.progress
        )
        yield Profiled(bench.table.label_of(model), subject, sae, profile)


def _options(bench: Bench, model: str, kind: str) -> SaeOptions:
    """The authors' settings at the paper's size for the paper's models; ours at a fitting size for others."""
    from clearsight.jobs.autoencoder import SaeOptions

    known = bench.table.label_of(model) in bench.table.models
    return SaeOptions(
        preset="release" if known else "default",
        form="paper",
        concepts=bench.concepts or (WIDTHS[kind] if known else None),
        epochs=bench.epochs,
    )
