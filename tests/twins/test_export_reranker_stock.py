"""Exported rerankers in the real CrossEncoder: equal scores for every pair of modalities.

Needs torchvision beside the test environment (`make test-peers`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.formats.cross_encoder import PairJudge, plan_reranker, reranker_facts
from clearsight.formats.sentence_transformers_folder import write_export
from clearsight.jobs.export import ExportConfig, export
from clearsight.jobs.verify import VerifyConfig, verify
from clearsight.rerank import Reranker
from clearsight.types import Item
from export_forms import make_items
from families.build import BUILDERS

pytestmark = pytest.mark.peers

FORMS = {
    "tiny": ("tiny", "p_true"),
    "tiny, number": ("tiny", "number"),
    **{
        name: (name, "p_true")
        for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paligemma", "gemma3", "internvl")
    },
    **{f"{name}, number": (name, "number") for name in ("gemma3", "qwen2_vl")},
}


def pairs_of(items: list[Item], several_images: bool) -> list[tuple[int, int]]:
    """Each pair of modalities twice: items are four texts, four images, four of both."""
    pairs = [(4 * a + n, 4 * b + (n + 1) % 4) for a in range(3) for b in range(3) for n in range(2)]
    return [pair for pair in pairs if several_images or sum(items[n].image is not None for n in pair) < 2]


@pytest.fixture(scope="module")
def scored(ask_stock: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Form -> our scores, and where the process put its own."""
    root = tmp_path_factory.mktemp("rerankers")
    items, rows = make_items(root)
    found: dict[str, tuple[Any, Path]] = {}
    requests = []
    for number, (name, (model, scorer)) in enumerate(FORMS.items()):
        place = root / f"{number}"
        source = model if model == "tiny" else BUILDERS[model](place / "model")
        reranker = Reranker.load(source, scorer=scorer)
        judge = PairJudge(reranker)
        plan = plan_reranker(judge)
        write_export(place / "folder", judge, plan, facts=reranker_facts(judge, plan), card="# card")
        pairs = pairs_of(items, judge.loaded.family.several_images)
        own = np.array([reranker.scorer.score(items[q], [items[d]])[0] for q, d in pairs])
        kinds = [(items[q].modality, items[d].modality) for q, d in pairs]
        each = [[n for n, one in enumerate(kinds) if one == kind] for kind in sorted(set(kinds))]
        whole = [list(range(len(pairs)))] if plan.mixed_batches else each
        jobs = [
            {"out": str(place / f"{out}.npy"), "method": "predict", "batches": batches, "dtype": None}
            for out, batches in (("each", each), ("whole", whole))
        ]
        common = {"folder": str(place / "folder"), "place": str(place), "trust_remote_code": False}
        requests.append({**common, "items": rows, "pairs": pairs, "jobs": jobs})
        found[name] = own, place
    ask_stock(root, requests)
    return found


@pytest.mark.parametrize("name", FORMS)
def test_scores_are_our_own(scored: dict, name: str) -> None:
    own, place = scored[name]
    refused = place / "refused.txt"
    assert not refused.exists(), refused.read_text()[-3000:]
    assert np.ptp(own) > 1e-3, "a score that does not depend on its pair would pass what follows"
    for out in ("each", "whole"):
        np.testing.assert_allclose(np.load(place / f"{out}.npy"), own, atol=1e-4, err_msg=out)


def test_export_then_verify(stock_path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", stock_path)
    export(ExportConfig("tiny", out=tmp_path / "out", scorer="p_true"))
    result = verify(VerifyConfig(str(tmp_path / "out"), against="tiny", count=6))
    assert result.passed, result.to_json()
    assert {"against, predict", "mixed batch", "fresh process"} <= {check.name for check in result.checks}
