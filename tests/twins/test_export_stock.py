"""Exported folders in the real sentence-transformers: equal vectors, and the token ids of our own wording.

Needs torchvision beside the test environment (`make test-peers`). One process, which never loads Clearsight,
answers for every folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.errors import ClearsightError
from clearsight.jobs.export import ExportConfig, export
from clearsight.jobs.verify import VerifyConfig, verify
from clearsight.models.prompts import prompt_names
from clearsight.types import MODALITIES
from export_forms import (
    Form,
    Made,
    aligned,
    by_modality,
    by_side,
    chained,
    chained_with_norms,
    jointly,
    make,
    make_items,
)

pytestmark = pytest.mark.peers

TOLERANCE = 1e-5
STOCK = {
    "tiny": Form("tiny", "one_word", "mean", jointly),
    "tiny, apart": Form("tiny", "hierarchical", "last", by_side),
    "tiny, no repair": Form("tiny", "freeret", "last"),
    "tiny, two layers": Form("tiny", "plain", "mean", chained_with_norms),
    "qwen2_vl, layer 1": Form("qwen2_vl", "one_word", "mean", chained, layer=1),
    "qwen2_5_vl": Form("qwen2_5_vl", "hierarchical", "last", by_side),
    "qwen3_vl": Form("qwen3_vl", "one_word", "mean", jointly),
    "llava": Form("llava", "hierarchical", "last", by_side),
    "llava_next": Form("llava_next", "one_word", "mean", jointly),
    "paligemma": Form("paligemma", "one_word", "mean", jointly),
    "paligemma, apart": Form("paligemma", "hierarchical", "last", by_side),
    "chameleon": Form("chameleon", "one_word", "mean", jointly),
    "chameleon, apart": Form("chameleon", "hierarchical", "last", by_side),
    "smolvlm": Form("smolvlm", "one_word", "last", jointly),
    "gemma3": Form("gemma3", "one_word", "mean", jointly),
    "internvl": Form("internvl", "one_word", "last", jointly),
    "clip": Form("clip", "plain", "mean", by_side),
    "siglip2": Form("siglip2", "plain", "mean", jointly),
    "tiny-contrastive": Form("tiny-contrastive", "plain", "mean", jointly),
    **{f"prompt {name}": Form("qwen2_vl", name) for name in prompt_names()},
}
SIDES = {
    "text to image": Form("tiny", fit=aligned, sides={"queries": "text", "candidates": "image"}),
    "both to image": Form("tiny", fit=aligned, sides={"queries": "image+text", "candidates": "image"}),
}
REMOTE = {
    "no prompt tokens": Form("qwen2_vl", "hierarchical", "mean_no_prompt", remote=True),
    "no prompt tokens, metaspace": Form("llava", "one_word", "mean_no_prompt", remote=True),
    "no prompt tokens, tiles": Form("smolvlm", "plain", "mean_no_prompt", by_modality, remote=True),
    "no image tokens": Form("tiny", "one_word", "mean_no_prompt", aligned, remote=True),
    "by modality": Form("tiny", "one_word", "mean", by_modality, remote=True),
    "attention": Form("tiny", "freeret", "last_attention", jointly, remote=True),
    "attention, norm": Form("chameleon", "freeret", "last_attention_norm", remote=True),
    "fused": Form("clip", "one_word", "mean", by_modality, remote=True),
    "fused, padded": Form("siglip2", "plain", "mean", by_modality, remote=True),
}
FORMS = {**STOCK, **SIDES, **REMOTE}


@pytest.fixture(scope="module")
def made(ask_stock: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Made, Path]]:
    """Every form, exported and embedded by sentence-transformers."""
    root = tmp_path_factory.mktemp("stock")
    items, rows = make_items(root)
    found: dict[str, tuple[Made, Path]] = {}
    requests = []
    for number, (name, form) in enumerate(FORMS.items()):
        one = make(form, root / f"folder-{number}", items, root / "models")
        place = root / f"answer-{number}"
        place.mkdir()
        found[name] = one, place
        requests.append(request(one, [rows[n] for n in one.items], [items[n] for n in one.items], place))
    ask_stock(root, requests)
    return found


def request(made: Made, rows: list[dict], items: list, place: Path) -> dict[str, Any]:
    groups = [[n for n, item in enumerate(items) if item.modality == kind] for kind in MODALITIES]
    groups = [group for group in groups if group]
    everything = [list(range(len(items)))]
    jobs = [(method, method, groups) for method in ("encode", "encode_query", "encode_document")]
    if made.plan.mixed_batches:
        jobs += [
            ("mixed_query", "encode_query", everything),
            ("mixed_document", "encode_document", everything),
        ]
    asked: dict[str, Any] = {
        "folder": str(made.folder),
        "place": str(place),
        "items": rows,
        "trust_remote_code": made.plan.form != "stock",
        "jobs": [
            {"out": str(place / f"{name}.npy"), "method": method, "batches": batches, "dtype": None}
            for name, method, batches in jobs
        ],
    }
    if made.plan.form == "stock":
        asked["ids"] = str(place / "ids.json")
    return asked


def vectors(place: Path) -> dict[str, np.ndarray]:
    refused = place / "refused.txt"
    assert not refused.exists(), refused.read_text()[-3000:]
    return {file.stem: np.load(file) for file in place.glob("*.npy")}


@pytest.mark.parametrize("name", [*STOCK, *REMOTE])
def test_vectors_are_our_own(made: dict, name: str) -> None:
    one, place = made[name]
    assert one.plan.form == ("remote code" if name in REMOTE else "stock")
    found = vectors(place)
    own = {"query": one.rows["query"], "document": one.rows["candidate"]}
    assert len(found) >= 3
    for method, rows_ND in found.items():
        expected_ND = own["query" if method.endswith("query") else "document"]
        assert rows_ND.shape == expected_ND.shape
        np.testing.assert_allclose(rows_ND, expected_ND, atol=TOLERANCE, err_msg=method)
    # A vector that does not depend on its item would pass the above.
    assert np.linalg.matrix_rank(own["document"], tol=1e-3) >= 3


@pytest.mark.parametrize("name", SIDES)
def test_a_side_of_one_modality_takes_its_map(made: dict, name: str) -> None:
    one, place = made[name]
    found, sides = vectors(place), FORMS[name].sides
    kinds = np.repeat(MODALITIES, 4)
    for method, role, side in (
        ("encode_query", "query", sides["queries"]),
        ("encode_document", "candidate", sides["candidates"]),
    ):
        chosen = kinds == side
        np.testing.assert_allclose(found[method][chosen], one.rows[role][chosen], atol=TOLERANCE)
    assert one.plan.form == "stock"


@pytest.mark.parametrize("name", STOCK)
def test_token_ids_are_our_own(made: dict, name: str) -> None:
    one, place = made[name]
    found = json.loads((place / "ids.json").read_text())
    assert found["query"] == one.ids["query"]
    assert found["document"] == found["None"] == one.ids["candidate"]


@pytest.fixture
def shimmed(stock_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", stock_path)


def test_export_then_verify(shimmed: None, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    export(ExportConfig("tiny", out=folder, prompt="hierarchical", pooling="last"))
    result = verify(VerifyConfig(str(folder), against="tiny", count=12))
    assert result.passed, result.to_json()
    assert {"against, encode_query", "against, encode_document", "mixed batch"} <= {
        check.name for check in result.checks
    }
    assert json.loads((folder / "clearsight" / "verify.json").read_text())["passed"]


def test_verify_finds_a_folder_that_was_changed(shimmed: None, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    export(ExportConfig("tiny", out=folder, prompt="plain"))
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("rule.after='", "rule.after='Now "))
    template.write_text(template.read_text().replace("after='',", "after='!',", 1))
    result = verify(VerifyConfig(str(folder), against="tiny", count=6))
    assert result.exit_code == 1
    assert {check.name for check in result.checks if check.passed is False} >= {"against, encode_query"}


def test_code_in_the_folder_is_not_run_unasked(shimmed: None, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    export(ExportConfig("tiny", out=folder, pooling="mean_no_image", remote_code=True))
    with pytest.raises(ClearsightError, match="--trust-remote-code"):
        verify(VerifyConfig(str(folder), count=6))
