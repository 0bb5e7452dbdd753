"""Everything that the diagnosis measures of one model: its concepts, what they do, and what repair changes.

Legend of shapes: N images, M texts, P matched pairs, C concepts, D width, E examples of a concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.files import to_json
from clearsight.jobs.autoencoder import SaeOptions, sae_line, train_on_tokens, train_on_vectors
from clearsight.jobs.naming import names_of
from clearsight.jobs.ui import Labelled

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from clearsight.concepts import CodeDisagreement, ConceptProfile
    from clearsight.harvest import Shards
    from clearsight.jobs.compare import Outcome
    from clearsight.jobs.distractors import DistractorSweep
    from clearsight.jobs.embedding import Captioned
    from clearsight.jobs.masking import MaskingAblation
    from clearsight.jobs.sides import Case
    from clearsight.models.attention import AttentionEfficiency
    from clearsight.models.encoder import Encoder
    from clearsight.progress import Progress
    from clearsight.sae import SparseAutoencoder
    from clearsight.sae.measures import Reconstruction
    from clearsight.sae.recovered import Recovered
    from clearsight.types import Embeddings, Task

MEASURED_TOKENS = 40_000
"""Tokens that the reconstruction is measured on."""
ATTENTION_ITEMS = 32
DISAGREEMENT_ITEMS = 400


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and the vectors of one task under it.

    Attributes:
        case: the task and both its sides; `turned` the same vectors the other way, where there is one.
        images, texts: rows of one modality; `pairs_P2` their matches, as rows of both.
    """

    encoder: Encoder
    case: Case
    turned: Case | None
    images: Embeddings
    texts: Embeddings
    pairs_P2: NDArray[np.int64]

    @property
    def name(self) -> str:
        return self.encoder.loaded.name

    @property
    def cases(self) -> tuple[Case, ...]:
        return (self.case,) if self.turned is None else (self.case, self.turned)


@dataclass(frozen=True, eq=False)
class Examined:
    """What was found. None, or empty: it does not apply to this model or task; `notes` says why.

    Attributes:
        names: of the concepts, in words; "" for those that no words tell.
    """

    subject: Subject
    sae: SparseAutoencoder
    sae_line: str
    image_codes: csr_array
    text_codes: csr_array
    profile: ConceptProfile
    dead_C: NDArray[np.bool_]
    monosemanticity_C: NDArray[np.float64] | None
    names: tuple[str, ...]
    reconstruction: Mapping[str, Reconstruction]
    recovered: Mapping[str, Recovered]
    disagreement: CodeDisagreement | None
    removal: DistractorSweep | None
    masking: MaskingAblation | None
    attention: AttentionEfficiency | None
    repaired: Sequence[Outcome]
    notes: tuple[str, ...]


def embed_subject(encoder: Encoder, task: Task, progress: Progress) -> Subject:
    """Both sides of the task under one model.

    Raises:
        DataError: a modality is missing altogether.
    """
    from clearsight.jobs.embedding import embed_task, kept, side_modality
    from clearsight.jobs.sides import Case, image_text_pairs, turned

    queries, candidates = embed_task(encoder, task, progress)
    task = kept(task, queries, candidates)
    kinds = tuple(side_modality(side) for side in (task.queries, task.candidates))
    case = Case(task, queries, candidates, f"{kinds[0]} -> {kinds[1]}")
    (images, texts), pairs_P2 = image_text_pairs(task, queries, candidates)
    for side, what in ((images, "image"), (texts, "text")):
        if not len(side):
            raise DataError(
                f"The task has no item that is {what} alone.", do="Give a task with images and texts."
            )
    turns = set(kinds) == {"image", "text"} and not (task.pools or task.excluded or task.groups)
    other = turned(case, f"{kinds[1]} -> {kinds[0]}") if turns else None
    return Subject(encoder, case, other, images, texts, pairs_P2)


