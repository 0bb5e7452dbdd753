"""Clusters in the columns other houses train on, and back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clearsight.errors import DataError
from clearsight.mining import Clusters, ExactSearch, Mining, TrainingPairs, mine_pairs
from clearsight.mining.columns import (
    from_mmeb_train,
    from_sentence_transformers,
    to_mmeb_train,
    to_sentence_transformers,
)
from clearsight.mining.found import name_clusters
from clearsight.types import Embeddings, Item, Task

TASK = Task(
    "set",
    tuple(Item(f"q{i}", text=f"query {i}", image=f"images/{i}.png") for i in range(12)),
    tuple(Item(f"c{i}", text=f"candidate {i}") for i in range(12)),
    {f"q{i}": {f"c{i}": 1.0} for i in range(12)},
)


@pytest.fixture
def clusters() -> Clusters:
    rows = np.random.default_rng(0).standard_normal((2, 12, 4)).astype(np.float32)
    pairs = TrainingPairs.of(TASK)
    candidates = Embeddings.of(pairs.candidate_ids, rows[1])
    queries = Embeddings.of(pairs.query_ids, rows[0], side="query")
    mining = Mining(pairs, queries, candidates, lambda: ExactSearch(candidates), negatives=3)
    return name_clusters([(pairs, mine_pairs("saha", mining))])


def test_sentence_transformers_columns_are_clusters(clusters):
    columns = to_sentence_transformers(clusters, {"set": TASK})
    most = max(clusters.sizes_G) - 1
    assert list(columns) == ["anchor", "positive", *(f"negative_{i + 1}" for i in range(most))]
    whole = [members for members in clusters if len(members) == most + 1]
    assert len(columns["anchor"]) == len(whole)
    first = whole[0]
    number = int(first[0].query[1:])
    assert columns["anchor"][0] == {"text": f"query {number}", "image": f"images/{number}.png"}
    assert columns["negative_1"][0] == f"candidate {first[-1].positive[1:]}"  # the hardest first
    one = to_sentence_transformers(clusters, {"set": TASK}, negatives=1)
    assert len(one["anchor"]) == sum(size > 1 for size in clusters.sizes_G)


def test_sentence_transformers_columns_come_back(clusters):
    columns = to_sentence_transformers(clusters, {"set": TASK}, negatives=2)
    task, back = from_sentence_transformers(columns, "back")
    assert to_sentence_transformers(back, {"back": task}) == columns
    assert back.dataset_G == ("back",) * len(back)
    assert all(m.query is None for members in back for m in members[1:])


def test_sentence_transformers_trains_on_the_columns(clusters):
    """The library that owns the format takes them: its dataset, its collator, its loss's arguments."""
    datasets = pytest.importorskip("datasets")
    texts = Task("set", tuple(Item(q.id, text=q.text) for q in TASK.queries), TASK.candidates, TASK.relevance)
    columns = to_sentence_transformers(clusters, {"set": texts}, negatives=2)
    table = datasets.Dataset.from_dict(columns)
    assert table.column_names == ["anchor", "positive", "negative_1", "negative_2"]
    assert table[0]["anchor"] == columns["anchor"][0]
    task, back = from_sentence_transformers({name: table[name] for name in table.column_names}, "set")
    assert len(back) == len(table)
    assert len(task.queries) == len(set(columns["anchor"]))


def test_a_single_negative_column_and_missing_negatives_are_read():
    picture = Image.new("RGB", (4, 4))
    task, back = from_sentence_transformers(
        {"anchor": ["a", "b"], "positive": [picture, "p"], "negative": ["p", None]}, "own"
    )
    assert back.sizes_G.tolist() == [2, 1]
    assert back[0][1].positive == back[1][0].positive  # "p" is one item
    assert task.relevance == {"q0": {back[0][0].positive: 1.0}, "q1": {back[1][0].positive: 1.0}}
    with pytest.raises(DataError, match="no column 'positive'"):
        from_sentence_transformers({"anchor": ["a"], "text": ["b"]}, "own")
    with pytest.raises(DataError, match="differ in length"):
        from_sentence_transformers({"anchor": ["a"], "positive": ["b", "c"]}, "own")
    with pytest.raises(DataError, match="no anchor or no positive"):
        from_sentence_transformers({"anchor": [None], "positive": ["b"]}, "own")


def test_mmeb_columns_are_pairs_with_a_negative_and_come_back(clusters):
    columns = to_mmeb_train(clusters, {"set": TASK})
    assert len(columns["qry"]) == int((clusters.sizes_G - 1).sum())
    assert columns["qry_image_path"][0] == f"images/{clusters[0][0].query[1:]}.png"
    assert set(columns["pos_image_path"]) == {""}
    task, back = from_mmeb_train(columns, "back")
    assert back.sizes_G.tolist() == [size for size in clusters.sizes_G if size > 1]
    again = to_mmeb_train(back, {"back": task})
    rows = [sorted(zip(*given.values(), strict=True)) for given in (columns, again)]
    assert rows[0] == rows[1]
    with pytest.raises(DataError, match="pos_text"):
        from_mmeb_train({"qry": ["a"], "qry_image_path": [""]}, "back")
    shown = Task(
        "set", tuple(Item(q.id, image=Image.new("RGB", (2, 2))) for q in TASK.queries), TASK.candidates, {}
    )
    with pytest.raises(DataError, match="in memory"):
        to_mmeb_train(clusters, {"set": shown})


def test_data_that_was_not_mined_is_refused(clusters):
    with pytest.raises(DataError, match="'set'"):
        to_sentence_transformers(clusters, {"other": TASK})
    other = Task("set", TASK.queries[:1], TASK.candidates, {})
    with pytest.raises(DataError, match="not in the data"):
        to_mmeb_train(clusters, {"set": other})
