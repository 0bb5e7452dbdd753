"""SugarCrepe and SugarCrepe++ equal hand-computed answers, ties by expectation and by the strict rule."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.data import load_task, open_image
from clearsight.data.benchmarks import BENCHMARKS, looks_like, sugarcrepe, sugarcrepe_pp
from clearsight.data.tables import Skipped
from clearsight.errors import DataError, UsageError
from clearsight.metrics import score
from clearsight.metrics.calibration import order_swap
from clearsight.metrics.judged import Judged
from clearsight.metrics.measures import all_recall
from clearsight.models.load import load_model
from clearsight.ranking import rank
from clearsight.rerank import Reranker, label_orders
from clearsight.types import Embeddings, Task
from small.coco import write_coco
from small.sugarcrepe import write_sugarcrepe, write_sugarcrepe_pp


def scored(task: Task, vector_of: dict[str, Any]) -> Any:
    sides = [
        Embeddings.of([i.id for i in items], np.array([vector_of[i.id] for i in items], dtype=np.float64))
        for items in (task.queries, task.candidates)
    ]
    ranking = rank(*sides, 5, relevance=task.relevance, pools=task.pools)
    return score(ranking, task.relevance, task.measures, groups=task.groups, resamples=50)[task.measures[0]]


def at(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def test_sugarcrepe_by_hand(tmp_path: Path) -> None:
    """Rows 0 and 1 right, 2 wrong, 3 a tie: 2.5 of 4 expected, 2 of 4 by the benchmark's strict rule."""
    task = load_task("sugarcrepe/swap_obj", data=write_sugarcrepe(tmp_path, ("swap_obj",), n=4))
    near, far = at(10), at(40)
    vectors = {f"swap_obj/{i}": at(0) for i in range(4)}
    for i, (positive, negative) in enumerate([(near, far), (near, far), (far, near), (near, near)]):
        vectors |= {f"swap_obj/{i}+": positive, f"swap_obj/{i}-": negative}
    result = scored(task, vectors)
    assert result.values_Q.tolist() == [1, 1, 0, 0.5]
    assert (result.mean, result.pessimistic, result.optimistic) == (0.625, 0.5, 0.75)
    assert (result.chance, result.tie_rate) == (0.5, 0.25)


def test_sugarcrepe_files(tmp_path: Path) -> None:
    write_sugarcrepe(tmp_path)
    row = BENCHMARKS.get("sugarcrepe")
    assert row.found(tmp_path) == sugarcrepe.FILES
    assert {group: len(sets) for group, sets in row.groups.items()} == {
        "add": 2,
        "replace": 3,
        "swap": 2,
        "all": 7,
    }
    task = load_task("sugarcrepe/add_att", data=tmp_path, n=3)
    given = json.loads((tmp_path / "add_att.json").read_text())
    assert [(c.text, c.image) for c in task.candidates[:2]] == [
        (given["0"]["caption"], None),
        (given["0"]["negative_caption"], None),
    ]
    assert len(task.queries) == 3
    assert open_image(task.queries[0].image or b"").size[0] > 0
    by_file = load_task("sugarcrepe/add_att", data=tmp_path / "add_att.json", n=3)
    assert by_file == task


def itt(scores: tuple[float, float, float]) -> float:
    return float(scores[0] > scores[2] and scores[1] > scores[2])


def test_itt_by_hand(tmp_path: Path) -> None:
    """Every order of three angles, then ties: both positives above the negative, or not."""
    task = load_task("sugarcrepe_pp/swap_att_itt", data=write_sugarcrepe_pp(tmp_path, ("swap_att",), n=10))
    angles = [
        *itertools.permutations((10.0, 20.0, 30.0)),
        (10, 20, 20),
        (20, 20, 20),
        (10, 10, 20),
        (20, 10, 10),
    ]
    vectors: dict[str, Any] = {}
    for i, (first, second, negative) in enumerate(angles):
        vectors |= {
            f"swap_att/{i}": at(0),
            f"swap_att/{i}+1": at(first),
            f"swap_att/{i}+2": at(second),
            f"swap_att/{i}-": at(negative),
        }
    result = scored(task, vectors)
    strict = [itt((-a, -b, -c)) for a, b, c in angles]
    assert result.measure == "all_recall@2"
    assert result.values_Q[:6].tolist() == strict[:6]
    assert result.values_Q[6:].tolist() == pytest.approx([1 / 2, 1 / 3, 1, 0])
    assert result.pessimistic == pytest.approx(np.mean(strict))
    assert result.chance == pytest.approx(1 / 3)


