"""The files of other houses, against the libraries that own them: equal codes and reconstructions, both ways.

Needs those libraries in an environment of their own (`make test-peers`). They run once, in `peers_worker.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from clearsight.errors import DataError
from clearsight.formats import describe_sae, load_sae, save_sae
from clearsight.sae import SparseAutoencoder
from clearsight.sae.measures import measure_reconstruction
from sae_forms import FORMS, make_rows, make_sae

pytestmark = pytest.mark.peers

NATIVE = [name for name in FORMS if not name.startswith("sparsemax")]
TOPK = [name for name in FORMS if name.startswith("topk")]
READ = [
    *(f"saelens-{name}" for name in ("standard", "standard-uncentred", "jumprelu", "topk", "topk-rescaled")),
    *("saelens-batchtopk-False", "saelens-batchtopk-True", "sparsify"),
    *(f"dictionary_learning-{name}" for name in ("AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder")),
    *("dictionary_learning-AutoEncoderTopK", "dictionary_learning-BatchTopKSAE"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = os.environ.get("CLEARSIGHT_PEERS")
    if python is None:
        pytest.skip("CLEARSIGHT_PEERS is not set; run make test-peers")
    folder = tmp_path_factory.mktemp("peers")
    np.save(folder / "rows.npy", make_rows())
    for name in FORMS:
        save_sae(make_sae(name), folder / "ours" / f"saelens-{name}")
    for name in TOPK:
        save_sae(make_sae(name), folder / "ours" / f"sparsify-{name}", format="sparsify")
    worker = Path(__file__).with_name("peers_worker.py")
    done = subprocess.run([python, worker, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def check(sae: SparseAutoencoder, place: Path, rows_ND: np.ndarray) -> None:
    """Codes and reconstruction are those that the library computed."""
    codes_NC, reconstruction_ND = np.load(place / "codes.npy"), np.load(place / "reconstruction.npy")
    assert (codes_NC != 0).any(axis=1).mean() > 0.9
    np.testing.assert_allclose(sae.encode(rows_ND).toarray(), codes_NC, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(rows_ND), reconstruction_ND, atol=1e-5)


@pytest.mark.parametrize("name", NATIVE)
def test_saelens_opens_what_we_write(folder: Path, name: str) -> None:
    check(make_sae(name), folder / "ours" / f"saelens-{name}", make_rows())


@pytest.mark.parametrize("name", NATIVE)
def test_what_saelens_saves_again_is_ours_still(folder: Path, name: str) -> None:
    place = folder / "ours" / f"saelens-{name}"
    check(load_sae(place / "again"), place, make_rows())
    assert load_sae(place / "again").config == make_sae(name).folded().config


@pytest.mark.parametrize("name", [name for name in FORMS if name not in NATIVE])
def test_saelens_refuses_what_it_does_not_know(folder: Path, name: str) -> None:
    assert "clearsight_sparsemax" in (folder / "ours" / f"saelens-{name}" / "refused.txt").read_text()


@pytest.mark.parametrize("name", TOPK)
def test_sparsify_opens_what_we_write(folder: Path, name: str) -> None:
    check(make_sae(name), folder / "ours" / f"sparsify-{name}", make_rows())


@pytest.mark.parametrize("name", READ)
def test_we_read_what_they_write(folder: Path, name: str) -> None:
    place = folder / "theirs" / name
    assert describe_sae(place).format == name.split("-")[0]
    check(load_sae(place), place, make_rows())


@pytest.mark.parametrize("file", ["sae_paper.pt", "bare.pt"])
@pytest.mark.parametrize("name", ["topk", "multiplier", "jump"])
def test_we_read_overcomplete_and_the_papers_files(folder: Path, name: str, file: str) -> None:
    place = folder / "theirs" / f"overcomplete-{name}"
    sae = load_sae(place / file, k=5)
    assert describe_sae(place / file).format == "overcomplete"
    check(sae, place, make_rows())


def test_r2_is_that_of_overcomplete(folder: Path) -> None:
    place = folder / "theirs" / "overcomplete-topk"
    measured = measure_reconstruction(load_sae(place / "bare.pt", k=5), make_rows())["all"]
    assert measured.r2_scalar == pytest.approx(json.loads((place / "r2.json").read_text()), abs=1e-5)


def test_without_its_config_a_topk_of_dictionary_learning_is_ambiguous(folder: Path, tmp_path: Path) -> None:
    for name, activation in (("AutoEncoderTopK", "topk"), ("BatchTopKSAE", "batchtopk")):
        place = folder / "theirs" / f"dictionary_learning-{name}"
        alone = tmp_path / f"{name}.pt"
        alone.write_bytes((place / "ae.pt").read_bytes())
        with pytest.raises(DataError, match=r"top-k or a batch top-k.*activation='topk'"):
            load_sae(alone)
        check(load_sae(alone, activation=activation), place, make_rows())


@pytest.mark.parametrize(
    ("name", "message"), [("saelens-gated", "'gated' is not read"), ("saelens-normalised", "layer_norm")]
)
def test_what_has_no_counterpart_is_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_sae(folder / "theirs" / name)
