"""The parts of reproducing: printed numbers that agree with each other, means of means, data that are found,
tables that fit."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from clearsight.data.benchmarks import BENCHMARKS
from clearsight.errors import DataError
from clearsight.jobs.papers import PUBLISHED, Cell, Published, Redone, embedder_table_2, embedder_table_4
from clearsight.jobs.papers.averages import set_weights
from clearsight.jobs.papers.bench import Bench
from clearsight.jobs.papers.drawings import INK, PAPER, bars, darken
from clearsight.jobs.papers.embedder_table_3 import TABLE as TABLE_3
from clearsight.jobs.papers.mmeb import META, groups
from clearsight.jobs.papers.shown import markdown, terminal
from clearsight.metrics import mean_over_sets, paired_test_over_sets
from clearsight.types import Score
from small.mbeir import write_mbeir

COUNTS = {"Cla.": 10, "VQA": 10, "Ret.": 12, "Gro.": 4}


def score(values: list[float], chance: float = 0.1) -> Score:
    values_Q = np.array(values, float)
    judged = values_Q[np.isfinite(values_Q)]
    mean = float(judged.mean())
    return Score("hit_rate@1", values_Q, mean, mean, mean, mean, mean, len(judged), 0.0, chance)


class TestPrintedNumbers:
    @pytest.mark.parametrize("table", [embedder_table_2.TABLE, embedder_table_4.TABLE])
    def test_averages_come_out_but_for_the_garbled_rows(self, table: Published) -> None:
        garbled = {"Qwen2-VL-2B, + QD-Rein.", "Qwen2-VL-2B, + D-Rein."}
        for row, numbers in table.numbers.items():
            mean = sum(numbers[column] * count for column, count in COUNTS.items()) / 36
            if row in garbled:
                assert abs(mean - numbers["Avg."]) > 0.3
            elif row.startswith(("Qwen", "Phi")):
                assert abs(mean - numbers["Avg."]) < 0.16, row

    def test_the_counts_are_the_benchmarks(self) -> None:
        assert {label: len(groups()[name]) for label, name in META.items()} == COUNTS
        assert len(groups()["all"]) == 36

    def test_the_same_number_in_two_tables(self) -> None:
        best = embedder_table_4.NUMBERS["Qwen2-VL-2B, + Q-Rein."]
        assert best == embedder_table_2.TABLE.numbers["Qwen2-VL-2B, hierarchical"]
        assert round(TABLE_3.numbers["Qwen2-VL-2B, no system: none"]["Avg. Score"], 1) == 13.9

    def test_every_table_names_its_place_models_and_data(self) -> None:
        for name in PUBLISHED:
            table = PUBLISHED.get(name)
            assert table.name == name
            assert table.place
            assert table.title
            assert table.models
            known = set(BENCHMARKS.names()) | {"world"}
            assert {task.partition("/")[0] for names in table.data for task in names} <= known
            # A row is a model's, or of a model that is not measured here.
            assert table.numbers or table.missing
            sizes = {len(row) for row in table.numbers.values()}
            assert len(sizes) <= 1

    @pytest.mark.parametrize(
        "name", ["giants-table-1", "giants-table-2", "giants-table-3", "giants-figure-4"]
    )
    def test_data_sets_named_are_sets(self, name: str) -> None:
        for names in PUBLISHED.get(name).data:
            for task in names:
                benchmark, _, of = task.partition("/")
                assert of in BENCHMARKS.get(benchmark).sets

    def test_a_folder_or_a_hub_id_is_recognised_by_its_last_part(self) -> None:
        table = PUBLISHED.get("giants-table-2")
        for name in ("Qwen/Qwen2-VL-7B-Instruct", "/models/qwen2-vl-7b-instruct/", "Qwen2-VL-7B-Instruct"):
            assert table.label_of(name) == "Qwen2-VL-7B"
        assert table.label_of("somewhere/mine") == "mine"
        assert table.number("mine, Base", "R@1") is None


class TestMeansOfMeans:
    SETS = ("a", "b", "c", "d")
    GROUPS = (("a", "b", "c"), ("d",), ("absent",))

    def test_weights(self) -> None:
        assert set_weights(self.SETS, self.GROUPS) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
        assert set_weights(["b", "d"], self.GROUPS) == [0.5, 0.5]

    def scores(self, seed: int) -> list[Score]:
        random = np.random.default_rng(seed)
        return [score(list(random.integers(0, 2, size).astype(float))) for size in (20, 7, 30, 12)]

    def test_the_mean_is_that_of_the_groups_means(self) -> None:
        ours = self.scores(0)
        found = mean_over_sets(ours, set_weights(self.SETS, self.GROUPS))
        naive = np.mean([np.mean([one.mean for one in ours[:3]]), ours[3].mean])
        assert found.mean == pytest.approx(naive)
        assert found.judged == 69
        assert found.chance == pytest.approx(0.1)

    def test_the_interval_is_a_stratified_bootstrap(self) -> None:
        ours = self.scores(1)
        weights = set_weights(self.SETS, self.GROUPS)
        random = np.random.default_rng(9)
        naive = [
            sum(
                weight * random.choice(one.values_Q, len(one.values_Q)).mean()
                for weight, one in zip(weights, ours, strict=True)
            )
            for _ in range(4000)
        ]
        found = mean_over_sets(ours, weights)
        assert [found.low, found.high] == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.02)

    def test_equal_weights_give_the_means_over_sets(self) -> None:
        ours, theirs = self.scores(2), self.scores(3)
        equal = [0.25] * 4
        found, other = mean_over_sets(ours, equal), mean_over_sets(ours)
        assert (found.mean, found.low, found.high) == pytest.approx((other.mean, other.low, other.high))
        one, two = paired_test_over_sets(ours, theirs, equal), paired_test_over_sets(ours, theirs)
        for field in ("difference", "low", "high", "p_value", "n"):
            assert getattr(one, field) == pytest.approx(getattr(two, field))

    def test_signs_are_flipped_within_queries(self) -> None:
        """Few queries differ: every sign pattern is counted."""
        ours = [score([1, 1, 0, 1]), score([1, 0])]
        theirs = [score([0, 1, 0, 1]), score([0, 0])]
        weights = [0.25, 0.75]
        found = paired_test_over_sets(ours, theirs, weights)
        steps = [0.25 / 4, 0.75 / 2]
        patterns = [a * steps[0] + b * steps[1] for a in (-1, 1) for b in (-1, 1)]
        assert found.difference == pytest.approx(sum(steps))
        assert found.p_value == pytest.approx(np.mean([abs(p) >= sum(steps) - 1e-12 for p in patterns]))

    def test_unjudged_queries_stay_out(self) -> None:
        found = mean_over_sets([score([1, math.nan, 0]), score([1.0])], [0.5, 0.5])
        assert (found.mean, found.judged) == (0.75, 3)


class TestBench:
    def bench(self, folder: Path | None, **options: object) -> Bench:
        return Bench(PUBLISHED.get("giants-table-3"), ("tiny",), data=folder, **options)  # type: ignore[arg-type]

    def test_a_benchmark_in_the_folder_or_beside_others(self, tmp_path: Path) -> None:
        write_mbeir(tmp_path / "all" / "mbeir", ("cirr_task7",), n=4)
        wanted = ("coco/i2t", "mbeir/cirr_task7")
        for folder in (tmp_path / "all", tmp_path / "all" / "mbeir"):
            bench = self.bench(folder, n=3)
            assert bench.has(wanted) == "mbeir/cirr_task7"
            assert len(bench.task(wanted).queries) == 3
            assert bench.has(("mbeir/nights_task4",)) is None

    def test_the_papers_number_of_queries_is_the_default(self) -> None:
        bench = self.bench(None)
        assert bench.limit is None
        bench.table = PUBLISHED.get("giants-table-2")
        assert bench.limit == 3000
        bench.n = 7
        assert bench.limit == 7

    def test_missing_data_are_named_with_their_source_and_layout(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            self.bench(tmp_path).task(("mbeir/cirr_task7", "cirr/val"))
        for name in ("mbeir", "cirr"):
            assert BENCHMARKS.get(name).layout in str(caught.value)
            assert BENCHMARKS.get(name).source in str(caught.value)


def redone(rows: int, columns: int) -> Redone:
    cells = [
        Cell(f"model, row {r}", f"column {c}", 40.0 + r + c, 38.0, 44.0, 41.5, chance=1.0, queries=10)
        for r in range(rows)
        for c in range(columns)
    ]
    tested = replace(
        cells[-1], against="model, row 0", change=-2.5, change_low=-4, change_high=-1, p_value=0.004
    )
    return Redone((*cells[:-1], tested), ("One | sentence.",))


@pytest.mark.parametrize("width", [50, 80, 100, 200])
def test_the_terminal_table_fits_and_says_everything(width: int) -> None:
    table, given = PUBLISHED.get("giants-table-3"), redone(3, 6)
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal(table, given, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    for cell in given.cells:
        assert f"{cell.ours:.1f}" in text
    assert "41.5" in text
    assert "−2.5 **" in text
    assert "38.0–44.0" in text
    assert "vs row 0" in text


def test_the_page_holds_a_line_for_every_number() -> None:
    given = redone(2, 2)
    page = markdown(PUBLISHED.get("giants-table-1"), given)
    lines = [line for line in page.splitlines() if line.startswith("| model")]
    assert len(lines) == 4
    assert "[-4.0, -1.0]" in lines[-1]
    assert "p = 0.004" in lines[-1]
    assert all(line.count("|") == 13 for line in lines)


def test_figures_go_dark() -> None:
    figure = bars(redone(2, 3).cells, "a title")
    darken(figure)
    from matplotlib.colors import to_hex

    assert to_hex(figure.axes[0].get_facecolor()) == PAPER
    assert figure.axes[0].title.get_color() == INK
