"""CIRR: pools with and without the reference, subsets, the server's file, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.data.benchmarks.cirr import SETS, server_file, submission
from clearsight.data.sources import load_task
from clearsight.errors import DataError, UsageError
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.types import Embeddings
from small.cirr import write_cirr


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_cirr(tmp_path_factory.mktemp("cirr"))


@pytest.fixture
def own(tmp_path):
    return write_cirr(tmp_path, images=8, test_images=8, queries=4, img_raw=False)


def ranked(task, wanted_QC, k=50):
    wanted = np.asarray(wanted_QC, dtype=np.float32)
    queries = Embeddings.of([item.id for item in task.queries], wanted)
    candidates = Embeddings.of([item.id for item in task.candidates], np.eye(wanted.shape[1]))
    return rank(queries, candidates, k, relevance=task.relevance, pools=task.pools, excluded=task.excluded)


def scored(task, wanted_QC):
    return score(ranked(task, wanted_QC), task.relevance, task.measures)


def like_the_reference(queries, candidates):
    """Query i likes image i best, then i + 2, then i + 1 (its target), then the rest."""
    wanted = np.zeros((queries, candidates))
    for i in range(queries):
        for value, step in ((4, 0), (3, 2), (2, 1)):
            wanted[i, (i + step) % candidates] = value
    return wanted


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_reference_is_left_out_unless_asked_for(small):
    without, within = (load_task(f"cirr/{name}", data=small) for name in ("val", "val+reference"))
    assert (len(without.queries), len(without.candidates)) == (8, 12)
    assert {item.modality for item in without.queries} == {"image+text"}
    assert {item.modality for item in without.candidates} == {"image"}
    image_of = {item.id: item.image for item in without.candidates}
    for query in without.queries:
        assert [image_of[name] for name in without.excluded[query.id]] == [query.image]
    assert within.excluded == {}
    wanted = like_the_reference(8, 12)
    first, second = scored(without, wanted), scored(within, wanted)
    assert first["mrr"].mean == pytest.approx(1 / 2)
    assert second["mrr"].mean == pytest.approx(1 / 3)
    assert (first["hit_rate@1"].mean, first["hit_rate@5"].mean) == (0.0, 1.0)
    assert first["hit_rate@1"].chance == pytest.approx(1 / 11)
    assert second["hit_rate@1"].chance == pytest.approx(1 / 12)


def test_subsets_are_the_members_less_the_reference(small):
    task = load_task("cirr/val_subset", data=small)
    entries = json.loads((small / "captions/cap.rc2.val.json").read_text())
    for entry in entries:
        pool = task.pools[str(entry["pairid"])]
        assert sorted(pool) == sorted(set(entry["img_set"]["members"]) - {entry["reference"]})
        assert list(task.relevance[str(entry["pairid"])]) == [entry["target_hard"]]
    scores = scored(task, like_the_reference(8, 12))
    assert [scores[f"hit_rate@{k}"].mean for k in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert [scores[f"hit_rate@{k}"].chance for k in (1, 2, 3)] == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    six = load_task("cirr/val_subset+reference", data=small)
    assert {len(pool) for pool in six.pools.values()} == {6}


@pytest.mark.parametrize("name", ["val", "val+reference", "val_subset", "val_subset+reference"])
def test_a_collapsed_encoder_scores_chance(small, name):
    for one in scored(load_task(f"cirr/{name}", data=small), np.ones((8, 12))).values():
        assert one.mean == pytest.approx(one.chance)
        assert one.tie_rate == 1.0


def test_the_servers_file(small):
    task = load_task("cirr/test1", data=small)
    assert task.relevance == {}
    entries = json.loads((small / "captions/cap.rc2.test1.json").read_text())
    assert [item.id for item in task.queries] == [str(entry["pairid"]) for entry in entries]
    empty = task.queries[2]  # an empty caption: the image alone, for the server expects an answer
    assert empty.modality == "image"
    rng = np.random.default_rng(0)
    wanted = rng.permuted(np.tile(np.arange(1.0, 55.0), (8, 1)), axis=1)
    ranking = ranked(task, wanted)
    assert server_file("val", ranking) is None
    written = json.loads(server_file("test1", ranking) or b"")
    assert list(written)[:3] == ["version", "metric", "13000"]
    assert (written.pop("version"), written.pop("metric")) == ("rc2", "recall")
    names = [item.id for item in task.candidates]
    for i, entry in enumerate(entries):
        by_hand = [names[j] for j in np.argsort(-wanted[i]) if names[j] != entry["reference"]][:50]
        assert written[str(entry["pairid"])] == by_hand
    subset = submission(ranked(load_task("cirr/test1_subset", data=small), wanted), "recall_subset")
    assert subset["metric"] == "recall_subset"
    for i, entry in enumerate(entries):
        members = set(entry["img_set"]["members"]) - {entry["reference"]}
        by_hand = [names[j] for j in np.argsort(-wanted[i]) if names[j] in members][:3]
        assert subset[str(entry["pairid"])] == by_hand
    with pytest.raises(DataError, match=r"fewer than the 50.*13000"):
        submission(ranked(task, wanted, k=49), "recall")
    with pytest.raises(DataError, match="fewer than the 50"):
        submission(ranked(load_task("cirr/test1_subset", data=small), wanted), "recall")
    with pytest.raises(UsageError, match="recall_subset"):
        submission(ranking, "precision")


def test_names_and_folder(small, tmp_path):
    benchmark = BENCHMARKS.get("cirr")
    assert benchmark.looks(small)
    assert benchmark.found(small) == SETS
    assert load_task("cirr/val-reference", data=small).name == "cirr/val"
    assert len(load_task("cirr/val", data=small, n=3).queries) == 3
    with pytest.raises(UsageError, match="no set 'test'"):
        benchmark.load("test", None)
    with pytest.raises(DataError, match=r"CIRR needs image_splits.*Layout"):
        load_task("cirr/val", data=tmp_path)
    with pytest.raises(DataError, match=r"M-BEIR needs .*looks like CIRR \('cirr'\)"):
        load_task("mbeir/cirr", data=small)


def test_missing_images(own):
    path = next((own / "dev").glob("dev-2-*"))
    path.unlink()
    with pytest.raises(DataError, match="1 of 8 images are missing"):
        load_task("cirr/val", data=own)
    skipped = []
    task = load_task("cirr/val", data=own, skipped=skipped)
    assert len(task.candidates) == 7
    # Image 2 is the target of query 1 and the reference of query 2.
    assert [item.id for item in task.queries] == ["12060", "12066"]
    assert len(skipped) == 3
    # Every subset holds it, but that of query 3 (images 3 to 7 and 0).
    subset = load_task("cirr/val_subset", data=own, skipped=[])
    assert [item.id for item in subset.queries] == ["12066"]


def test_bad_entries_are_named_or_left_out(own):
    def spoil(entries):
        entries[1]["target_hard"] = "dev-99-0-img0"
        entries[2]["pairid"] = entries[0]["pairid"]
        del entries[3]["caption"]

    rewrite(own / "captions/cap.rc2.val.json", spoil)
    with pytest.raises(DataError, match=r"'dev-99-0-img0' is not among those of val.*entry 2, pairid 12062"):
        load_task("cirr/val", data=own)
    skipped = []
    task = load_task("cirr/val", data=own, skipped=skipped)
    assert [item.id for item in task.queries] == ["12060"]
    assert [fault.where.partition(",")[0][-1] for fault in skipped] == ["2", "3", "4"]


def test_broken_files(own):
    captions = own / "captions/cap.rc2.val.json"
    whole = captions.read_text()
    captions.write_text(whole[:-40])
    with pytest.raises(DataError, match="no whole JSON"):
        load_task("cirr/val", data=own)
    captions.write_text("{}")
    with pytest.raises(DataError, match="holds a dict, not a list"):
        load_task("cirr/val", data=own)
    captions.write_text(whole.replace('"target_hard"', '"target"'))
    with pytest.raises(DataError, match=r"'target_hard' \(nearest: 'target'\)"):
        load_task("cirr/val", data=own, skipped=[])
    (own / "captions/cap.rc1.val.json").write_text(whole)
    with pytest.raises(DataError, match=r"several versions: cap.rc1.val.json, cap.rc2.val.json"):
        load_task("cirr/val", data=own)
