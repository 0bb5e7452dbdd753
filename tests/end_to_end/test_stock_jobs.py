"""The commands on a sentence-transformers folder: evaluate, embed, repair, diagnose, info."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearsight.data import load_vectors
from clearsight.errors import UsageError
from clearsight.jobs.diagnose import DiagnoseConfig, diagnose
from clearsight.jobs.embed import EmbedConfig, embed
from clearsight.jobs.evaluate import EvaluateConfig, evaluate
from clearsight.jobs.info import ModelConfig, info_model
from clearsight.jobs.repair import RepairConfig, repair
from small.stock import write_clip, write_static, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("stock") / "clip"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Own files: 30 texts and the images they belong to."""
    folder = tmp_path_factory.mktemp("task")
    queries, candidates, relevance = [], [], []
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 255, (36, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        queries.append({"id": f"q{i}", "text": f"picture number {i} " * (1 + i % 3)})
        candidates.append({"id": f"c{i}", "image": f"{i}.png"})
        relevance.append({"query_id": f"q{i}", "candidate_id": f"c{i}", "grade": 1})
    for name, rows in (("queries", queries), ("candidates", candidates), ("relevance", relevance)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def test_evaluate(model: str, task: str, tmp_path: Path) -> None:
    config = EvaluateConfig(model=model, task=(task,), out=tmp_path / "run", cache=tmp_path / "cache")
    evaluate(config)
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    assert {row["repair"] for row in table} == {"base", "centred", "ReAlign"}
    assert (tmp_path / "run" / "report.html").is_file()


def test_evaluate_refuses_a_task_before_embedding(task: str, tmp_path: Path) -> None:
    """The queries are texts, which the model reads: they are not embedded in vain."""
    text_model = write_text(tmp_path / "text")
    cache = tmp_path / "cache"
    with pytest.raises(UsageError, match="30 that are image; the model reads text alone"):
        evaluate(EvaluateConfig(model=str(text_model), task=(task,), out=tmp_path / "run", cache=cache))
    assert not cache.exists()


def test_embed_then_repair(model: str, task: str, tmp_path: Path) -> None:
    vectors = tmp_path / "v.parquet"
    result = embed(EmbedConfig(model=model, items=Path(task), out=vectors, cache=tmp_path / "cache"))
    assert result.embeddings.width == 24
    repair(RepairConfig(candidates=vectors, out=tmp_path / "repair"))
    repaired = load_vectors(tmp_path / "repair" / "candidates.parquet", side="candidate")
    assert repaired.rows_ND.shape == (30, 24)
    assert np.abs(repaired.rows_ND - result.embeddings.rows_ND).max() > 0.1


def test_diagnose(model: str, task: str, tmp_path: Path) -> None:
    places = {"out": tmp_path / "run", "work": tmp_path / "work"}
    result = diagnose(
        DiagnoseConfig(models=(model,), data=task, unlabelled="0", epochs=2, method="pca", **places)
    )
    assert (result.run / "report.html").is_file()
    assert result.findings


@pytest.mark.parametrize("write", [write_clip, write_static])
def test_info(write: object, tmp_path: Path) -> None:
    facts = info_model(ModelConfig(str(write(tmp_path / "model")))).values  # type: ignore[operator]
    assert facts["class"] == "SentenceTransformer"
    assert facts["family"] == "sentence-transformers"
    assert facts["parameters"] > 0
