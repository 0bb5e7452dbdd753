"""Score the shipped models: ``python -m clearsight.models.tiny.score [--models DIR] [--scenes 2000] [--out
FILE]``.

Everything is measured on scenes of the ``test`` split; self-captioned images are of the ``spare`` split.
Settings of the repairs were fixed beforehand: shrinkage 0.5 for whitening, 0.1 and 100 components for self-
alignment.

Legend: N items of a side, D width; hit rates are in percent, image to text before text to image.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from clearsight.data import world
from clearsight.data.scenes import Scene, random_scene
from clearsight.data.scenes_read import complete, consistent
from clearsight.data.scenes_text import QUESTION_KINDS, caption, contradiction, question
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import Encoder
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.tiny.forms import CHOICE, NO, TRUE_FALSE, YES, Branch, Document
from clearsight.models.tiny.measure import take
from clearsight.repair import Centre, SelfAlign, ShrinkageZCA
from clearsight.types import Item, Task

Scores = dict[str, Any]
CUTS = (1, 5, 10)
EMBEDDINGS = (("plain", "mean"), ("one_word", "mean"), ("one_word", "last"))
WHITENING_SHRINKAGE, ALIGN_SHRINKAGE, COMPONENTS, ROUNDS, NEIGHBOURS = 0.5, 0.1, 100, 5, 10


# ---------------------------------------------------------------------------------------- what the model says
def _pixels(items: Sequence[Item]) -> list[np.ndarray]:
    return [np.asarray(item.image) for item in items]


def caption_scores(texts: Sequence[str], scenes: Sequence[Scene]) -> Scores:
    """Share (%) of captions whose every statement is true, and that also name every object."""
    return {
        "consistent": 100 * float(np.mean([consistent(t, s) for t, s in zip(texts, scenes, strict=True)])),
        "complete": 100 * float(np.mean([complete(t, s) for t, s in zip(texts, scenes, strict=True)])),
        "examples": list(texts[:5]),
    }


def question_scores(model: LoadedModel, task: Task, seed: int) -> Scores:
    """Exact greedy answers (%) for each kind of question, one of each kind for every image it fits."""
    rng = np.random.default_rng([seed, 1])
    documents, kinds = [], []
    for item, pixels in zip(task.queries, _pixels(task.queries), strict=True):
        asked = [question(world.scene_of(item), rng, kind) for kind in QUESTION_KINDS]
        # A kind that has no answer in a scene falls back to counting, which is asked once.
        asked = [q for q, kind in zip(asked, QUESTION_KINDS, strict=True) if q.kind == kind]
        documents.append(Document("", tuple(Branch(q.text, q.answer) for q in asked), image=pixels))
        kinds.append([q.kind for q in asked])
    told = take(model.model, model.tokenizer, documents)
    right: dict[str, list[bool]] = {kind: [] for kind in QUESTION_KINDS}
    for names, answers in zip(kinds, told, strict=True):
        for name, answer in zip(names, answers, strict=True):
            right[name].append(answer.greedy)
    table = {kind: 100 * float(np.mean(values)) for kind, values in right.items()}
    return {**table, "mean of kinds": float(np.mean(list(table.values())))}


def _statements(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, bool]]:
    """(kind, caption, truth): a true caption, one with one thing wrong, one of another scene."""
    while True:
        other = caption(random_scene(rng, "spare"), rng)
        if not consistent(other, scene):
            break
    return [
        ("true", caption(scene, rng), True),
        ("hard", contradiction(scene, rng)[0], False),
        ("easy", other, False),
    ]


def matching_scores(model: LoadedModel, task: Task, seed: int) -> Scores:
    """Share (%) right of matching questions: true captions against hard (one thing wrong) and easy false
    ones.

    Each is the mean of the two classes, so chance is 50; ``choice`` averages the probability of ``yes`` over
    both label orders; ``area`` is the probability (%) that a true caption scores above the hard one of its
    image.
    """
    rng = np.random.default_rng([seed, 2])
    documents, truths = [], []
    for item, pixels in zip(task.queries, _pixels(task.queries), strict=True):
        branches = []
        for kind, text, truth in _statements(world.scene_of(item), rng):
            words = text.rstrip(".")
            branches += [
                Branch(TRUE_FALSE.format(what="image", caption=words), "True", words=("False",)),
                Branch(CHOICE.format(what="image", caption=words, a=YES, b=NO), "A", words=("B",)),
                Branch(CHOICE.format(what="image", caption=words, a=NO, b=YES), "B", words=("A",)),
            ]
            truths.append((kind, truth))
        documents.append(Document("", tuple(branches), image=pixels))
    told = [answer for answers in take(model.model, model.tokenizer, documents) for answer in answers]
    margin = np.array([t.first - t.words[0] for t in told]).reshape(-1, 3, 3)  # image, statement, form
    p_yes = 1 / (1 + np.exp(-margin))
    forms = {
        "true/false": p_yes[..., 0],
        "choice, yes is A": p_yes[..., 1],
        "choice, yes is B": p_yes[..., 2],
        "choice, both orders": p_yes[..., 1:].mean(-1),
    }
    return {
        name: {
            "hard": 50 * float((p[:, 0] > 0.5).mean() + (p[:, 1] <= 0.5).mean()),
            "easy": 50 * float((p[:, 0] > 0.5).mean() + (p[:, 2] <= 0.5).mean()),
            "area": 100 * float((p[:, 0] > p[:, 1]).mean()),
        }
        for name, p in forms.items()
    }


# ------------------------------------------------------------------------------------------------- retrieval
def _unit(rows_ND: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(lengths, 1e-12))


def hits(scores_NN: np.ndarray) -> list[float]:
    """Hit rate (%) at 1, 5 and 10 where the diagonal is relevant; a tie counts against it."""
    own = np.diag(scores_NN)[:, None]
    above = (scores_NN >= own).sum(1) - 1
    return [100 * float((above < k).mean()) for k in CUTS]


def both_ways(images_ND: np.ndarray, texts_ND: np.ndarray) -> Scores:
    """Hit rates of image to text and text to image by cosine."""
    scores = _unit(images_ND) @ _unit(texts_ND).T
    return {"i2t": hits(scores), "t2i": hits(scores.T)}


def aligned(
    pairs: tuple[np.ndarray, np.ndarray], images: np.ndarray, texts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides mapped by self-alignment from the pairs, each centred on its own mean."""
    fitted = SelfAlign(ALIGN_SHRINKAGE, COMPONENTS).fit(*pairs)
    a, b = fitted.transform(images), fitted.transform_text(texts)
    return a - a.mean(0), b - b.mean(0)


