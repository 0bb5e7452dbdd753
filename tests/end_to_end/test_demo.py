"""The main job, small: everything it promises is in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearsight.cli import main
from clearsight.jobs.demo import EMBEDDINGS, REPAIRS
from clearsight.report import ReportData, render_report
from clearsight.run import Run


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", "--out", str(out), "--scenes", "80", "--unlabelled", "64"]) == 0
    return out


def test_the_run_is_complete(demo_run: Path) -> None:
    run = Run.open(demo_run)
    assert run.manifest["status"] == "complete"
    assert run.manifest["seeds"] == {"run": 0}
    for name in ("scores.json", "table.json", "report.html", "report.json"):
        assert (demo_run / name).is_file(), name


def test_the_table_has_every_row(demo_run: Path) -> None:
    rows = json.loads((demo_run / "table.json").read_text())
    found = {(row["task"], row["embedding"], row["repair"], row["note"]) for row in rows}
    labels = {"base", "centred", "ReAlign", "self-aligned"}
    for prompt, pooling in EMBEDDINGS:
        for task in ("image -> text", "text -> image"):
            assert labels <= {row[2] for row in found if row[:2] == (task, f"{pooling}, {prompt}")}
    composed = {row[3] for row in found if row[0] == "image + edit -> image"}
    assert {"", "image only", "text only"} <= composed
    assert len({row for row in found if row[1] == "contrastive control"}) == 3
    for row in rows:
        assert set(row["scores"]) == {"hit_rate@1", "hit_rate@5", "hit_rate@10"}
        for score in row["scores"].values():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
        assert (row["repair"] in (REPAIRS[0], "coarse")) == (row["test"] is None) or row["note"]


def test_a_sample_is_judged_again_and_said(demo_run: Path) -> None:
    rows = [r for r in json.loads((demo_run / "table.json").read_text()) if "judged" in r["embedding"]]
    assert [row["repair"] for row in rows] == 2 * ["coarse", "likelihood", "oracle"]
    for coarse, fine, bound in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert "50 queries; top 20 judged" in fine["embedding"]
        means = [row["scores"]["hit_rate@1"]["mean"] for row in (coarse, fine, bound)]
        assert means == sorted(means)
        assert fine["scores"]["hit_rate@1"]["judged"] == 50


def test_rankings_and_relevance_can_be_rescored_by_others(demo_run: Path) -> None:
    import pytrec_eval

    run = Run.open(demo_run)
    scores = run.read_scores()
    name = next(name for name in scores if name.startswith("image-text-mean-one-word") and "refined" in name)
    ranking = run.read_trec(f"rankings/{name}.trec")
    qrels_file = next(
        path for path in (demo_run / "qrels").iterdir() if "i2t" in path.name or "image" in path.name
    )
    qrels = {
        query: {doc: int(grade) for doc, grade in docs.items()}
        for query, docs in run.read_trec(f"qrels/{qrels_file.name}").items()
    }
    measured = pytrec_eval.RelevanceEvaluator(qrels, {"success_5"}).evaluate(ranking)
    mean = sum(query["success_5"] for query in measured.values()) / len(measured)
    assert mean == pytest.approx(scores[name]["hit_rate@5"].mean, abs=1e-9)


def test_the_page_stands_alone_and_can_be_rendered_again(demo_run: Path) -> None:
    page = (demo_run / "report.html").read_text()
    assert "data:image/png" in page
    assert 'src="http' not in page
    data = ReportData.from_json((demo_run / "report.json").read_text())
    assert render_report(data) == page
