"""MMEB-eval: V1 and V2 give the same task; numbers by hand; a collapsed encoder scores chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearsight.data import load_task, open_image
from clearsight.data.benchmarks import BENCHMARKS, looks_like
from clearsight.data.benchmarks.mmeb_sets import (
    GROUPS,
    IMAGE_TOKEN,
    SETS,
    image_place,
    make_item,
    split,
    without_token,
)
from clearsight.data.tables import Skipped
from clearsight.errors import DataError, UsageError
from clearsight.jobs.compare import tie_warnings
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.report import ResultRow
from clearsight.types import Embeddings, Task
from small.coco import write_coco
from small.mmeb import ONE_OF_EACH, V1, mmeb_rows, write_mmeb


def scored(task: Task, query_QD: np.ndarray[Any, Any], candidate_ND: np.ndarray[Any, Any]) -> Any:
    queries = Embeddings.of([i.id for i in task.queries], query_QD, side="query")
    candidates = Embeddings.of([i.id for i in task.candidates], candidate_ND)
    ranking = rank(queries, candidates, 10, relevance=task.relevance, pools=task.pools)
    return score(ranking, task.relevance, task.measures, resamples=50)


def naive_precision(rows: list[dict[str, Any]], task: Task, vector_of: Any) -> float:
    """The usual evaluation: the first of the best among the row's own targets; right where it is index 0."""
    hits = []
    for query, row in zip(task.queries, rows, strict=True):
        similar = [
            float(vector_of(query.id) @ vector_of((text, image)))
            for text, image in zip(row["tgt_text"], row["tgt_img_path"], strict=True)
        ]
        hits.append(int(np.argmax(similar)) == 0)
    return float(np.mean(hits))


def test_the_36_sets_and_their_groups() -> None:
    sizes = {name: len(members) for name, members in GROUPS.items()}
    assert sizes == {
        "classification": 10,
        "VQA": 10,
        "retrieval": 12,
        "grounding": 4,
        "in-domain": 20,
        "out-of-domain": 16,
        "all": 36,
    }
    assert {"MSCOCO", "VisDial", "N24News"} <= set(GROUPS["in-domain"])
    assert {"RefCOCO", "EDIS", "GQA", "Country211"} <= set(GROUPS["out-of-domain"])
    assert BENCHMARKS.get("mmeb").sets == tuple(SETS)


@pytest.mark.parametrize("name", SETS)
def test_v1_and_v2_give_the_same_task(name: str, tmp_path: Path) -> None:
    one, two = (
        load_task(f"mmeb/{name}", data=write_mmeb(tmp_path / str(v), (name,), version=v)) for v in (1, 2)
    )

    def shown(task: Task) -> list[Any]:
        return [
            [(i.id, i.text, i.instruction, i.image and Path(str(i.image)).name) for i in side]
            for side in (task.queries, task.candidates)
        ] + [task.relevance, task.pools, task.candidate_role]

    assert shown(one) == shown(two)
    for task in (one, two):
        assert all(q.instruction and q.instruction.startswith(SETS[name].query[0]) for q in task.queries)
        assert all(bool(c.instruction) == bool(SETS[name].candidate) for c in task.candidates)
        words = [i.text for side in (task.queries, task.candidates) for i in side if i.text]
        assert not any(IMAGE_TOKEN in text or text != text.strip() for text in words)
        assert open_image(next(i.image for i in (*task.queries, *task.candidates) if i.image)).size[0] > 0


def test_candidates_are_queries_in_one_set_alone() -> None:
    assert [name for name, row in SETS.items() if row.candidate_role == "query"] == ["RefCOCO-Matching"]


def test_pools_share_candidates_and_repeat_none(tmp_path: Path) -> None:
    task = load_task("mmeb/MSCOCO_t2i", data=write_mmeb(tmp_path, ("MSCOCO_t2i",), n=6, pool=4))
    assert len(task.candidates) == 6  # 25 targets in the rows
    assert [len(pool) for pool in task.pools.values()] == [4] * 6
    assert all(task.pools[q][0] in grades for q, grades in task.relevance.items())
    assert task.measures[0] == "hit_rate@1"
    assert len(load_task("mmeb/MSCOCO_t2i", data=tmp_path, n=2).queries) == 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [None, 3, 1])
