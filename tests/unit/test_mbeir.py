"""M-BEIR's release: every set against answers computed by hand, its oddities, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.data.benchmarks.mbeir_sets import BASES, MbeirSet, averages, find_set
from clearsight.data.item_table import ItemTable
from clearsight.data.sources import load_task
from clearsight.errors import DataError, UsageError
from clearsight.metrics import score
from clearsight.ranking import rank
from clearsight.types import Embeddings
from small.mbeir import INSTRUCTIONS, write_mbeir

N = 6


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_mbeir(tmp_path_factory.mktemp("mbeir"), n=N)


@pytest.fixture
def cirr(tmp_path):
    return write_mbeir(tmp_path, ["cirr_task7", "mscoco_task3"], n=N)


def scored(task, wanted_QC):
    """Scores of a task whose query i gives candidate j a cosine that grows with wanted_QC[i, j]."""
    wanted = np.asarray(wanted_QC, dtype=np.float32)
    queries = Embeddings.of([item.id for item in task.queries], wanted)
    candidates = Embeddings.of([item.id for item in task.candidates], np.eye(wanted.shape[1]))
    ranking = rank(
        queries, candidates, relevance=task.relevance, pools=task.pools, excluded=task.excluded, k=20
    )
    return ranking, score(ranking, task.relevance, task.measures)


def edit(path, change):
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(lines)))


def test_every_set_has_its_modalities_and_instructions(release):
    benchmark = BENCHMARKS.get("mbeir")
    assert benchmark.found(release) == benchmark.sets
    assert len(BASES) == 16
    for name in benchmark.sets:
        task, one = load_task(f"mbeir/{name}", data=release), find_set(name)
        assert task.name == f"mbeir/{name}"
        assert isinstance(task.candidates, ItemTable)
        assert {item.modality for item in task.queries} == {one.kind.query}
        assert all(
            f"{one.dataset} instruction" in item.instruction and f" {one.kind.short}." in item.instruction
            for item in task.queries
        )
        if not one.union:
            assert {item.modality for item in task.candidates} == {one.kind.candidate}
            assert len(task.candidates) == N + 3  # the line that repeats another whole is that line
        fashion = one.dataset.startswith("fashion")
        assert task.measures[0] == ("hit_rate@10" if fashion else "hit_rate@5")
        assert len(task.relevance) == N - 1  # the last query has no positive, and stays
        assert len(task.queries) == N


def test_scores_are_those_computed_by_hand(release):
    task = load_task("mbeir/mscoco_i2t", data=release)
    wanted = np.zeros((N, N + 3)) + np.arange(9, 0, -1) / 10  # candidate 0 first, 8 last
    ranking, scores = scored(task, wanted)
    assert ranking.rows_QK[0, :9].tolist() == list(range(9))
    # Query i finds candidate i at rank i + 1; query 1 also candidate 7 at rank 8; query 5 is not judged.
    assert scores["hit_rate@5"].judged == 5
    assert scores["hit_rate@5"].mean == 1.0
    assert scores["hit_rate@1"].mean == pytest.approx(1 / 5)
    assert scores["recall@5"].mean == pytest.approx((1 + 1 / 2 + 1 + 1 + 1) / 5)
    assert scores["mrr"].mean == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    assert scores["map"].mean == pytest.approx((1 + (1 / 2 + 2 / 8) / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)


@pytest.mark.parametrize("name", ["mscoco_task3", "fashioniq_task7", "oven_task6@global", "cirr-reference"])
def test_a_collapsed_encoder_scores_chance(release, name):
    task = load_task(f"mbeir/{name}", data=release)
    _, scores = scored(task, np.ones((N, len(task.candidates))))
    for one in scores.values():
        assert one.mean == pytest.approx(one.chance)
        assert one.tie_rate == 1.0


def test_duplicate_candidates_tie_and_are_both_kept(release):
    task = load_task("mbeir/visualnews_task3", data=release)
    texts = [item.text for item in task.candidates]
    assert texts[-2] == texts[-1]
    assert len({item.id for item in task.candidates}) == N + 3


def test_the_reference_is_in_the_pool_or_not(release):
    for base in ("cirr_task7", "fashioniq_task7"):
        within, without = (load_task(f"mbeir/{base}{end}", data=release) for end in ("", "-reference"))
        assert within.excluded == {}
        by_id = {item.id: item for item in without.candidates}
        assert set(without.excluded) == {item.id for item in without.queries}
        for query in without.queries:
            assert [by_id[name].image for name in without.excluded[query.id]] == [query.image]
        # Query i's reference is image i + 1. It wins for every query; without it the positive is first.
        wanted = np.zeros((N, N + 3))
        for i in range(N):
            wanted[i, i], wanted[i, (i + 1) % N] = 1, 2
        assert scored(within, wanted)[1]["mrr"].mean == pytest.approx(1 / 2)
        assert scored(without, wanted)[1]["mrr"].mean == 1.0


def test_the_global_pool_holds_all_sets(release):
    local, union = (load_task(f"mbeir/oven_task6{end}", data=release) for end in ("", "@global"))
    assert len(union.candidates) == 16 * (N + 3)
    assert {item.id for item in local.candidates} < {item.id for item in union.candidates}
    first = local.queries[0].id
    # InfoSeek's positive of an OVEN query is judged where it can be found.
    assert set(union.relevance[first]) - set(local.relevance[first]) == {"6:6000"}
    assert [item.instruction for item in local.queries] == [item.instruction for item in union.queries]


def test_both_splits(release):
    test, val = (load_task(f"mbeir/mscoco_task0{end}", data=release) for end in ("", "@val"))
    for side in ("queries", "candidates"):
        first, second = ({item.id for item in getattr(task, side)} for task in (test, val))
        assert first.isdisjoint(second)
    assert load_task("mbeir/mscoco_task0@global@val", data=release).relevance == val.relevance


def test_instructions_are_drawn_with_the_seed(release):
    def drawn(name, **options):
        return [item.instruction for item in load_task(f"mbeir/{name}", data=release, **options).queries]

    assert drawn("cirr", seed=3) == drawn("cirr_task7-reference@global", seed=3)
    assert drawn("cirr", seed=3, n=2) == drawn("cirr", seed=3)[:2]
    seen = {text for seed in range(30) for text in drawn("cirr", seed=seed)}
    assert seen == {f"cirr instruction {i}, it2i." for i in range(INSTRUCTIONS)}
    # EDIS has three; the empty cell is not drawn.
    assert len({text for seed in range(30) for text in drawn("edis", seed=seed)}) == 3


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("cirr", "cirr_task7"),
        ("CIRR", "cirr_task7"),
        ("cirr+reference", "cirr_task7"),
        ("cirr-reference@global@val", "cirr_task7-reference@global@val"),
        ("mscoco_task0", "mscoco_task0"),
        ("mscoco_t2i", "mscoco_task0"),
        ("mscoco_i2t", "mscoco_task3"),
        ("mscoco_paper1", "mscoco_task0"),
        ("mscoco_paper4", "mscoco_task3"),
        ("webqa_t2it", "webqa_task2"),
        ("nights_paper5", "nights_task4"),
        ("oven_paper6", "oven_task6"),
        ("mscoco", None),
        ("mscoco_task1", None),
        ("mscoco-reference", None),
        ("cirr@val@global", None),
    ],
)
def test_names(name, means):
    one = find_set(name)
    assert (one and one.name) == means
    assert BENCHMARKS.get("mbeir").known_as(name) == means


def test_both_numberings_are_said():
    words = MbeirSet("mscoco_task3").kind.words
    assert words == "image -> text (task3; the paper's task 4)"
    groups = averages()
    assert len(groups["all, local pool"]) == len(groups["all, global pool"]) == 16
    assert groups[f"{words}, local pool"] == ("visualnews_task3", "mscoco_task3", "fashion200k_task3")
    assert sum(len(sets) for name, sets in groups.items() if "task" in name and "local" in name) == 16
    assert set().union(*groups.values()) <= set(BENCHMARKS.get("mbeir").sets)


def test_an_unknown_name_names_the_nearest(release):
    with pytest.raises(UsageError, match="mbeir/mscoco_task0"):
        load_task("mbeir/mscoco_task9", data=release)
    with pytest.raises(UsageError, match="cirr_task7"):
        BENCHMARKS.get("mbeir").load("cir_task7", None)


def test_relevance_that_points_nowhere(cirr):
    qrels = cirr / "qrels/test/mbeir_cirr_task7_test_qrels.txt"
    good = load_task("mbeir/cirr", data=cirr).relevance
    lines = qrels.read_text()
    for line, says in (
        ("8:7000 0 8:99999 1 7", r"unknown candidate '8:99999'.*line 8"),
        ("8:77 0 8:7000 1 7", r"unknown query '8:77'.*line 8"),
        ("8:7000 0 8:7001", r"`query 0 candidate grade task`.*line 8"),
    ):
        qrels.write_text(lines + line + "\n")
        with pytest.raises(DataError, match=says):
            load_task("mbeir/cirr", data=cirr)
    qrels.write_text(lines + "8:7000 0 8:99999 1 7\n8:77 0 8:7000 1 7\n8:7000 0 8:7001\n")
    skipped = []
    assert load_task("mbeir/cirr", data=cirr, skipped=skipped).relevance == good
    assert [fault.where.rpartition(" ")[2] for fault in skipped] == ["10", "8", "9"]


def test_bad_rows_are_named_or_left_out(cirr):
    pool = cirr / "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl"
    changes = [{"did": None}, {"modality": "video"}, {"img_path": None}, {"img_path": "another.jpg"}]

    def spoil(rows):
        return [*rows[:5], *({**row, **new} for row, new in zip(rows[5:9], changes, strict=True)), rows[8]]

    edit(pool, spoil)
    with pytest.raises(DataError, match=r"modality 'image' has no id.*row 6"):
        load_task("mbeir/cirr", data=cirr)
    skipped = []
    task = load_task("mbeir/cirr", data=cirr, skipped=skipped)
    assert [item.id for item in task.candidates] == [
        "8:7000",
        "8:7001",
        "8:7002",
        "8:7003",
        "8:7004",
        "8:7008",
    ]
    reasons = [fault.reason for fault in skipped]
    assert any("'video' is of an unknown modality" in reason for reason in reasons)
    assert any("has no image" in reason for reason in reasons)
    assert any("two different items" in reason for reason in reasons)
    assert any("unknown candidate '8:7007'" in reason for reason in reasons)


def test_a_broken_line_is_named_or_left_out(cirr):
    pool = cirr / "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl"
    lines = pool.read_text().split("\n")
    lines[8] = lines[8][:30]
    lines[2] = lines[2].replace('"8:7002"', "7002")
    pool.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"'did' holds int.*line 3"):
        load_task("mbeir/cirr", data=cirr)
    skipped = []
    task = load_task("mbeir/cirr", data=cirr, skipped=skipped)
    assert len(task.candidates) == N + 3 - 1  # id 7002 came back with its repeated line
    assert ["line 3" in fault.where or "line 9" in fault.where for fault in skipped] == [True, True]


def test_wrong_columns_name_the_nearest(cirr):
    edit(
        cirr / "query/test/mbeir_cirr_task7_test.jsonl",
        lambda rows: [{("query_text" if k == "query_txt" else k): v for k, v in row.items()} for row in rows],
    )
    with pytest.raises(DataError, match=r"'query_txt' \(nearest: 'query_text'\)"):
        load_task("mbeir/cirr", data=cirr)


@pytest.mark.parametrize(
    "name",
    [
        "query/test/mbeir_cirr_task7_test.jsonl",
        "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl",
        "qrels/test/mbeir_cirr_task7_test_qrels.txt",
        "instructions/query_instructions.tsv",
    ],
)
def test_missing_and_half_downloaded_files(cirr, name):
    for content, says in (
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("", "is empty"),
        (None, f"needs {name}"),
    ):
        (cirr / name).unlink() if content is None else (cirr / name).write_text(content)
        with pytest.raises(DataError, match=says):
            load_task("mbeir/cirr", data=cirr)
    assert "cirr_task7" not in BENCHMARKS.get("mbeir").found(cirr) or "instructions" in name


def test_instructions_that_do_not_fit(cirr):
    path = cirr / "instructions/query_instructions.tsv"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(line for line in lines if "cirr" not in line))
    with pytest.raises(DataError, match="no instruction for cirr_task7: data set 8"):
        load_task("mbeir/cirr", data=cirr)
    path.write_text(lines[0] + "\nimage,text image cirr 8 Find it.\n")
    with pytest.raises(DataError, match="line 2"):
        load_task("mbeir/cirr", data=cirr)


def test_missing_images(cirr):
    images = sorted((cirr / "mbeir_images/world_images").iterdir())
    images[0].unlink()
    task = load_task("mbeir/cirr", data=cirr)  # one image: the item's fault, when it is embedded
    assert task.candidates[0].image == str(images[0])
    for path in images[1:]:
        path.unlink()
    with pytest.raises(DataError, match=r"None of the first \d+ images"):
        load_task("mbeir/cirr", data=cirr)


def test_a_pool_without_the_references(cirr):
    edit(
        cirr / "query/test/mbeir_cirr_task7_test.jsonl",
        lambda rows: [{**row, "query_img_path": "elsewhere.jpg"} for row in rows],
    )
    with pytest.raises(DataError, match="none to leave out"):
        load_task("mbeir/cirr-reference", data=cirr)


def test_another_folder(tmp_path):
    with pytest.raises(DataError, match=r"M-BEIR needs query/test.*Layout"):
        load_task("mbeir/cirr", data=tmp_path)
    assert not BENCHMARKS.get("mbeir").looks(tmp_path)
    write_mbeir(tmp_path, ["nights_task4"])
    assert BENCHMARKS.get("mbeir").looks(tmp_path)
    assert BENCHMARKS.get("mbeir").found(tmp_path) == ("nights_task4", "nights_task4@global")
