"""mteb itself runs our retriever on tasks made here, and its numbers are ours.

Needs mteb beside the test environment (`make test-peers`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearsight import Embeddings, Encoder, Item, PerGroup, ShrinkageZCA, rank, score
from clearsight.errors import UsageError
from clearsight.mteb import MtebReranker, MtebRetriever
from clearsight.ranking.listed import of_lists
from clearsight.rerank import Reranker
from clearsight.types import Task

pytestmark = pytest.mark.peers

if "CLEARSIGHT_MTEB" in os.environ:
    sys.path.append(os.environ["CLEARSIGHT_MTEB"])
    import mteb
else:
    mteb = pytest.importorskip("mteb", reason="CLEARSIGHT_MTEB is not set; run make test-peers")

from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol  # noqa: E402

MEASURES = {f"{ours}@{k}": f"{theirs}_at_{k}" for ours, theirs in (
    ("ndcg", "ndcg"), ("hit_rate", "hit_rate"), ("recall", "recall"), ("map", "map"),
) for k in (1, 5, 10)}  # fmt: skip
LETTER = {"text": "t", "image": "i", "image+text": "it"}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 40, 3), dtype=np.uint8))


def task_of(kinds: tuple[str, str], count: int = 24) -> Task:
    """Random items; two relevant candidates a query, of different worth to no measure but nDCG."""
    words = ["red", "green", "blue", "square", "circle", "triangle", "above", "below", "small", "large"]
    rng = np.random.default_rng(len(kinds[0]) + 10 * len(kinds[1]))

    def item(name: str, kind: str, seed: int) -> Item:
        text = " ".join(rng.choice(words, 6)) if "text" in kind else None
        return Item(name, text=text, image=picture(seed) if "image" in kind else None)

    queries = tuple(item(f"q{i}", kinds[0], i) for i in range(count))
    candidates = tuple(item(f"c{i}", kinds[1], 100 + i) for i in range(count))
    relevance = {f"q{i}": {f"c{i}": 1.0, f"c{(i + 1) % count}": 2.0} for i in range(count)}
    return Task("local", queries, candidates, relevance, measures=tuple(MEASURES))


def as_mteb(task: Task, category: str, **metadata: Any) -> Any:
    """The same task as one of mteb's own, its data filled in by hand."""

    def rows(items: Any) -> Dataset:
        kinds = {"text", "image"} & {kind for item in items for kind in item.modality.split("+")}
        columns = {kind: [getattr(item, kind) for item in items] for kind in sorted(kinds)}
        return Dataset.from_dict({"id": [item.id for item in items], **columns})

    class Local(AbsTaskRetrieval):
        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            relevant = {q: {c: int(g) for c, g in one.items()} for q, one in task.relevance.items()}
            split = {
                "queries": rows(task.queries),
                "corpus": rows(task.candidates),
                "relevant_docs": relevant,
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    Local.metadata = TaskMetadata(
        name="Local",
        description="made here",
        dataset={"path": "none", "revision": "none"},
        type="Any2AnyRetrieval",
        category=category,
        modalities=["image", "text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        **metadata,
    )
    return Local()


def mteb_scores(retriever: MtebRetriever, task: Any) -> dict[str, float]:
    done = mteb.evaluate(
        retriever, task, cache=None, co2_tracker=False, show_progress_bar=False, public_only=None
    )
    return dict(done.task_results[0].scores["test"][0])


def our_scores(queries: Embeddings, candidates: Embeddings, task: Task) -> dict[str, float]:
    ranking = rank(queries, candidates, 10, relevance=task.relevance)
    found = score(ranking, task.relevance, task.measures)
    return {measure: found[measure].mean for measure in task.measures}


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize(
    "kinds",
    [("text", "image"), ("image", "text"), ("text", "text"), ("text", "image+text"), ("image+text", "image")],
)
def test_mteb_counts_as_we_do(kinds: Any, repaired: bool) -> None:
    encoder, task = Encoder.load("tiny", prompt="one_word"), task_of(kinds)
    queries = encoder.embed(task.queries, "query", counterpart=kinds[1])
    candidates = encoder.embed(task.candidates, "candidate", counterpart=kinds[0])
    repair = PerGroup(ShrinkageZCA(), "side").fit(queries, candidates) if repaired else None
    if repair is not None:
        queries, candidates = repair.transform(queries), repair.transform(candidates)
    ours = our_scores(queries, candidates, task)
    theirs = mteb_scores(MtebRetriever(encoder, repair), as_mteb(task, "2".join(LETTER[k] for k in kinds)))
    for measure, name in MEASURES.items():
        assert theirs[name] == pytest.approx(ours[measure], abs=1e-5), measure
    assert 0 < ours["ndcg@10"] < 1


def test_a_stock_model_runs_too(tmp_path: Path) -> None:
    from small.stock import write_clip

    encoder, task = Encoder.load(write_clip(tmp_path / "clip")), task_of(("image", "text"))
    ours = our_scores(encoder.embed(task.queries, "query"), encoder.embed(task.candidates), task)
    theirs = mteb_scores(MtebRetriever(encoder), as_mteb(task, "i2t"))
    for measure, name in MEASURES.items():
        assert theirs[name] == pytest.approx(ours[measure], abs=1e-5), measure


def test_metadata_is_what_mteb_asks_for() -> None:
    encoder = Encoder.load("tiny", prompt="one_word")
    queries = encoder.embed([Item(w, text=w) for w in ("red", "green", "blue")], "query")
    repair = PerGroup(ShrinkageZCA(), "joint").fit(queries)
    plain, repaired = MtebRetriever(encoder), MtebRetriever(encoder, repair)
    other = MtebRetriever(Encoder.load("tiny", prompt="plain"), name="owner/name")
    assert isinstance(plain, EncoderProtocol)
    meta = plain.mteb_model_meta
    assert (meta.name, set(meta.modalities)) == ("clearsight/tiny", {"text", "image"})
    assert other.mteb_model_meta.name == "owner/name"
    revisions = {one.mteb_model_meta.revision for one in (plain, repaired, other)}
    assert len(revisions) == 3, "results of one must not be taken for the other's"
    assert meta.revision == MtebRetriever(encoder).mteb_model_meta.revision


def test_a_text_model_says_so_to_mteb(tmp_path: Path) -> None:
    from small.stock import write_text

    retriever = MtebRetriever(Encoder.load(write_text(tmp_path / "text")))
    assert retriever.mteb_model_meta.modalities == ["text"]
    with pytest.raises(ValueError, match="none overlap"):
        mteb.evaluate(
            retriever,
            as_mteb(task_of(("image", "image")), "i2i"),
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
        )


@pytest.mark.parametrize("kinds", [("text", "image"), ("image", "text")])
def test_mteb_reranks_as_we_do(kinds: Any) -> None:
    """Every pair judged by our scorer through mteb's cross-encoder door: the measures of our own scores."""
    task = task_of(kinds, count=8)
    reranker = Reranker.load("tiny", scorer="likelihood")
    fine = {q.id: reranker.scorer.score(q, task.candidates) for q in task.queries}
    ranks = [{c.id: float(s) for c, s in zip(task.candidates, fine[q.id], strict=True)} for q in task.queries]
    ranking = of_lists({q.id: one for q, one in zip(task.queries, ranks, strict=True)}, task)
    ours = score(ranking, task.relevance, task.measures)
    top_ranked = {q.id: [c.id for c in task.candidates] for q in task.queries}
    judged = as_mteb(task, "2".join(LETTER[k] for k in kinds))
    judged.load_data()
    judged.dataset["default"]["test"]["top_ranked"] = top_ranked
    theirs = mteb_scores(MtebReranker(reranker), judged)
    for measure, name in MEASURES.items():
        assert theirs[name] == pytest.approx(ours[measure].mean, abs=1e-5), measure
    assert isinstance(MtebReranker(reranker), CrossEncoderProtocol)
    with pytest.raises(UsageError, match="pairs"):
        MtebReranker(Reranker.load("tiny", scorer="listwise"))