def examine(
    subject: Subject,
    options: SaeOptions,
    work: Path,
    folder: Path,
    *,
    other: Subject | None,
    masked_task: Task | None,
    captioned: Captioned | None,
    progress: Progress,
) -> Examined:
    """Train the model's autoencoder, then measure.

    Args:
        work: gets a folder for token states and checkpoints, named by everything that changes them.
        folder: where the trained autoencoder is written.
        other: another model on the same task: monosemanticity is judged by its vectors.
        masked_task: where tokens are left out of the mean; None: the subject's own task.
        captioned: unlabelled images with the model's own captions, for self-alignment.
    """
    from clearsight.concepts import profile_codes
    from clearsight.formats import save_sae
    from clearsight.jobs.autoencoder import facts
    from clearsight.jobs.distractors import sweep_distractors
    from clearsight.sae.recovered import retrieval_recovered

    encoder, generative = subject.encoder, subject.encoder.loaded.kind == "generative"
    task, notes = subject.case.task, []
    shards = None
    if generative:
        items = list({item.id: item for item in (*task.queries, *task.candidates)}.values())
        place = work / training_key(subject, options)
        sae, shards = train_on_tokens(encoder, items, options, place, progress)
        chosen = shards.select(token_types=options.token_types, norm_limit=options.norm_limit)
        line = sae_line(sae, len(chosen), "token states of the task's own items")
        reconstruction, dead_C = _on_tokens(sae, shards, chosen)
        disagreement = _disagreement(sae, subject, items, shards)
    else:
        rows_ND = np.concatenate([subject.images.rows_ND, subject.texts.rows_ND])
        sae = train_on_vectors(rows_ND, options, work / training_key(subject, options), progress)
        line = sae_line(sae, len(rows_ND), "pooled embeddings")
        reconstruction, dead_C = _on_vectors(sae, subject)
        disagreement = None
        notes.append(
            "A contrastive model has one vector an item: its autoencoder is trained on these, as in the "
            "paper, and there are no tokens to mask and no attention figure."
        )
    save_sae(sae, folder, facts=facts(encoder, options))
    codes = [sae.encode(side.rows_ND) for side in (subject.images, subject.texts)]
    found = profile_codes(
        codes[0],
        codes[1],
        sae.dictionary_CD,
        subject.pairs_P2,
        progress=Labelled(progress, "bridge scores"),
    )
    if found.missing:
        notes.append(found.missing)
    removal = None
    if options.form == "paper":
        notes.append(
            "The autoencoder has no bias and takes nothing off its input, as the paper's; what removing "
            "concepts does can depend on this (`--form centred` is the other form)."
        )
    if found.attribution_C is not None:
        notes.append(
            "Attribution is learnt from the task's own pairs: removing its top concepts has seen labels, the "
            "controls have not."
        )
        removal = sweep_distractors(subject.cases, sae, found, progress=progress)
    monosemantic_C = _monosemanticity(codes, subject, other)
    if monosemantic_C is None:
        notes.append("Monosemanticity needs the vectors of a second model as a judge.")
    return Examined(
        subject=subject,
        sae=sae,
        sae_line=line,
        image_codes=codes[0],
        text_codes=codes[1],
        profile=found,
        dead_C=dead_C,
        monosemanticity_C=monosemantic_C,
        names=names_of(subject, *codes),
        reconstruction=reconstruction,
        recovered=retrieval_recovered(
            sae,
            subject.case.queries,
            subject.case.candidates,
            task.relevance,
            pools=task.pools,
            excluded=task.excluded,
            groups=task.groups,
        ),
        disagreement=disagreement,
        removal=removal,
        masking=_masking(encoder, masked_task or task, progress) if generative else None,
        attention=_attention(subject, progress) if generative else None,
        repaired=_repairs(subject, captioned, progress),
        notes=tuple(notes),
    )


def training_key(subject: Subject, options: SaeOptions) -> str:
    """Names what a training depends on: the encoder, the items, the options."""
    from clearsight.data import content_key

    task = subject.case.task
    facts = {
        "origin": subject.encoder.origin(),
        "options": {one.name: getattr(options, one.name) for one in fields(SaeOptions)},
        "items": [content_key(item) for item in (*task.queries, *task.candidates)],
    }
    return sha256(to_json(facts)).hexdigest()[:24]