def test_score_equals_the_naive_one_but_for_ties(seed: int, levels: int | None, tmp_path: Path) -> None:
    """Vectors rounded to few levels tie; one level is a collapsed encoder: naive 100%, ours chance."""
    rng = np.random.default_rng(seed)
    write_mmeb(tmp_path, ("EDIS",), n=8, pool=5)
    rows = pq.read_table(tmp_path / "EDIS/test-00000-of-00001.parquet").to_pylist()
    task = load_task("mmeb/EDIS", data=tmp_path)
    query_QD, candidate_ND = rng.normal(size=(8, 1)), rng.normal(size=(len(task.candidates), 1))
    if levels is None:
        query_QD, candidate_ND = rng.normal(size=(8, 6)), rng.normal(size=(len(task.candidates), 6))
    else:
        query_QD = np.ones((8, 2))
        angle = rng.integers(0, levels, len(task.candidates)) * 0.3
        candidate_ND = np.stack([np.cos(angle), np.sin(angle)], 1)
    unit_ND = (candidate_ND / np.linalg.norm(candidate_ND, axis=1, keepdims=True)).round(6)
    of_query = {i.id: row for i, row in zip(task.queries, query_QD, strict=True)}
    of_target = {
        (i.text, Path(str(i.image)).name): row for i, row in zip(task.candidates, unit_ND, strict=True)
    }

    def vector_of(key: Any) -> Any:
        if isinstance(key, str):
            return of_query[key]
        text = split(without_token(key[0]), SETS["EDIS"].candidate)[1]
        return of_target[text, Path(key[1]).name]

    result = scored(task, query_QD, candidate_ND)["hit_rate@1"]
    naive = naive_precision(rows, task, vector_of)
    assert result.optimistic == pytest.approx(naive)
    assert result.pessimistic <= result.mean <= result.optimistic
    if levels is None:
        assert result.mean == pytest.approx(naive)
    if levels == 1:
        assert (naive, result.tie_rate) == (1.0, 1.0)
        assert result.mean == pytest.approx(result.chance) == pytest.approx(1 / 5)


def test_a_collapsed_encoder_scores_one_in_a_thousand(tmp_path: Path) -> None:
    texts = [f"answer {j}" for j in range(1000)]
    rows = [
        {
            "qry_text": f"{IMAGE_TOKEN}\nRepresent the given image with the following question: {q}?\n",
            "qry_img_path": "",
            "tgt_text": texts[q:] + texts[:q],
            "tgt_img_path": [""] * 1000,
        }
        for q in range(20)
    ]
    (tmp_path / "GQA").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, V1), tmp_path / "GQA/test-00000-of-00001.parquet")
    task = load_task("mmeb/GQA", data=tmp_path)
    assert len(task.candidates) == 1000
    result = scored(task, np.ones((20, 3)), np.ones((1000, 3)))["hit_rate@1"]
    assert result.mean == pytest.approx(0.001)
    assert (result.optimistic, result.pessimistic) == (1.0, 0.0)
    [said] = tie_warnings([ResultRow("mmeb/GQA", "mean", "base", {"hit_rate@1": result})])
    assert "100% of the queries. hit_rate@1 0.1% is its expected value" in said
    assert "lists the right answer first would report 100.0%, a strict one 0.0%" in said


def test_by_hand(tmp_path: Path) -> None:
    """Three queries in the plane. q0: its positive is nearest: 1. q1: one of two negatives is nearer: 0.
    q2: its positive ties with one negative: 1/2. Mean 1/2; reciprocal ranks 1, 1/2, 3/4."""
    rows = [
        {"qry_text": "a", "qry_img_path": "", "tgt_text": ["east", "north"], "tgt_img_path": ["", ""]},
        {"qry_text": "b", "qry_img_path": "", "tgt_text": ["north", "east", "west"], "tgt_img_path": []},
        {"qry_text": "c", "qry_img_path": "", "tgt_text": ["east", "north", "west"], "tgt_img_path": None},
    ]
    (tmp_path / "GQA").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, V1), tmp_path / "GQA/test-00000-of-00001.parquet")
    task = load_task("mmeb/GQA", data=tmp_path)
    assert [c.text for c in task.candidates] == ["east", "north", "west"]
    assert [q.instruction for q in task.queries] == [None] * 3  # no known instruction: the words stay
    result = scored(task, np.array([[1, 0], [1, 0.1], [1, 1]]), np.array([[1, 0], [0, 1], [-1, 0]]))
    assert result["hit_rate@1"].values_Q.tolist() == [1.0, 0.0, 0.5]
    assert result["mrr"].values_Q.tolist() == [1.0, 0.5, 0.75]
    assert result["hit_rate@1"].mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (f"{IMAGE_TOKEN}\nWhat is it?\n", "first", "What is it?"),
        (f"What is it? {IMAGE_TOKEN}", "last", "What is it?"),
        (f"From {IMAGE_TOKEN}, find it.", "inside", "From the image, find it."),
        ("What is it?", "none", "What is it?"),
        (f" {IMAGE_TOKEN}\n", "first", None),
        ("", "none", None),
    ],
)
def test_the_image_token(text: str, place: str, words: str | None) -> None:
    assert (image_place(text), without_token(text)) == (place, words)


