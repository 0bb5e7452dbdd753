"""Every published table and figure, redone whole on the shipped model and small data in the right formats."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.data import load_task
from clearsight.errors import DataError, UsageError
from clearsight.jobs.papers import PUBLISHED, embedder_table_3, embedder_table_4, giants_table_3
from clearsight.jobs.papers.embedder_table_6 import FILES, PAIRS
from clearsight.jobs.reproduce import ReproduceConfig, reproduce
from clearsight.models.encoder import Encoder
from clearsight.run import Run
from clearsight.types import Task
from small.coco import write_coco
from small.mbeir import write_mbeir
from small.mmeb import write_mmeb

MMEB = ("VOC2007", "OK-VQA", "MSCOCO_t2i", "ImageNet-R", "RefCOCO-Matching")
MBEIR = ("mscoco_task3", "nights_task4", "cirr_task7", "oven_task8", "infoseek_task6")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders, as --data takes it."""
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder / "coco", n=24)
    write_mbeir(folder / "mbeir", MBEIR, n=6)
    write_mmeb(folder / "mmeb", MMEB, n=5)
    write_sugarcrepes(folder)
    return folder


def write_sugarcrepes(folder: Path) -> None:
    """Both benchmarks over the same four images; each negative names another image's scene."""
    from clearsight.data import world

    task = world.image_to_text(8)
    images = folder / "sugarcrepe" / "val2017"
    images.mkdir(parents=True)
    (folder / "sugarcrepe_pp").mkdir()
    rows = []
    for place in range(4):
        task.queries[place].image.save(images / f"{place}.jpg")  # type: ignore[union-attr]
        words = [task.candidates[at].text for at in (place, (place + 4) % 8)]
        rows.append({"filename": f"{place}.jpg", "caption": words[0], "negative_caption": words[1]})
    for name in FILES:
        text = json.dumps({str(place): row for place, row in enumerate(rows)})
        (folder / "sugarcrepe" / f"{name}.json").write_text(text)
    (folder / "sugarcrepe_pp" / "val2017").symlink_to(images)
    for name in PAIRS.values():
        listed = [{"id": n, **row, "caption2": f"here: {row['caption']}"} for n, row in enumerate(rows)]
        (folder / "sugarcrepe_pp" / f"{name}.json").write_text(json.dumps(listed))


@pytest.fixture(scope="module")
def redo(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache, out = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("runs")

    def run(table: str, **options: Any) -> tuple[dict[str, Any], Path]:
        folder = out / f"{table}-{len(list(out.iterdir()))}"
        given = {"model": ("tiny",), "data": data, "cache": cache, "out": folder} | options
        reproduce(ReproduceConfig(table, **given))
        return json.loads((folder / "table.json").read_text()), folder

    return run


def by_cell(table: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["row"], row["column"]): row for row in table["rows"]}


SCORED = [name for name in PUBLISHED if name not in ("prompts", "embedder-figure-1")]
CONCEPTS = ("giants-table-1", "giants-figure-2", "giants-figure-3")


@pytest.mark.parametrize("name", SCORED)
def test_a_table_is_redone_whole(name: str, redo: Any) -> None:
    small: dict[str, Any] = {"n": 2} if name.startswith("embedder") else {}
    if name in (*CONCEPTS, "giants-table-2"):
        small = {"concepts": 48, "epochs": 1}
    table, folder = redo(name, **small)
    published = PUBLISHED.get(name)
    assert Run.open(folder).manifest["status"] == "complete"
    assert {row["row"].partition(",")[0] for row in table["rows"]} == {"tiny"}
    printed = {column for row in published.numbers.values() for column in row}
    assert {row["column"] for row in table["rows"]} >= printed
    for row in table["rows"]:
        assert row["published"] is None  # tiny is none of the paper's models
        assert math.isfinite(row["ours"])
        if name not in CONCEPTS:
            assert row["low"] <= row["ours"] + 1e-9
            assert row["ours"] <= row["high"] + 1e-9
            assert row["queries"] > 0
            assert bool(row["against"]) == (row["p_value"] is not None)
    if name not in CONCEPTS and len({row["row"] for row in table["rows"]}) > 1:
        assert any(row["against"] for row in table["rows"])
    page = (folder / "table.md").read_text()
    assert all(row["column"] in page for row in table["rows"])
    assert table["differs"]
    figures = sorted(path.name for path in (folder / "figures").glob("*")) if "figure" in name else []
    assert len(figures) % 4 == 0
    assert bool(figures) == ("figure" in name)