def mutual(images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours under CSLS (Conneau et al. 2018): 2 cos minus the mean cosine of each side's
    ten.
    """
    cosines = _unit(images) @ _unit(texts).T
    near = [np.sort(c, axis=1)[:, -NEIGHBOURS:].mean(1) for c in (cosines, cosines.T)]
    scores = 2 * cosines - near[0][:, None] - near[1][None, :]
    best, back = scores.argmax(1), scores.argmax(0)
    own = np.flatnonzero(back[best] == np.arange(len(best)))
    return own, best[own]


def refined(
    pairs: tuple[np.ndarray, np.ndarray], images: np.ndarray, texts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Self-alignment with mutual neighbours among the items at hand as further pairs, five rounds.
    Transductive.
    """
    # Captions the model writes and texts that are searched differ in style, hence a mean for each set.
    centre = [_unit(side) - _unit(side).mean(0) for side in (*pairs, images, texts)]
    a, b = aligned(pairs, images, texts)
    for _ in range(ROUNDS):
        left, right = mutual(a, b)
        joined = (np.concatenate([centre[0], centre[2][left]]), np.concatenate([centre[1], centre[3][right]]))
        fitted = SelfAlign(ALIGN_SHRINKAGE, COMPONENTS, normalize_input=False).fit(*joined)
        a, b = fitted.transform(centre[2]), fitted.transform_text(centre[3])
    return a, b


class Bench:
    """The items of the retrieval scores and their embeddings under one model."""

    def __init__(self, model: LoadedModel, task: Task, spare: Sequence[Item], texts: Sequence[str]) -> None:
        self.model, self.task, self.spare = model, task, list(spare)
        self.captions = [
            Item(item.id.replace("image", "text"), text=text) for item, text in zip(spare, texts, strict=True)
        ]

    def rows(self, items: Sequence[Item], prompt: str, pooling: str) -> np.ndarray:
        return Encoder(self.model, prompt=prompt, pooling=pooling).embed(list(items), "query").rows_ND

    def table(self, prompt: str, pooling: str) -> tuple[Scores, tuple[np.ndarray, np.ndarray]]:
        """Every repair of one embedding; also the sides mapped from all captioned images, for reranking."""
        images, texts, own, told = (
            self.rows(items, prompt, pooling)
            for items in (self.task.queries, self.task.candidates, self.spare, self.captions)
        )
        few, best = (own[:500], told[:500]), aligned((own, told), images, texts)
        sides: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
            "none": lambda: (images, texts),
            "centring per side": lambda: (Centre().fit_transform(images), Centre().fit_transform(texts)),
            "ReAlign per side, 0.5": lambda: (
                ShrinkageZCA(WHITENING_SHRINKAGE).fit_transform(images),
                ShrinkageZCA(WHITENING_SHRINKAGE).fit_transform(texts),
            ),
            "self-aligned, 500 images": lambda: aligned(few, images, texts),
            f"self-aligned, {len(own)} images": lambda: best,
            "refined, 500 images": lambda: refined(few, images, texts),
            f"refined, {len(own)} images": lambda: refined((own, told), images, texts),
        }
        return {name: both_ways(*make()) for name, make in sides.items()}, best


