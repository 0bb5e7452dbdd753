"""`clearsight diagnose` on the shipped models: every part of the run, its honesty, its resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clearsight.cli import main
from clearsight.data import world
from clearsight.formats import load_sae
from clearsight.jobs.diagnose import DiagnoseConfig, diagnose
from clearsight.run import Run

SMALL = {"items": 60, "unlabelled": "40", "concepts": 96, "k": 8, "epochs": 2, "batch": 64, "method": "pca"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnose")
    diagnose(DiagnoseConfig(out=folder / "run", work=folder / "work", **SMALL))
    return folder / "run"


def test_the_run_holds_every_table_and_figure(run: Path) -> None:
    assert Run.open(run).manifest["status"] == "complete"
    for name in ("tiny", "tiny-contrastive"):
        table = pq.read_table(run / f"tables/{name}-concepts.parquet")
        assert table.num_rows == load_sae(run / f"autoencoders/{name}").config.concepts
        assert {"name", "energy", "modality_score", "attribution", "bridge_abs"} <= set(table.column_names)
        removal = pq.read_table(run / f"tables/{name}-removal.parquet").to_pydict()
        assert {"base", "top attribution", "random concepts", "bottom attribution"} <= set(removal["arm"])
        assert {"image -> text", "text -> image"} == set(removal["case"])
    figures = {path.suffix for path in (run / "figures").rglob("*") if path.is_file()}
    assert {".svg", ".png"} <= figures
    facts = json.loads((run / "tables/tiny.json").read_text())
    assert {"all", "modality=image", "modality=text", "token=image"} <= set(facts["reconstruction"])
    assert facts["code_of_mean_against_mean_of_codes"]["cosine"] < 1  # eq. 13 of the paper does not hold
    masking = pq.read_table(run / "tables/tiny-masking.parquet").to_pydict()
    assert {"mean", "mean_no_image", "mean_no_prompt"} == set(masking["pooling"])


def test_identities_hold_in_the_written_numbers(run: Path) -> None:
    columns = pq.read_table(run / "tables/tiny-concepts.parquet").to_pydict()
    alive = np.array(columns["alive"])
    energy = np.array(columns["energy"])
    assert ((energy > 0) == alive).all()
    both = np.array(columns["image_energy"]) + np.array(columns["text_energy"])
    score = np.array([np.nan if s is None else s for s in columns["modality_score"]], dtype=float)
    assert np.allclose(score[both > 0] * both[both > 0], np.array(columns["text_energy"])[both > 0])
    assert np.isnan(score[both == 0]).all()
    # A = rowsum(B) + colsum(B), and the `sum` reduction is that sum.
    assert np.allclose(columns["attribution"], columns["bridge_sum"], atol=1e-6)


def test_findings_are_words_computed_from_the_numbers(run: Path) -> None:
    findings = json.loads((run / "findings.json").read_text())
    verdicts = {"shown here", "the opposite is seen here", "not shown here", "not tested here"}
    assert {one["verdict"] for one in findings} <= verdicts
    page = (run / "report.html").read_text()
    assert len(findings) == 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(page) < 8_000_000


def test_a_second_run_trains_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clearsight.sae.training import Training

    def no_step(*_: object) -> int:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Training, "take", no_step)
    diagnose(DiagnoseConfig(out=tmp_path / "again", work=run.parent / "work", **SMALL))
    first, again = (load_sae(place / "autoencoders/tiny") for place in (run, tmp_path / "again"))
    assert np.array_equal(first.dictionary_CD, again.dictionary_CD)


def test_a_task_without_pairs_is_diagnosed_as_far_as_it_goes(tmp_path: Path) -> None:
    """Texts that look for texts among pictures: bridge and attribution are undefined, the rest is there."""
    scenes = world.image_to_text(24)
    place = tmp_path / "task"
    place.mkdir()
    for item in scenes.queries:
        assert isinstance(item.image, Image.Image)
        item.image.save(place / f"{item.id}.png")
    texts = [{"id": item.id, "text": item.text} for item in scenes.candidates]
    pictures = [{"id": item.id, "image": f"{item.id}.png"} for item in scenes.queries]
    wanted = [{"query": f"q{n}", "candidate": one["id"], "grade": 1} for n, one in enumerate(texts)]
    asked = [{"id": f"q{n}", "text": f"Which one says: {one['text']}"} for n, one in enumerate(texts)]
    for name, rows in (("queries", asked), ("candidates", texts + pictures), ("relevance", wanted)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = SMALL | {"items": None, "unlabelled": "0"}
    folder = tmp_path / "run"
    diagnose(DiagnoseConfig(models=("tiny",), data=str(place), out=folder, work=tmp_path / "work", **flags))
    columns = set(pq.read_table(folder / "tables/tiny-concepts.parquet").column_names)
    assert {"energy", "modality_score"} <= columns
    assert not columns & {"attribution", "bridge_abs"}
    assert not (folder / "tables/tiny-removal.parquet").exists()
    assert "no matched pairs" in (folder / "report.html").read_text()
    verdicts = [one["verdict"] for one in json.loads((folder / "findings.json").read_text())]
    assert verdicts[-1] == "not tested here"


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["tiny", "tiny"], 2, "different models"),
        (["nowhere"], 4, "nowhere"),
        (["tiny", "--data", "world/i3t"], 2, "world/i2t"),
        (["tiny", "--items", "20", "--concepts", "4", "--k", "5"], 2, "k is 5"),
        (["tiny", "--items", "5", "--unlabelled", "0", "--concepts", "5000"], 3, "concepts"),
    ],
)
def test_bad_input_is_answered(
    flags: list[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", *flags, "--out", str(tmp_path / "r"), "--work", str(tmp_path / "w")]) == code
    assert says in capsys.readouterr().err