def hits(task: Task, prompt: str, pooling: str, k: int = 1) -> np.ndarray:
    """Expected hits at k of each query, by hand: cosines, the pool, ties shared (for one relevant item)."""
    encoder = Encoder.load("tiny", prompt=prompt, pooling=pooling)
    queries = encoder.embed(task.queries, "query", counterpart=kind(task.candidates))
    candidates = encoder.embed(task.candidates, task.candidate_role, counterpart=kind(task.queries))
    left, right = (
        side.rows_ND / np.linalg.norm(side.rows_ND, axis=1, keepdims=True) for side in (queries, candidates)
    )
    values = []
    for place, name in enumerate(queries.ids):
        pool = set(task.pools.get(name, candidates.ids)) - set(task.excluded.get(name, ()))
        rows = [row for row, candidate in enumerate(candidates.ids) if candidate in pool]
        order = sorted(rows, key=lambda row: -float(left[place] @ right[row]))
        wanted = {c for c, grade in task.relevance.get(name, {}).items() if grade > 0 and c in pool}
        if wanted:
            values.append(bool(wanted & {candidates.ids[row] for row in order[:k]}))
    return np.array(values, float)


def kind(items: Any) -> Any:
    return next((item.modality for item in items if item.image is not None), "text")


def test_pooling_rows_are_what_a_search_by_hand_gives(redo: Any, data: Path) -> None:
    cells = by_cell(redo("giants-table-3")[0])
    task = load_task("coco/i2t", data=data / "coco")
    for label, pooling in (("Last token", "last"), ("Mean pooling", "mean")):
        for k in (1, 5):
            ours = cells[f"tiny, {label}", f"MSCOCO R@{k}"]["ours"]
            assert ours == pytest.approx(100 * hits(task, "one_word", pooling, k).mean())
    change = cells["tiny, Mean pooling", "MSCOCO R@1"]["change"]
    rows = [cells[f"tiny, {label}", "MSCOCO R@1"]["ours"] for label in ("Mean pooling", "Last token")]
    assert change == pytest.approx(rows[0] - rows[1])


def test_averages_over_sets_and_over_meta_tasks(redo: Any, data: Path) -> None:
    cells = by_cell(redo("embedder-table-3", n=2)[0])
    found = {
        name: 100
        * hits(load_task(f"mmeb/{name}", data=data / "mmeb", n=2), "controlled_system", "last").mean()
        for name in MMEB
    }
    meta = [np.mean([found["VOC2007"], found["ImageNet-R"]]), *(found[name] for name in MMEB[1:3])]
    meta.append(found["RefCOCO-Matching"])
    row = "tiny, system: none"
    assert cells[row, "Avg. Score"]["ours"] == pytest.approx(np.mean(list(found.values())))
    assert cells[row, "Avg. Task"]["ours"] == pytest.approx(np.mean(meta))
    assert cells[row, "Avg. Task"]["note"] == "5 of 36 sets"
    assert cells[row, "Avg. Task"]["against"] == "tiny, no system: none"


def test_a_papers_model_has_its_numbers_beside(redo: Any, tmp_path: Path, folder_of: Any) -> None:
    """A folder is recognised by its name; here it holds a random model of that architecture."""
    folder = tmp_path / "Qwen2-VL-2B-Instruct"
    folder.symlink_to(folder_of("qwen2_vl"))
    small = write_mmeb(tmp_path / "mmeb", ("VOC2007", "OK-VQA", "MSCOCO_t2i", "RefCOCO-Matching"), n=2)
    for form in ("chat", "vlm2vec"):
        table, run = redo("embedder-table-4", model=(str(folder),), data=small, form=form)
        cells = by_cell(table)
        cell = cells["Qwen2-VL-2B, + Q-Rein.", "Avg."]
        assert cell["published"] == 43.3
        assert cell["difference_from_published"] == pytest.approx(cell["ours"] - 43.3)
        assert cell["against"] == "Qwen2-VL-2B, No-Prompt"
        assert set(cells) == {
            (f"Qwen2-VL-2B, {setting.label}", column)
            for setting in embedder_table_4.strategies()
            for column in embedder_table_4.LABELS
        }
        assert "| Qwen2-VL-2B, + Q-Rein. | Avg. |" in (run / "table.md").read_text()