def test_instructions_are_split_where_they_are_known() -> None:
    known = ("Represent the given image",)
    assert split("Represent the given image.", known) == ("Represent the given image.", None)
    assert split("Represent the given images of cats", known) == (None, "Represent the given images of cats")
    assert split('Represent the given image: "dog"', known) == ("Represent the given image:", '"dog"')
    assert split(None, known) == (None, None)
    only = make_item("x", "Represent the given image.", None, known)
    assert (only.text, only.instruction) == ("Represent the given image.", None)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("mmeb/imagenet_1k", "ImageNet-1K"),
        ("mmeb/InfographicVQA", "InfographicsVQA"),
        ("mmeb/refcoco", "RefCOCO"),
    ],
)
def test_names_users_know(asked: str, name: str, tmp_path: Path) -> None:
    assert load_task(asked, data=write_mmeb(tmp_path, (name,))).name == f"mmeb/{name}"


def broken(folder: Path, change: dict[str, Any], name: str = "CIRR") -> Path:
    rows = mmeb_rows(folder, name, n=4, pool=3, version=1, seed=0)
    rows[1] |= change
    (folder / name).mkdir()
    pq.write_table(pa.Table.from_pylist(rows, V1), folder / name / "test-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    ("change", "reason", "left"),
    [
        ({"qry_text": "", "qry_img_path": None}, r"neither text nor image.*q1", 3),
        ({"tgt_text": [], "tgt_img_path": []}, r"0 elements.*row 2", 3),
        ({"tgt_text": ["a", "b"], "tgt_img_path": [""]}, r"2 elements, tgt_img_path 1.*row 2", 3),
        ({"tgt_text": ["", "b"], "tgt_img_path": ["", ""]}, r"neither text nor image.*row 2, target 0", 3),
        ({"tgt_text": ["a", ""], "tgt_img_path": ["", ""]}, r"neither text nor image.*row 2, target 1", 4),
    ],
)
def test_bad_rows(change: dict[str, Any], reason: str, left: int, tmp_path: Path) -> None:
    broken(tmp_path, change)
    with pytest.raises(DataError, match=reason):
        load_task("mmeb/CIRR", data=tmp_path)
    skipped: list[Skipped] = []
    assert [len(load_task("mmeb/CIRR", data=tmp_path, skipped=skipped).queries), len(skipped)] == [left, 1]


def test_missing_images_are_counted(tmp_path: Path) -> None:
    write_mmeb(tmp_path, ("CIRR",), n=4, pool=3)
    (tmp_path / "images/CIRR/image_1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images are missing, such as 'CIRR/image_1.png'"):
        load_task("mmeb/CIRR", data=tmp_path)
    skipped: list[Skipped] = []
    task = load_task("mmeb/CIRR", data=tmp_path, skipped=skipped)
    assert [s.where for s in skipped] == ["CIRR/image_1.png"]
    assert [q.id for q in task.queries] == ["q0", "q2", "q3"]
    assert len(task.candidates) == 3
    assert all(c in {i.id for i in task.candidates} for pool in task.pools.values() for c in pool)
    result = scored(task, np.eye(3), np.eye(3))
    assert result["hit_rate@1"].judged == 3


def test_a_folder_of_another_benchmark_and_wrong_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MMEB-eval needs the table of CIRR.*looks like COCO-Caption"):
        load_task("mmeb/CIRR", data=write_coco(tmp_path / "coco", 2))
    with pytest.raises(DataError, match=r"COCO-Caption needs.*looks like MMEB-eval"):
        load_task("coco/i2t", data=write_mmeb(tmp_path / "mmeb", ("CIRR",)))
    path = tmp_path / "mmeb/CIRR/test-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["qry_text", "qry_image_path", "tgt_text", "tgt_img_path"]), path)
    with pytest.raises(DataError, match=r"lacks the columns 'qry_img_path' \(nearest: 'qry_image_path'\)"):
        load_task("mmeb/CIRR", data=tmp_path / "mmeb")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot be read.*broken off"):
        load_task("mmeb/CIRR", data=tmp_path / "mmeb")


def test_what_is_on_disk(tmp_path: Path) -> None:
    mmeb = BENCHMARKS.get("mmeb")
    assert (mmeb.looks(tmp_path), mmeb.found(tmp_path)) == (False, ())
    write_mmeb(tmp_path)
    assert set(mmeb.found(tmp_path)) == set(ONE_OF_EACH)
    assert looks_like(tmp_path) == "mmeb"
    own = load_task("mmeb/EDIS", data=tmp_path / "EDIS")
    assert len(own.queries) == 6


def test_needs_data() -> None:
    with pytest.raises(UsageError, match="needs data"):
        load_task("mmeb/CIRR")
