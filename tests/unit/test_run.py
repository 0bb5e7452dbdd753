"""The Run folder: written whole or not at all, read back equal, never over something else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from clearsight.errors import DataError, UsageError
from clearsight.files import write_atomic
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.run import Run, escape_id, read_trec, unescape_id
from clearsight.types import Embeddings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""


@dataclass(frozen=True)
class Config:
    out: Path
    sizes: tuple[int, ...] = (1, 2)
    rate: float = float("nan")


@pytest.fixture
def ranking():
    random = np.random.default_rng(0)
    left = Embeddings.of(["a b", "b%20", "ü\u2028", ""], random.normal(size=(4, 5)))
    right = Embeddings.of([f"c\t{i}" for i in range(7)], random.normal(size=(7, 5)))
    relevance = {"a b": {"c\t1": 1, "c\t2": 2.5}, "": {"c\t3": 1}}
    return rank(left, right, 4, relevance=relevance, pools={"b%20": ["c\t0"]}), relevance


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_a_run_tells_what_happened(tmp_path):
    folder = tmp_path / "new" / "run"
    with Run.create(folder, "evaluate", Config(tmp_path), seed=3) as run:
        assert manifest(folder)["status"] == "running"
        run.warn("one text was cut")
        run.skip("item 7", "truncated image")
        run.note(seeds={"instructions": 5}, model={"revision": "abc"})
        run.write_text("sub/note.txt", "ü")
    found = manifest(folder)
    assert found["status"] == "complete"
    assert found["job"] == "evaluate"
    assert found["config"] == {"out": str(tmp_path), "sizes": [1, 2], "rate": None}
    assert found["seeds"] == {"run": 3, "instructions": 5}
    assert found["warnings"] == ["one text was cut"]
    assert found["skipped"] == [{"id": "item 7", "reason": "truncated image"}]
    assert found["files"] == ["sub/note.txt"]
    assert found["started"] <= found["finished"]
    assert {"python", "platform", "packages", "commit", "cpu", "cores", "memory_gib"} == set(
        found["environment"]
    )
    assert found["environment"]["packages"]["numpy"] == np.__version__
    assert Run.open(folder).manifest == found


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/opt/bin/clearsight", "demo", "--out", "my run"], "clearsight demo --out 'my run'"),
        (["/x/clearsight/__main__.py", "info"], "python -m clearsight info"),
    ],
)
def test_the_command_can_be_repeated(tmp_path, monkeypatch, argv, shown):
    monkeypatch.setattr("sys.argv", argv)
    assert Run.create(tmp_path / "run", "x", {}).command == shown


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_says_so(tmp_path, error):
    with pytest.raises(error), Run.create(tmp_path / "run", "demo", {}):
        raise error
    assert manifest(tmp_path / "run")["status"] == "interrupted"


def test_scores_come_back_equal(tmp_path, ranking):
    scores = {"base": score(ranking[0], ranking[1], ("hit_rate@1", "ndcg@3"))}
    assert np.isnan(scores["base"]["ndcg@3"].values_Q).any()
    Run.create(tmp_path / "run", "x", {}).write_scores(scores)
    back = Run.open(tmp_path / "run").read_scores()
    assert list(back) == ["base"]
    for name, ours in scores["base"].items():
        theirs = back["base"][name]
        np.testing.assert_array_equal(ours.values_Q, theirs.values_Q)
        for field in (
            "measure",
            "mean",
            "low",
            "high",
            "optimistic",
            "pessimistic",
            "judged",
            "tie_rate",
            "chance",
        ):
            assert getattr(ours, field) == getattr(theirs, field)


def test_rankings_and_relevance_come_back_equal(tmp_path, ranking):
    found, relevance = ranking
    run = Run.create(tmp_path / "run", "x", {})
    run.write_ranking("rankings/base.trec", found)
    run.write_qrels("qrels.trec", relevance)
    assert run.read_trec("qrels.trec") == relevance
    back = run.read_trec("rankings/base.trec")
    assert list(back) == list(found.query_ids)
    for q, query in enumerate(found.query_ids):
        listed = {
            found.candidate_ids[r]: s
            for r, s in zip(found.rows_QK[q], found.scores_QK[q], strict=True)
            if r >= 0
        }
        assert {name: np.float32(value) for name, value in back[query].items()} == listed


@settings(PATIENT)
@given(st.text() | st.text(st.characters(categories=["Cs", "Zs", "Cc"])))
def test_ids_are_escaped_reversibly(name):
    column = escape_id(name)
    assert column.split() == [column]
    assert column.encode()
    assert unescape_id(column) == name


def test_a_broken_trec_file_is_named(tmp_path):
    path = tmp_path / "x.trec"
    path.write_text("q Q0 c 1 0.5 t\n\nq 0 c\n")
    with pytest.raises(DataError, match=r"3 columns.*x\.trec:3"):
        read_trec(path)
    with pytest.raises(DataError, match="no such TREC file"):
        read_trec(tmp_path / "none.trec")


def test_tensors_come_back_equal_whatever_their_memory_order(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = Run.create(tmp_path / "run", "x", {}).write_tensors(
        "vectors.safetensors", {"t": rows.T}, {"made": "here"}
    )
    np.testing.assert_array_equal(load_file(path)["t"], rows.T)


def test_json_knows_arrays_and_has_no_nan(tmp_path):
    value = {"a": np.array([1.5, np.inf]), "b": np.int64(3), "c": {2, 1}, "d": None, "e": "\udc80 ü"}
    path = Run.create(tmp_path / "run", "x", {}).write_json("x.json", value)
    assert json.loads(path.read_text()) == {"a": [1.5, None], "b": 3, "c": [1, 2], "d": None, "e": "\udc80 ü"}


def test_what_is_not_a_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "manifest.json").write_text('{"kind": "something else"}')
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not a run"):
            Run.create(tmp_path, "x", {}, overwrite=overwrite)
        with pytest.raises(UsageError, match="not a run"):
            Run.create(tmp_path / "thesis.tex", "x", {}, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(DataError, match="No run lies"):
        Run.open(tmp_path)


def test_an_older_run_is_replaced_only_when_asked(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()  # an empty folder is fine
    Run.create(folder, "old", {}).write_text("old.txt", "old")
    (folder / "mine.txt").write_text("mine")
    outside = tmp_path / "outside.txt"
    outside.write_text("not the run's")
    forged = manifest(folder)
    forged["files"].append("../outside.txt")
    (folder / "manifest.json").write_text(json.dumps(forged))
    with pytest.raises(UsageError, match="already lies"):
        Run.create(folder, "new", {})
    Run.create(folder, "new", {}, overwrite=True)
    assert manifest(folder)["job"] == "new"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "mine.txt"]
    assert outside.exists()


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "a/../../x", "manifest.json"])
def test_names_stay_within_the_folder(tmp_path, name):
    run = Run.create(tmp_path / "run", "x", {})
    with pytest.raises(UsageError, match="cannot be a file"):
        run.write_text(name, "x")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interrupted_run_is_begun_again_without_asking(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "run", "x", {}):
        raise KeyboardInterrupt
    with Run.create(tmp_path / "run", "x", {}):
        pass
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "complete"
    with pytest.raises(UsageError, match="already lies"):
        Run.create(tmp_path / "run", "x", {})


def test_a_folder_of_the_run_goes_with_it(tmp_path):
    """Figures are written by others into a folder that the run names."""
    folder = tmp_path / "run"
    with Run.create(folder, "old", {}) as run:
        figures = run.path("figures")
        figures.mkdir()
        (figures / "a.svg").write_text("<svg/>")
    (folder / "notes.md").write_text("mine")
    Run.create(folder, "new", {}, overwrite=True)
    assert not figures.exists()
    assert (folder / "notes.md").read_text() == "mine"
