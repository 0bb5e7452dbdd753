"""`clearsight evaluate` on benchmarks: several sets a run, missing images counted, wrong folders named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearsight.cli import main
from clearsight.errors import DataError, UsageError
from small.cirr import write_cirr
from small.mbeir import write_mbeir, write_mbeir_mirror


@pytest.fixture(scope="module")
def cirr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cirr")
    write_cirr(folder)
    return folder


def evaluate(place: Path, *flags: str) -> int:
    common = ["--cache", str(place / "cache"), "--out", str(place / "run"), "--overwrite", "--json"]
    return main(["evaluate", "tiny", *common, *flags])


def test_several_sets_make_one_run(cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = evaluate(
        tmp_path, "--task", "cirr/val,cirr/val_subset", "--data", str(cirr), "--repairs", "base,centred"
    )
    assert code == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["task"], row["repair"]) for row in rows] == [
        ("cirr/val", "base"),
        ("cirr/val", "centred"),
        ("cirr/val_subset", "base"),
        ("cirr/val_subset", "centred"),
    ]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert set(manifest["origins"]) == {"cirr/val", "cirr/val_subset"}
    assert sorted(path.name for path in (tmp_path / "run" / "qrels").iterdir()) == [
        "cirr-val-subset.trec",
        "cirr-val.trec",
    ]


def test_missing_images_are_counted_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cirr(tmp_path / "data")
    lost = sorted((tmp_path / "data" / "img_raw" / "dev").glob("*.png"))[:2]
    for path in lost:
        path.unlink()
    flags = ("--task", "cirr/val", "--data", str(tmp_path / "data"), "--repairs", "base")
    assert evaluate(tmp_path, *flags) == DataError.exit_code
    said = capsys.readouterr().err
    assert "2 of" in said
    assert lost[0].name in said.replace("\n", "")
    assert evaluate(tmp_path, *flags, "--on-error", "skip") == 5  # done, but some items were skipped
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    left_out = " ".join(entry["id"] for entry in manifest["skipped"])
    assert lost[0].name in left_out
    assert lost[1].name in left_out


def test_the_folder_of_another_benchmark_is_recognised(
    cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, "--task", "nights", "--data", str(cirr)) == DataError.exit_code
    assert "looks like CIRR" in " ".join(capsys.readouterr().err.split())


def test_answers_that_only_a_server_knows(cirr: Path, tmp_path: Path) -> None:
    assert evaluate(tmp_path, "--task", "cirr/test1", "--data", str(cirr), "--repairs", "base,centred") == 0
    files = sorted((tmp_path / "run" / "submissions").iterdir())
    assert [file.name for file in files] == ["cirr-test1-base.json", "cirr-test1-centred.json"]
    content = json.loads(files[0].read_text())
    assert content["metric"] == "recall"
    assert all(len(set(names)) == 50 for key, names in content.items() if key.isdigit())


STREAMED = "base,centred,realign,realign_release,realign_chosen"


@pytest.mark.parametrize("mirror", [False, True])
def test_a_pool_outside_memory_has_the_same_scores(
    mirror: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_mbeir(tmp_path / "data", ["cirr_task7"], n=8)
    if mirror:
        write_mbeir_mirror(tmp_path / "mirror", data, "cirr_task7")
        data = tmp_path / "mirror"
    flags = ("--task", "mbeir/cirr_task7", "--data", str(data), "--repairs", STREAMED)
    found = []
    for most in ("200000", "5"):
        assert evaluate(tmp_path, *flags, "--in-memory", most) == 0
        found.append(json.loads(capsys.readouterr().out)["rows"])
    assert [row["repair"] for row in found[0]] == [row["repair"] for row in found[1]]
    for inside, outside in zip(*found, strict=True):
        for measure, score in inside["scores"].items():
            assert outside["scores"][measure]["mean"] == pytest.approx(score["mean"], abs=1e-9)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_what_a_pool_outside_memory_cannot_have_is_said_first(
    cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--task", "cirr/val", "--data", str(cirr), "--repairs", "base,self_aligned,refined")
    assert evaluate(tmp_path, *flags, "--in-memory", "5") == UsageError.exit_code
    assert "refined needs all vectors at once" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_skipped_items_of_a_pool_outside_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_mbeir(tmp_path / "data", ["cirr_task7"], n=8)
    image = sorted((data / "mbeir_images").rglob("*1.jpg"))[0]
    image.unlink()
    flags = ("--task", "mbeir/cirr_task7", "--data", str(data), "--repairs", "base", "--on-error", "skip")
    found = []
    for most in ("200000", "5"):
        assert evaluate(tmp_path, *flags, "--in-memory", most) == 5
        manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
        rows = json.loads(capsys.readouterr().out)["rows"]
        found.append((sorted(entry["id"] for entry in manifest["skipped"]), rows))
    assert found[0][0] == found[1][0] != []
    assert found[0][1] == found[1][1]
