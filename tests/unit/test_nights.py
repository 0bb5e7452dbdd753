"""NIGHTS: forced choice, retrieval, votes, splits, and what is refused."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.data.benchmarks.nights import SETS
from clearsight.data.sources import load_task
from clearsight.errors import DataError, UsageError
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.types import Embeddings
from small.cirr import write_cirr
from small.nights import VOTES, write_nights

TRIPLETS = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_nights(tmp_path_factory.mktemp("nights"), triplets=TRIPLETS)


@pytest.fixture
def own(tmp_path):
    return write_nights(tmp_path, triplets=6)


def scored(task, wanted_QC):
    wanted = np.asarray(wanted_QC, dtype=np.float32)
    queries = Embeddings.of([item.id for item in task.queries], wanted)
    candidates = Embeddings.of([item.id for item in task.candidates], np.eye(wanted.shape[1]))
    ranking = rank(queries, candidates, relevance=task.relevance, pools=task.pools)
    return score(ranking, task.relevance, task.measures)


def rewrite(folder, change):
    path = folder / "data.csv"
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def ids(task):
    return [int(item.id) for item in task.queries]


def test_sets_are_cut_by_votes_and_split(small):
    counted = [i for i in range(TRIPLETS) if VOTES[i % 4] >= 6]
    test = [i for i in counted if i % 3 != 2]
    assert ids(load_task("nights/test", data=small)) == test
    assert ids(load_task("nights/val", data=small)) == [i for i in counted if i % 3 == 2]
    assert ids(load_task("nights/test_imagenet", data=small)) == [i for i in test if i % 2 == 0]
    assert ids(load_task("nights/test_no_imagenet", data=small)) == [i for i in test if i % 2]
    assert ids(load_task("nights/test", data=small, n=2)) == test[:2]
    assert BENCHMARKS.get("nights").found(small) == SETS


def test_forced_choice_by_hand(small):
    task = load_task("nights/2afc", data=small)
    assert task.name == "nights/test"
    assert len(task.candidates) == 2 * len(task.queries)
    for query in task.queries:
        left, right = task.pools[query.id]
        assert (left[-6:], right[-6:]) == ("_0.png", "_1.png")
        assert list(task.relevance[query.id]) == [right if int(query.id) % 2 else left]
        assert query.image == str(small / f"ref/{int(query.id) // 5:03d}/{int(query.id):03d}.png")
    # Who always takes the left one is right for the even ids; other triplets' images do not matter.
    count = len(task.queries)
    wanted = np.full((count, 2 * count), 5.0)
    for i in range(count):
        wanted[i, 2 * i : 2 * i + 2] = 2, 1
    even = [query % 2 == 0 for query in ids(task)]
    scores = scored(task, wanted)
    assert list(scores) == ["hit_rate@1"]
    assert scores["hit_rate@1"].mean == pytest.approx(np.mean(even))
    wanted[:, 1::2] = 2  # the first query's tie counts one half, and so on
    assert scored(task, wanted)["hit_rate@1"].mean == 0.5


def test_retrieval_ranks_the_distortions_of_all_splits(small):
    task = load_task("nights/retrieval", data=small)
    assert task.name == "nights/test_retrieval"
    assert len(task.candidates) == 2 * sum(VOTES[i % 4] >= 6 for i in range(TRIPLETS))
    assert task.pools == {}
    assert task.measures[0] == "hit_rate@5"
    names = [item.id for item in task.candidates]
    wanted = np.zeros((len(task.queries), len(names)))
    for i, query in enumerate(task.queries):
        wanted[i, : i + 3] = 1 + np.arange(i + 3)  # i + 3 others first, unless they are it
        wanted[i, names.index(*task.relevance[query.id])] = 0.5
    expected = [1 / (1 + (wanted[i] > 0.5).sum()) for i in range(len(task.queries))]
    assert scored(task, wanted)["mrr"].mean == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", ["test", "val", "test_retrieval"])
def test_a_collapsed_encoder_scores_chance(small, name):
    task = load_task(f"nights/{name}", data=small)
    for one in scored(task, np.ones((len(task.queries), len(task.candidates)))).values():
        assert one.mean == pytest.approx(one.chance)
    if name != "test_retrieval":
        assert one.mean == 0.5


def test_a_triplet_without_an_image_is_left_out_whole(own):
    (own / "distort/000/000_1.png").unlink()
    with pytest.raises(DataError, match="images are missing"):
        load_task("nights/test", data=own)
    skipped = []
    task = load_task("nights/test", data=own, skipped=skipped)
    assert [fault.where for fault in skipped] == ["distort/000/000_1.png"]
    assert ids(task) == [1, 3, 4]
    assert {len(pool) for pool in task.pools.values()} == {2}
    assert "distort/000/000_0.png" not in {item.id for item in task.candidates}
    # For retrieval the other distortion is a distractor all the same.
    retrieval = load_task("nights/test_retrieval", data=own, skipped=[])
    assert ids(retrieval) == [1, 3, 4]
    assert "distort/000/000_0.png" in {item.id for item in retrieval.candidates}


def test_bad_rows_are_named_or_left_out(own):
    def spoil(rows):
        rows[1][2] = "0.5"
        rows[2][1] = "many"
        rows[4][0] = "4"
        rows[5][0] = "4"
        rows[6][4] = ""

    rewrite(own, spoil)
    with pytest.raises(DataError, match=r"right_vote is 0.5.*line 2"):
        load_task("nights/test", data=own)
    skipped = []
    task = load_task("nights/test", data=own, skipped=skipped)
    assert ids(task) == [4]
    assert len(skipped) == 4


def test_what_is_refused(own, tmp_path):
    benchmark = BENCHMARKS.get("nights")
    with pytest.raises(UsageError, match="no set 'train'"):
        benchmark.load("train", None)
    rewrite(own, lambda rows: rows[0].__setitem__(2, "right_votes"))
    with pytest.raises(DataError, match=r"'right_vote' \(nearest: 'right_votes'\)"):
        load_task("nights/test", data=own, skipped=[])
    rewrite(own, lambda rows: rows.__delitem__(slice(1, None)))
    with pytest.raises(DataError, match="No triplet of 'test'"):
        load_task("nights/test", data=own)
    other = write_cirr(tmp_path / "cirr", images=8, test_images=8, queries=2)
    assert not benchmark.looks(other)
    with pytest.raises(DataError, match=r"NIGHTS needs data.csv.*looks like CIRR"):
        load_task("nights/test", data=other)