def test_tot_equals_the_papers_condition(tmp_path: Path) -> None:
    """s12 > s1n and s12 > s2n, for random vectors and for a tie in each place."""
    n = 40
    task = load_task(
        "sugarcrepe_pp/replace_rel_tot", data=write_sugarcrepe_pp(tmp_path, ("replace_rel",), n=n)
    )
    rng = np.random.default_rng(0)
    vectors = {c.id: rng.normal(size=3) for c in task.candidates}
    name = "replace_rel"
    vectors[f"{name}/0-"] = vectors[f"{name}/0+2"]  # s1n = s12, and s2n = 1
    for i, angles in ((1, (0, 10, 10)), (2, (0, 20, -20)), (3, (0, 0, 0))):
        for mark, angle in zip(("+1", "+2", "-"), angles, strict=True):
            vectors[f"{name}/{i}{mark}"] = np.array([*at(angle), 0.0])
    strict = []
    for i in range(n):
        one, two, no = (
            vectors[f"{name}/{i}{mark}"] / np.linalg.norm(vectors[f"{name}/{i}{mark}"])
            for mark in ("+1", "+2", "-")
        )
        strict.append(float(one @ two - one @ no > 1e-9 and one @ two - two @ no > 1e-9))
    result = scored(task, vectors)
    assert result.values_Q[4:].tolist() == strict[4:]
    assert result.values_Q[:4].tolist() == [0, 0, 0.5, 0.25]
    assert result.pessimistic == pytest.approx(np.mean(strict))
    assert (result.judged, result.chance) == (n, 0.25)
    assert task.candidate_role == "query"


def test_sugarcrepe_pp_files(tmp_path: Path) -> None:
    write_sugarcrepe_pp(tmp_path)
    row = BENCHMARKS.get("sugarcrepe_pp")
    assert set(row.found(tmp_path)) == set(sugarcrepe_pp.SETS) == {s for g in row.groups.values() for s in g}
    assert looks_like(tmp_path) == "sugarcrepe_pp"
    assert load_task("sugarcrepe_pp/ITT/swap_object", data=tmp_path).name == "sugarcrepe_pp/swap_obj_itt"
    texts_alone = tmp_path / "texts"
    texts_alone.mkdir()
    (tmp_path / "swap_obj.json").rename(texts_alone / "swap_obj.json")
    assert len(load_task("sugarcrepe_pp/swap_obj_tot", data=texts_alone).queries) == 10  # TOT needs no image
    with pytest.raises(UsageError, match="neither a task"):
        load_task("sugarcrepe_pp/add_obj_itt", data=tmp_path)


