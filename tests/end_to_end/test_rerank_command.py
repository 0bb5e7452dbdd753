"""`clearsight rerank` on saved runs and TREC files: rows, files, page, refusals, what it never repeats."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clearsight.cli import main
from clearsight.errors import DataError, UsageError
from clearsight.jobs.evaluate import EvaluateConfig, evaluate
from clearsight.jobs.rerank import RerankConfig, rerank
from clearsight.run import Run

N = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerank")
    evaluate(
        EvaluateConfig(
            model="tiny",
            task=("world/i2t", "world/t2i"),
            n=N,
            repairs=("base", "realign"),
            keep=10,
            cache=folder / "vectors",
            out=folder / "run",
        )
    )
    return folder


def config(place, out, **more):
    given = {"run": place / "run", "model": "tiny", "top": 5, "cache": place / "answers", "out": out, **more}
    return RerankConfig(**given)


def test_every_task_is_judged_again_and_written(place, tmp_path):
    result = rerank(config(place, tmp_path / "out", scorer=("likelihood", "listwise"), bias=True))
    assert [row.repair for row in result.rows] == 2 * ["coarse", "likelihood", "listwise", "oracle"]
    assert {row.task for row in result.rows} == {"world/i2t", "world/t2i"}
    for coarse, likelihood, listwise, oracle in zip(*[iter(result.rows)] * 4, strict=True):
        means = [row.scores["hit_rate@1"].mean for row in (coarse, likelihood, listwise, oracle)]
        assert means[3] >= max(means)
        assert means[1] >= means[0]
        assert likelihood.test.n == N
        assert "ReAlign" in coarse.embedding
    run = Run.open(tmp_path / "out")
    assert run.manifest["status"] == "complete"
    counts = json.loads((run.folder / "counts.json").read_text())
    assert counts["world/i2t"]["listwise"]["written"] == 3 * N
    assert counts["world/i2t"]["likelihood"]["pairs"] == 5 * N
    scores = run.read_scores()
    assert len(scores) == 8
    for name in scores:
        if not name.endswith("oracle"):
            assert (run.folder / f"rankings/{name}.trec").is_file()
    page = (run.folder / "report.html").read_text()
    assert "likelihood" in page
    assert "position p" in page or counts["world/i2t"]["listwise"]["unparsed"] == 3 * N
    # The lists begin with what was judged, best first, and go on as the coarse ones did.
    for way in ("i2t", "t2i"):
        (name,) = [n for n in scores if way in n and n.endswith("likelihood")]
        fine = json.loads((run.folder / f"fine/{name}.json").read_text())
        lists = run.read_trec(f"rankings/{name}.trec")
        coarse = run.read_trec(f"rankings/{name.removesuffix('likelihood')}coarse.trec")
        for query, judged in fine.items():
            best = sorted(judged, key=judged.get, reverse=True)
            assert list(lists[query]) == best + [c for c in coarse[query] if c not in judged]


def test_a_second_run_asks_nothing(place, tmp_path):
    first = rerank(config(place, tmp_path / "a", scorer=("choice",)))
    again = rerank(config(place, tmp_path / "b", scorer=("choice",)))
    assert first.questions > 0
    assert again.questions == 0
    for one, other in zip(first.rows, again.rows, strict=True):
        np.testing.assert_array_equal(one.scores["hit_rate@1"].values_Q, other.scores["hit_rate@1"].values_Q)


def test_a_sample_is_drawn_by_the_seed_and_said(place, tmp_path):
    rows = [
        rerank(config(place, tmp_path / str(i), queries=4, seed=seed)).rows
        for i, seed in enumerate((0, 0, 1))
    ]
    assert all(row.scores["hit_rate@1"].judged == 4 for some in rows for row in some)
    assert "4 queries" in rows[0][0].embedding
    lists = [[*Run.open(tmp_path / str(i)).read_scores()] for i in range(3)]
    names = [Run.open(tmp_path / str(i)).read_trec(f"rankings/{lists[i][0]}.trec").keys() for i in range(3)]
    assert names[0] == names[1] != names[2]


def test_a_ranking_by_name_and_a_trec_file(place, tmp_path):
    (name,) = [n for n in Run.open(place / "run").read_scores() if "t2i" in n and n.endswith("base")]
    by_name = rerank(config(place, tmp_path / "a", ranking=(name,)))
    file = place / "run" / "rankings" / f"{name}.trec"
    by_file = rerank(config(place, tmp_path / "b", run=file, task="world/t2i", n=N))
    for one, other in zip(by_name.rows, by_file.rows, strict=True):
        for measure, score in one.scores.items():
            assert other.scores[measure].mean == pytest.approx(score.mean)
    # The coarse row is that of the run.
    before = Run.open(place / "run").read_scores()[name]
    assert by_name.rows[0].scores["hit_rate@5"].mean == pytest.approx(before["hit_rate@5"].mean)


def test_bad_input_is_told(place, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no such run"):
        rerank(config(place, out, run=tmp_path / "none"))
    with pytest.raises(UsageError, match="no ranking 'best'"):
        rerank(config(place, out, ranking=("best",)))
    file = next((place / "run" / "rankings").glob("*.trec"))
    with pytest.raises(UsageError, match="does not say its task"):
        rerank(config(place, out, run=file))
    with pytest.raises(DataError, match="another task"):
        rerank(config(place, out, run=file, task="world/i2t", n=N, seed=5))
    with pytest.raises(UsageError, match="keeps 10 candidates"):
        rerank(config(place, out, top=11))
    with pytest.raises(UsageError, match="no language head"):
        rerank(config(place, out, model="tiny-contrastive"))
    with pytest.raises(UsageError, match="scorer"):
        rerank(config(place, out, scorer=("best",)))
    with pytest.raises(UsageError, match="queries is 0"):
        rerank(config(place, out, queries=0))
    with pytest.raises(UsageError, match="choice"):
        rerank(config(place, out, scorer=("listwise",), enhancement="release"))


def test_the_command_line(place, tmp_path, capsys):
    flags = [
        "--scorer",
        "p_true",
        "--top",
        "3",
        "--queries",
        "3",
        "--cache",
        str(place / "answers"),
        "--json",
    ]
    assert main(["rerank", str(place / "run"), "--out", str(tmp_path / "out"), *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["repair"] for row in printed["rows"]][:3] == ["coarse", "p_true", "oracle"]
    assert main(["rerank", str(tmp_path / "none"), "--out", str(tmp_path / "two")]) == 3


def test_evaluate_judges_again_in_one_go(place, tmp_path):
    more = {"rerank": ("likelihood", "p_true"), "rerank_top": 4, "rerank_queries": 6, "rerank_model": "tiny"}
    result = evaluate(
        EvaluateConfig(
            model="tiny-contrastive",
            task=("world/t2i",),
            n=N,
            repairs=("base", "centred"),
            cache=place / "vectors",
            out=tmp_path / "run",
            **more,
        )
    )
    assert [row.repair for row in result.rows][2:] == ["coarse", "likelihood", "p_true", "oracle"]
    assert [row.scores["hit_rate@1"].judged for row in result.rows] == [N, N, 6, 6, 6, 6]
    run = Run.open(tmp_path / "run")
    assert len(run.read_scores()) == 6
    assert "likelihood" in (run.folder / "report.html").read_text()
    # What evaluate has written can be reranked, deeper than the ten of its table.
    deeper = rerank(config(place, tmp_path / "deeper", run=tmp_path / "run", top=N, queries=2))
    assert deeper.rows[0].scores["hit_rate@1"].judged == 2


def test_evaluate_refuses_what_it_cannot_judge(place, tmp_path):
    given = {"task": ("world/t2i",), "n": N, "out": tmp_path / "run", "cache": place / "vectors"}
    with pytest.raises(UsageError, match="no language head"):
        evaluate(EvaluateConfig(model="tiny-contrastive", rerank=("likelihood",), **given))
    with pytest.raises(UsageError, match="scorer"):
        evaluate(EvaluateConfig(model="tiny", rerank=("best",), **given))
    with pytest.raises(UsageError, match="no items"):
        evaluate(EvaluateConfig(vectors=tmp_path, rerank=("likelihood",), out=tmp_path / "run"))
    with pytest.raises(UsageError, match="keep is 3"):
        evaluate(EvaluateConfig(model="tiny", keep=3, **given))