def rerank_scores(
    model: LoadedModel, task: Task, sides: tuple[np.ndarray, np.ndarray], queries: int = 300, top: int = 20
) -> Scores:
    """Hit rate@1 (%) of the best ``top``, reranked by log p(caption | image) - log p(caption)."""
    scores_NN = _unit(sides[0]) @ _unit(sides[1]).T
    queries = min(queries, len(scores_NN))
    top = min(top, len(scores_NN))
    prior = _prior(model, task)
    result: Scores = {"queries": queries, "top": top}
    for name, table in (("i2t", scores_NN), ("t2i", scores_NN.T)):
        best_QK = np.argsort(-table[:queries], axis=1, kind="stable")[:, :top]
        pairs = [(q, int(c)) if name == "i2t" else (int(c), q) for q in range(queries) for c in best_QK[q]]
        log_p = _likelihoods(model, task, pairs).reshape(queries, top)
        texts = np.array([text for _, text in pairs]).reshape(queries, top)
        own = best_QK == np.arange(queries)[:, None]
        result[name] = {
            "before": 100 * float(own[:, 0].mean()),
            "bound": 100 * float(own.any(1).mean()),
            "likelihood": _first(log_p, own),
            "minus prior": _first(log_p - prior[texts], own),
        }
    return result


def _first(scores_QK: np.ndarray, own_QK: np.ndarray) -> float:
    return 100 * float(own_QK[np.arange(len(own_QK)), scores_QK.argmax(1)].mean())


def _prior(model: LoadedModel, task: Task) -> np.ndarray:
    """log p(caption) of every text, asked without an image."""
    documents = [Document("", (Branch("Describe the image.", item.text or ""),)) for item in task.candidates]
    return np.array([told[0].log_p for told in take(model.model, model.tokenizer, documents)])