def test_the_two_are_not_taken_for_each_other(tmp_path: Path) -> None:
    one, two = write_sugarcrepe(tmp_path / "one"), write_sugarcrepe_pp(tmp_path / "two")
    with pytest.raises(DataError, match=r"SugarCrepe needs.*looks like SugarCrepe\+\+"):
        load_task("sugarcrepe/swap_obj", data=two)
    with pytest.raises(DataError, match=r"SugarCrepe\+\+ needs.*looks like SugarCrepe \('sugarcrepe'\)"):
        load_task("sugarcrepe_pp/swap_obj_itt", data=one)
    with pytest.raises(DataError, match=r"needs add_obj\.json.*looks like COCO"):
        load_task("sugarcrepe/add_obj", data=write_coco(tmp_path / "coco", 2))
    assert (looks_like(one), looks_like(two)) == ("sugarcrepe", "sugarcrepe_pp")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"caption": " "}, r"caption is empty.*row 1"),
        ({"caption": None}, r"caption is None.*row 1"),
    ],
)
def test_bad_rows(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    write_sugarcrepe(tmp_path, ("add_att",))
    content = json.loads((tmp_path / "add_att.json").read_text())
    content["1"] |= change
    (tmp_path / "add_att.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=reason):
        load_task("sugarcrepe/add_att", data=tmp_path)
    skipped: list[Skipped] = []
    assert [len(load_task("sugarcrepe/add_att", data=tmp_path, skipped=skipped).queries), len(skipped)] == [
        4,
        1,
    ]


def test_missing_images_wrong_columns_and_half_a_file(tmp_path: Path) -> None:
    write_sugarcrepe(tmp_path, ("add_att",))
    (tmp_path / "val2017/000000000003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 5 images are missing, such as '000000000003.jpg'"):
        load_task("sugarcrepe/add_att", data=tmp_path)
    skipped: list[Skipped] = []
    assert [len(load_task("sugarcrepe/add_att", data=tmp_path, skipped=skipped).queries), len(skipped)] == [
        4,
        1,
    ]
    path = tmp_path / "add_att.json"
    text = path.read_text()
    path.write_text(text.replace("negative_caption", "neg_caption"))
    with pytest.raises(DataError, match=r"'negative_caption' \(nearest: 'neg_caption'\)"):
        load_task("sugarcrepe/add_att", data=tmp_path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"no whole JSON.*broken off"):
        load_task("sugarcrepe/add_att", data=tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_all_recall_is_the_mean_over_the_orders_of_the_tied(seed: int) -> None:
    """Naive: every order that sorts the candidates by score, and whether all hits are in its first k."""
    rng = np.random.default_rng(seed)
    size = 5
    levels, hits, cut = (
        rng.integers(0, 3, size),
        set(rng.permutation(size)[: rng.integers(1, 4)]),
        int(rng.integers(1, 6)),
    )
    orders = [o for o in itertools.permutations(range(size)) if list(levels[list(o)]) == sorted(levels)[::-1]]
    naive = np.mean([hits <= set(order[:cut]) for order in orders])
    above = np.array([(levels > levels[h]).sum() for h in hits])
    same = np.array([(levels == levels[h]).sum() for h in hits])
    places = Judged(
        np.zeros(len(hits), dtype=np.int64),
        above,
        same,
        np.ones(len(hits)),
        np.array([len(hits)]),
        np.array([size]),
    ).ordered()
    assert all_recall(places, cut)[0] == pytest.approx(naive)


def test_sugarcrepe_is_a_choice_between_two_captions_asked_in_both_orders(tmp_path: Path) -> None:
    """Reranking the whole pool of two: accuracy is how often the right caption has the higher score."""
    task = load_task("sugarcrepe/replace_att", data=write_sugarcrepe(tmp_path, ("replace_att",), n=6))
    sides = [
        Embeddings.of([item.id for item in items], np.ones((len(items), 2), dtype=np.float64))
        for items in (task.queries, task.candidates)
    ]
    coarse = rank(*sides, 2, relevance=task.relevance, pools=task.pools)
    measure = task.measures[0]
    assert score(coarse, task.relevance, [measure])[measure].mean == 0.5  # all tie: nothing is known yet
    loaded = load_model("tiny", head=True)
    for name in ("choice", "likelihood"):
        reranker = Reranker.load(loaded, scorer=name)
        done = reranker.rerank(task, coarse, top=2)
        pools = [[c for c in task.candidates if c.id in task.pools[q.id]] for q in task.queries]
        own = [reranker.scorer.score(q, pool) for q, pool in zip(task.queries, pools, strict=True)]
        expected = np.mean([right > wrong for right, wrong in own])
        assert score(done.ranking, task.relevance, [measure])[measure].mean == pytest.approx(expected)
        assert expected > 0.5
    orders_PO = label_orders(Reranker.load(loaded, scorer="choice").scorer, task, coarse, top=2)
    assert orders_PO.shape == (12, 2)
    assert 0 <= order_swap(orders_PO[:, 0], orders_PO[:, 1], resamples=50).flipped.value <= 1
