"""`clearsight sae`: from a model, or from vectors, to an autoencoder on disk that other commands read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clearsight.cli import main
from clearsight.data import save_vectors
from clearsight.formats import describe_sae, load_sae
from clearsight.types import Embeddings


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    directions = random.standard_normal((24, 16))
    weights = random.random((600, 24)) * (random.random((600, 24)) < 0.1)
    rows_ND = (weights @ directions + 0.01 * random.standard_normal((600, 16))).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "rows.parquet"
    save_vectors(path, Embeddings.of([f"v{n}" for n in range(600)], rows_ND))
    return path


def train(vectors: Path, out: Path, *flags: str) -> int:
    small = ["--concepts", "32", "--k", "4", "--batch", "64", "--epochs", "40"]
    return main(["sae", "train", "--vectors", str(vectors), "--out", str(out), *small, *flags])


def test_from_vectors_to_another_houses_format(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sae"
    assert train(vectors, out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vectors"] == 600
    assert told["steps"] == 600 * 40 // 64
    sae = load_sae(out)
    assert (sae.config.width, sae.config.concepts, sae.config.k) == (16, 32, 4)
    assert describe_sae(out).facts["vectors"] == 600

    assert main(["sae", "convert", str(out), str(tmp_path / "other"), "--to", "sparsify"]) == 0
    capsys.readouterr()
    assert main(["sae", "info", str(tmp_path / "other"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["concepts"]) == ("sparsify", 32)
    assert 1 <= told["effective rank"] <= 16
    assert main(["sae", "compare", str(out), str(tmp_path / "other"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mean cosine of the best matching"] == pytest.approx(1, abs=1e-5)


def test_another_seed_finds_the_same_concepts_partly(vectors: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        assert train(vectors, tmp_path / seed, "--sae-seed", seed) == 0
    from clearsight.sae.dictionary import stability

    found = stability(*(load_sae(tmp_path / seed).dictionary_CD for seed in ("0", "1")))
    assert 0.5 < found.matched < 1


def test_a_second_run_goes_on_from_the_checkpoint(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(vectors, tmp_path / "sae") == 0
    first = load_sae(tmp_path / "sae").dictionary_CD
    assert train(vectors, tmp_path / "sae", "--json") == 0
    assert np.array_equal(load_sae(tmp_path / "sae").dictionary_CD, first)
    assert train(vectors, tmp_path / "sae", "--sae-seed", "7") == 2
    assert "seed" in capsys.readouterr().err


def test_tokens_of_the_shipped_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(
        "".join(json.dumps({"id": str(n), "text": f"{n} red circles"}) + "\n" for n in range(40))
    )
    flags = ["--items", str(items), "--out", str(tmp_path / "sae"), "--concepts", "64", "--batch", "64"]
    assert main(["sae", "train", "tiny", *flags, "--epochs", "3", "--k", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vectors"] > 40
    facts = describe_sae(tmp_path / "sae").facts
    assert facts["origin"]["model"] == "tiny"
    assert facts["options"]["k"] == 8


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "either a model"),
        (["tiny"], "needs items"),
        (["tiny", "--items", "nowhere"], "nowhere"),
        (["tiny", "--vectors", "rows.npy"], "either a model"),
    ],
)
def test_what_is_missing_is_said(
    flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sae", "train", *flags, "--out", str(tmp_path / "sae")]) in (2, 3)
    assert says in capsys.readouterr().err


def test_k_beyond_the_concepts(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--concepts", "8", "--k", "9", "--out", str(tmp_path)]
    assert main(["sae", "train", "--vectors", str(vectors), *flags]) == 2
    assert "k is 9" in capsys.readouterr().err
