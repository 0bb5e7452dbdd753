"""Vectors one already has go straight to repair, ranking and measures; no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clearsight import Embeddings, load_repair, load_vectors
from clearsight.cli import main
from clearsight.data import save_vectors
from clearsight.run import Run

N, D = 300, 24


def two_views(folder: Path, seed: int = 0) -> Path:
    """Two noisy linear views of one latent, turned, stretched, far apart: the shape of the modality gap."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    latent, scale = rng.normal(size=(2 * N, D)), np.geomspace(10, 0.1, D)
    turn, _ = np.linalg.qr(rng.normal(size=(D, D)))
    views = {
        "image": latent * scale + rng.normal(size=latent.shape) * 0.02 + rng.normal(size=D) * 5,
        "text": latent * scale @ turn + rng.normal(size=latent.shape) * 0.02 + rng.normal(size=D) * 5,
    }
    names = {
        "queries": ("image", slice(0, N)),
        "candidates": ("text", slice(0, N)),
        "pair_images": ("image", slice(N, None)),
        "pair_captions": ("text", slice(N, None)),
    }
    for name, (view, part) in names.items():
        rows = views[view][part]
        side = "query" if name == "queries" else "candidate"
        ids = [f"{name}-{i}" for i in range(len(rows))]
        save_vectors(folder / f"{name}.parquet", Embeddings.of(ids, rows, side=side, modality=view))
    pairs = [f"queries-{i}\tcandidates-{i}\t1" for i in range(N)]
    (folder / "relevance.tsv").write_text("\n".join(["query_id\tcandidate_id\tgrade", *pairs]) + "\n")
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_views(tmp_path_factory.mktemp("vectors") / "v")


def test_evaluate(vectors: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    repairs = "base,centred,realign,self_aligned,refined"
    assert (
        main(["evaluate", "--vectors", str(vectors), "--out", str(out), "--repairs", repairs, "--json"]) == 0
    )
    result = json.loads(capfd.readouterr().out)
    hits = {row["repair"]: row["scores"]["hit_rate@1"]["mean"] for row in result["rows"]}
    assert hits["base"] < hits["self-aligned"]
    assert hits["centred"] < hits["self-aligned"]
    run = Run.open(out)
    assert run.manifest["status"] == "complete"
    assert len(run.read_scores()) == 5
    page = (out / "report.html").read_text()
    assert "self-aligned" in page
    assert "Traceback" not in page


def test_self_alignment_without_pairs_says_what_is_missing(
    vectors: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("queries.parquet", "candidates.parquet", "relevance.tsv"):
        (bare / name).write_bytes((vectors / name).read_bytes())
    code = main(
        ["evaluate", "--vectors", str(bare), "--out", str(tmp_path / "run"), "--repairs", "self_aligned"]
    )
    assert code == 2
    assert "--unlabelled" in capfd.readouterr().err


def test_repair_then_apply_to_one_new_query(vectors: Path, tmp_path: Path) -> None:
    fitted, again = tmp_path / "fitted", tmp_path / "again"
    both = [str(vectors / "candidates.parquet"), "--queries", str(vectors / "queries.parquet")]
    assert main(["repair", *both, "--out", str(fitted), "--shrinkage", "0.3"]) == 0
    one = load_vectors(vectors / "queries.parquet").take([7])
    save_vectors(tmp_path / "one.parquet", one)
    saved = str(fitted / "repair.safetensors")
    applied = [
        str(vectors / "candidates.parquet"),
        "--queries",
        str(tmp_path / "one.parquet"),
        "--apply",
        saved,
    ]
    assert main(["repair", *applied, "--out", str(again)]) == 0
    whole = load_vectors(fitted / "queries.parquet")
    single = load_vectors(again / "queries.parquet")
    np.testing.assert_allclose(single.rows_ND[0], whole.rows_ND[7], rtol=1e-5, atol=1e-6)
    assert load_repair(saved).describe()["settings"]["shrinkage"] == 0.3


def test_a_run_is_not_overwritten_unasked(
    vectors: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["repair", str(vectors / "candidates.parquet"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert main(command) != 0
    assert "--overwrite" in capfd.readouterr().err
    assert main([*command, "--overwrite"]) == 0