def _likelihoods(model: LoadedModel, task: Task, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """log p(caption | image) of (image, text) rows; the captions of an image share its pass."""
    by_image: dict[int, list[int]] = {}
    for at, (image, _) in enumerate(pairs):
        by_image.setdefault(image, []).append(at)
    pixels = _pixels(task.queries)
    documents, order = [], []
    for image, places in by_image.items():
        for start in range(0, len(places), 10):
            part = places[start : start + 10]
            documents.append(
                Document(
                    "",
                    tuple(
                        Branch("Describe the image.", task.candidates[pairs[at][1]].text or "") for at in part
                    ),
                    image=pixels[image],
                )
            )
            order += part
    log_p = np.empty(len(pairs))
    log_p[order] = [one.log_p for told in take(model.model, model.tokenizer, documents) for one in told]
    return log_p


def likelihood_scores(model: LoadedModel, task: Task, gallery: int = 150) -> Scores:
    """Hit rate@1 (%) in a small gallery by likelihood alone, without any embedding."""
    count = min(gallery, len(task.queries))
    pairs = [(i, t) for i in range(count) for t in range(count)]
    log_p = _likelihoods(model, task, pairs).reshape(count, count)
    pointwise = log_p - _prior(model, task)[:count]
    return {
        "gallery": count,
        "likelihood": {"i2t": hits(log_p)[0], "t2i": hits(log_p.T)[0]},
        "minus prior": {"i2t": hits(pointwise)[0], "t2i": hits(pointwise.T)[0]},
    }


def composed_scores(model: LoadedModel, n: int, seed: int) -> Scores:
    """Hit rates of (image, edit) to the edited image, beside the image alone and the text alone."""
    task = world.composed(n, seed)
    names = {item.id: at for at, item in enumerate(task.candidates)}
    own = [names[next(iter(task.relevance[q.id]))] for q in task.queries]
    out = [names[task.excluded[q.id][0]] for q in task.queries]
    shown = {
        "image and edit": list(task.queries),
        "image only": [Item(q.id, image=q.image) for q in task.queries],
        "edit only": [Item(q.id, text=q.text) for q in task.queries],
    }
    table: Scores = {"queries": len(task.queries), "candidates": len(task.candidates)}
    for pooling in ("mean", "last"):
        encoder = Encoder(model, prompt="one_word", pooling=pooling)
        gallery = _unit(encoder.embed(list(task.candidates), "candidate").rows_ND)
        for name, items in shown.items():
            scores = _unit(encoder.embed(items, "query", counterpart="image").rows_ND) @ gallery.T
            scores[np.arange(len(out)), out] = -np.inf
            above = (scores >= scores[np.arange(len(own)), own][:, None]).sum(1) - 1
            table[f"{pooling}, {name}"] = [100 * float((above < k).mean()) for k in CUTS]
    return table


# ------------------------------------------------------------------------------------------------------ whole
def rounded(value: Any) -> Any:
    """Floats anywhere in the value with two decimals."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def score(models: Path, scenes: int, seed: int, say: Callable[[str], None] = print) -> Scores:
    """All scores of both models."""
    began = time.monotonic()
    result: Scores = {}

    def note(name: str, value: Any) -> None:
        result[name] = rounded(value)
        say(f"[{time.monotonic() - began:.0f} s] {name}: {json.dumps(result[name])}")

    task = world.image_to_text(scenes, seed)
    model = load_model(str(models / "generator"), head=True, dtype=torch.float32)
    note("identifiable", 100 * world.identifiability(task))
    some = Task("some", task.queries[: scenes // 2], task.candidates[: scenes // 2], {})
    note("questions", question_scores(model, some, seed))
    note("matching", matching_scores(model, some, seed))
    note(
        "captions",
        caption_scores(Captioner(model).caption(task.queries), [world.scene_of(i) for i in task.queries]),
    )
    detailed = Captioner(model, "caption_detailed", max_new_tokens=96).caption(some.queries)
    note("captions, detailed", caption_scores(detailed, [world.scene_of(i) for i in some.queries]))
    note("likelihood", likelihood_scores(model, task))
    spare = world.unlabelled_images(scenes, seed)
    bench = Bench(model, task, spare, Captioner(model).caption(spare))
    for prompt, pooling in EMBEDDINGS:
        table, sides = bench.table(prompt, pooling)
        note(f"retrieval, {pooling}, {prompt}", table)
    note("rerank", rerank_scores(model, task, sides))
    note("composed", composed_scores(model, max(scenes // 4, 2), seed))
    control = load_model(str(models / "contrastive"), dtype=torch.float32)
    encoder = Encoder(control)
    note(
        "control",
        both_ways(encoder.embed(list(task.queries)).rows_ND, encoder.embed(list(task.candidates)).rows_ND),
    )
    note("seconds", round(time.monotonic() - began))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m clearsight.models.tiny.score", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(__file__).parent, help="folder of both models")
    parser.add_argument("--scenes", type=int, default=2000, help="test scenes (2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (0)")
    parser.add_argument(
        "--out", type=Path, default=None, help="file for the scores (scores.json beside the models)"
    )
    given = parser.parse_args(arguments)
    facts: Scores = {
        "command": f"python -m clearsight.models.tiny.score --scenes {given.scenes} --seed {given.seed}",
        "seed": given.seed,
        "scenes": given.scenes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "transformers": transformers.__version__,
    }
    table = score(
        given.models, given.scenes, given.seed, lambda line: print(line, file=sys.stderr, flush=True)
    )
    out = given.out or given.models / "scores.json"
    out.write_text(json.dumps({**facts, **table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