def test_prompts_without_data_on_the_shipped_model(redo: Any) -> None:
    table, folder = redo("prompts", model=(), data=None, n=8)
    cells = by_cell(table)
    columns = {"world/i2t", "world/t2i", "world/composed", "Avg."}
    assert {column for _, column in cells} == columns
    none, ours = (cells[f"tiny, {row}", "Avg."] for row in ("No-Prompt", "+ Q-Rein."))
    assert ours["change"] == pytest.approx(ours["ours"] - none["ours"])
    assert ours["change"] > 20
    assert ours["p_value"] < 0.001
    assert Run.open(folder).manifest["tasks"]["world/i2t"]["queries"] == 8
    assert "tiny, FreeRet, final norm" in {row for row, _ in cells}


@pytest.mark.slow
def test_maps_are_umaps_where_there_are_points_enough(redo: Any) -> None:
    """numba compiles UMAP for a minute; fewer points than its neighbours are placed by components."""
    pytest.importorskip("umap")
    table, _ = redo("embedder-figure-4")
    stand_ins = [sentence for sentence in table["differs"] if "too few" in sentence]
    assert len(stand_ins) == 3  # the prompts of the small ImageNet-R
    assert all(sentence.startswith("ImageNet-R") for sentence in stand_ins)
    assert not any("not installed" in sentence for sentence in table["differs"])


def test_prompts_on_a_task_of_ones_own(redo: Any) -> None:
    table, _ = redo("prompts", task=("world/t2i",), n=8)
    assert {row["column"] for row in table["rows"]} == {"world/t2i"}


def test_attention_by_layer(redo: Any) -> None:
    table, folder = redo("embedder-figure-1", n=4)
    cells = by_cell(table)
    assert cells["tiny, system", "epsilon"]["ours"] > cells["tiny, user", "epsilon"]["ours"]
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {f"attention{shade}.{end}" for shade in ("", "-dark") for end in ("svg", "png")}


def test_instructions_and_their_seed_are_in_the_manifest(redo: Any) -> None:
    _, folder = redo("giants-realign")
    facts = Run.open(folder).manifest["tasks"]
    (task,) = facts.values()
    assert task["seed"] == 0
    assert sum(task["instructions"].values()) == task["queries"]
    assert any("instruction" in words for words in task["instructions"])


def test_a_second_run_embeds_nothing(redo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = redo("giants-table-3")
    monkeypatch.setattr("clearsight.models.encoder.Encoder.readout", _no_readout)
    assert redo("giants-table-3")[0]["rows"] == first["rows"]


def _no_readout(self: Encoder, poolings: Any) -> Any:
    def run(window: Any) -> Any:
        raise AssertionError("something is embedded again")

    return run


class TestRefusals:
    def test_no_data(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="MMEB-eval") as caught:
            reproduce(ReproduceConfig("embedder-table-4", model=("tiny",), out=tmp_path / "run"))
        assert "TIGER-Lab/MMEB-eval" in str(caught.value)
        assert "test-*.parquet" in str(caught.value)
        assert "--data" in str(caught.value)

    def test_another_benchmarks_data(self, tmp_path: Path, data: Path) -> None:
        config = ReproduceConfig("embedder-table-4", model=("tiny",), data=data / "coco", out=tmp_path / "r")
        with pytest.raises(DataError, match="needs mmeb/"):
            reproduce(config)

    def test_no_model(self, tmp_path: Path, data: Path) -> None:
        with pytest.raises(UsageError, match="Qwen/Qwen2-VL-7B-Instruct"):
            reproduce(ReproduceConfig("giants-table-3", data=data, out=tmp_path / "run"))

    def test_two_models_of_one_name(self, tmp_path: Path, data: Path) -> None:
        models = ("tiny", "elsewhere/tiny")
        with pytest.raises(UsageError, match="one name"):
            reproduce(ReproduceConfig("giants-table-3", model=models, data=data, out=tmp_path / "run"))

    def test_no_such_table(self) -> None:
        with pytest.raises(UsageError, match="giants-table-2"):
            reproduce(ReproduceConfig("giants-table-22"))

    def test_a_prompt_form_that_the_model_lacks(self, tmp_path: Path, folder_of: Any) -> None:
        config = ReproduceConfig(
            "prompts", model=(str(folder_of("qwen3_vl")),), form="vlm2vec", n=2, out=tmp_path / "run",
            cache=tmp_path / "cache",
        )  # fmt: skip
        with pytest.raises(UsageError, match="no VLM2Vec release"):
            reproduce(config)


def test_tables_are_listed() -> None:
    rows = reproduce(ReproduceConfig()).rows
    assert [row["name"] for row in rows] == PUBLISHED.names()
    assert giants_table_3.TABLE.name in PUBLISHED.names()
    assert len(embedder_table_3.settings()) == 10