def _on_tokens(
    sae: SparseAutoencoder, shards: Shards, chosen: NDArray[np.int64]
) -> tuple[Mapping[str, Reconstruction], NDArray[np.bool_]]:
    from clearsight.harvest import TOKEN_TYPES
    from clearsight.sae.measures import measure_reconstruction
    from clearsight.types import MODALITIES

    picked = chosen
    if len(chosen) > MEASURED_TOKENS:
        picked = np.sort(np.random.default_rng(0).choice(chosen, MEASURED_TOKENS, replace=False))
    names = {code: name for name, code in TOKEN_TYPES.items()}
    labels = {
        "modality": [MODALITIES[code] for code in shards.modality_N[picked]],
        "token": [names[int(code)] for code in shards.type_N[picked]],
    }
    found = measure_reconstruction(sae, shards.rows(picked), labels)
    return found, np.asarray(found["all"].rate_C == 0)


def _on_vectors(
    sae: SparseAutoencoder, subject: Subject
) -> tuple[Mapping[str, Reconstruction], NDArray[np.bool_]]:
    from clearsight.sae.measures import measure_reconstruction

    sides = (subject.images, subject.texts)
    rows_ND = np.concatenate([side.rows_ND for side in sides])
    labels = {"modality": [kind for side in sides for kind in side.modality_N.tolist()]}
    found = measure_reconstruction(sae, rows_ND, labels)
    return found, np.asarray(found["all"].rate_C == 0)


def _disagreement(
    sae: SparseAutoencoder, subject: Subject, items: Sequence[Any], shards: Shards
) -> CodeDisagreement:
    """The code of the mean against the mean of the codes, over tokens as the pool takes them."""
    from clearsight.concepts import code_disagreement

    picked = np.sort(np.random.default_rng(0).permutation(len(items))[: min(DISAGREEMENT_ITEMS, len(items))])
    token_rows = [shards.rows(shards.rows_of(int(item))).numpy() for item in picked]
    kept = [rows_LD for rows_LD in token_rows if len(rows_LD)]
    return code_disagreement(sae, np.stack([rows_LD.mean(axis=0) for rows_LD in kept]), kept)


def _monosemanticity(
    codes: Sequence[csr_array], subject: Subject, other: Subject | None
) -> NDArray[np.float64] | None:
    """Judged by another model's vectors of the same items, each modality centred: the gap between the two
    would otherwise make every concept of one modality look like one meaning."""
    from scipy.sparse import csr_array, vstack

    from clearsight.sae.concept_probes import monosemanticity

    if other is None:
        return None
    sides = []
    for own, theirs in ((subject.images, other.images), (subject.texts, other.texts)):
        place = {name: row for row, name in enumerate(theirs.ids)}
        if any(name not in place for name in own.ids):
            return None
        rows_ND = theirs.rows_ND[[place[name] for name in own.ids]].astype(np.float64)
        rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
        sides.append(rows_ND - rows_ND.mean(axis=0))
    together = csr_array(vstack(codes, format="csr"))
    return np.asarray(monosemanticity(together, np.concatenate(sides)), dtype=np.float64)


def _masking(encoder: Encoder, task: Task, progress: Progress) -> MaskingAblation:
    from clearsight.jobs.masking import ablate_tokens

    return ablate_tokens(encoder, task, progress=progress)


def _attention(subject: Subject, progress: Progress) -> AttentionEfficiency:
    from clearsight.models.attention import attention_efficiency

    task = subject.case.task
    half = ATTENTION_ITEMS // 2
    items = {item.id: item for item in (*task.queries[:half], *task.candidates[:half])}
    return attention_efficiency(
        subject.encoder, list(items.values()), progress=Labelled(progress, "attention by layer")
    )


def _repairs(subject: Subject, captioned: Captioned | None, progress: Progress) -> Sequence[Outcome]:
    """As it is, ReAlign, and, where there are captions, self-alignment."""
    from clearsight.jobs.compare import compare
    from clearsight.jobs.embedding import embed_pairs
    from clearsight.jobs.recipes import Sides

    case = subject.case
    pairs = None
    if captioned is not None:
        pairs = embed_pairs(subject.encoder, captioned, case.task, progress)
    recipes = ("base", "centred", "realign") + (("self_aligned",) if pairs else ())
    return compare(
        case.task,
        Sides(case.queries, case.candidates, pairs=pairs),
        recipes,
        embedding=subject.name,
        task_label=case.label,
    )
