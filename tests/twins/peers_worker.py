"""Runs in the peers' environment, not in ours: `python peers_worker.py FOLDER`.

Opens what Clearsight wrote under FOLDER/ours with the library it was written for, and lets each library make
and save autoencoders of its own under FOLDER/theirs. Beside each lie what that library itself computes from
FOLDER/rows.npy: codes.npy and reconstruction.npy, or refused.txt.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def without_init(package: str) -> None:
    """Let a package's modules be imported without its __init__: that of overcomplete pulls in torchvision,
    that of dictionary_learning an old nnsight. Neither has anything to do with autoencoders."""
    spec = importlib.util.find_spec(package)
    module = types.ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = module


for name in ("overcomplete", "dictionary_learning"):
    without_init(name)

from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, JumpReluAutoEncoder  # noqa: E402
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE  # noqa: E402
from dictionary_learning.trainers.top_k import AutoEncoderTopK  # noqa: E402
from overcomplete.metrics import r2_score  # noqa: E402
from overcomplete.sae import JumpSAE, TopKSAE, train_sae  # noqa: E402
from sae_lens import SAE  # noqa: E402
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig  # noqa: E402
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig  # noqa: E402
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig  # noqa: E402
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig  # noqa: E402
from sae_lens.saes.topk_sae import TopKSAE as LensTopK  # noqa: E402
from sae_lens.saes.topk_sae import TopKSAEConfig  # noqa: E402
from sparsify import SparseCoder, SparseCoderConfig  # noqa: E402

CONCEPTS = 40


def keep(folder: Path, codes: torch.Tensor, reconstruction: torch.Tensor) -> None:
    np.save(folder / "codes.npy", codes.detach().numpy())
    np.save(folder / "reconstruction.npy", reconstruction.detach().numpy())


def shake(module: torch.nn.Module) -> None:
    """No weight of zero, so that a forgotten bias shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


# What Clearsight wrote


def open_saelens(folder: Path, rows: torch.Tensor) -> None:
    try:
        sae = SAE.load_from_disk(folder)
    except KeyError as error:  # SAELens' registry of architectures
        (folder / "refused.txt").write_text(str(error))
        return
    codes = sae.encode(rows)
    keep(folder, codes, sae.decode(codes))
    sae.save_model(folder / "again")


def open_sparsify(folder: Path, rows: torch.Tensor) -> None:
    keep(folder, *sparse_coder(SparseCoder.load_from_disk(folder), rows))


def sparse_coder(coder: SparseCoder, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices, _ = coder.encode(rows)
    codes = torch.zeros(len(rows), coder.num_latents).scatter(1, indices, values)
    return codes, coder.decode(values, indices)


# What the libraries write


def make_saelens(folder: Path, rows: torch.Tensor) -> None:
    common = {"d_in": rows.shape[1], "d_sae": CONCEPTS}
    made = {
        "standard": StandardSAE(StandardSAEConfig(**common)),
        "standard-uncentred": StandardSAE(StandardSAEConfig(**common, apply_b_dec_to_input=False)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**common)),
        "topk": LensTopK(TopKSAEConfig(**common, k=5)),
        "topk-rescaled": LensTopK(TopKSAEConfig(**common, k=5, rescale_acts_by_decoder_norm=True)),
        "gated": GatedSAE(GatedSAEConfig(**common)),
        "normalised": StandardSAE(StandardSAEConfig(**common, normalize_activations="layer_norm")),
    }
    for name, sae in made.items():
        shake(sae)
        place = folder / f"saelens-{name}"
        sae.save_model(place)
        codes = sae.encode(rows)
        keep(place, codes, sae.decode(codes))
    for rescaled in (False, True):
        config = BatchTopKTrainingSAEConfig(**common, k=5, rescale_acts_by_decoder_norm=rescaled)
        sae = BatchTopKTrainingSAE(config)
        shake(sae)
        sae.topk_threshold = torch.tensor(0.4, dtype=torch.double)
        place = folder / f"saelens-batchtopk-{rescaled}"
        sae.save_model(place)  # the checkpoint of its training ...
        sae.save_inference_model(place / "inference")  # ... and what SAELens makes of it
        opened = SAE.load_from_disk(place / "inference")
        codes = opened.encode(rows)
        keep(place, codes, opened.decode(codes))


def make_sparsify(folder: Path, rows: torch.Tensor) -> None:
    coder = SparseCoder(rows.shape[1], SparseCoderConfig(num_latents=CONCEPTS, k=5))
    shake(coder)
    place = folder / "sparsify"
    coder.save_to_disk(place)
    keep(place, *sparse_coder(coder, rows))


def make_overcomplete(folder: Path, rows: torch.Tensor) -> None:
    """Trained for a few steps, so that `logs` is the defaultdict that its trainer returns."""
    for name, kind, options in (
        ("topk", TopKSAE, {"top_k": 5}),
        ("multiplier", TopKSAE, {"top_k": 5, "dictionary_params": {"use_multiplier": True}}),
        ("jump", JumpSAE, {}),
    ):
        sae = kind(rows.shape[1], CONCEPTS, **options)
        loader = torch.utils.data.DataLoader(rows, batch_size=16)
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)

        def loss(x: torch.Tensor, x_hat: torch.Tensor, pre_codes: object, codes: object, dictionary: object):
            return ((x - x_hat) ** 2).mean()

        logs = train_sae(sae, loader, loss, optimizer, nb_epochs=3, monitoring=2)
        place = folder / f"overcomplete-{name}"
        place.mkdir()
        torch.save({"model_state": sae.state_dict(), "logs": logs, "epoch": 3}, place / "sae_paper.pt")
        torch.save(sae.state_dict(), place / "bare.pt")
        sae.eval()
        _, codes = sae.encode(rows)
        reconstruction = sae.decode(codes)
        keep(place, codes, reconstruction)
        (place / "r2.json").write_text(json.dumps(r2_score(rows, reconstruction).item()))


def make_dictionary_learning(folder: Path, rows: torch.Tensor) -> None:
    width = rows.shape[1]
    for name, sae in (
        ("AutoEncoder", AutoEncoder(width, CONCEPTS)),
        ("AutoEncoderNew", AutoEncoderNew(width, CONCEPTS)),
        ("JumpReluAutoEncoder", JumpReluAutoEncoder(width, CONCEPTS)),
        ("AutoEncoderTopK", AutoEncoderTopK(width, CONCEPTS, 5)),
        ("BatchTopKSAE", BatchTopKSAE(width, CONCEPTS, 5)),
    ):
        shake(sae)
        if name in ("AutoEncoderTopK", "BatchTopKSAE"):
            sae.threshold.fill_(0.4)
        place = folder / f"dictionary_learning-{name}"
        place.mkdir()
        torch.save(sae.state_dict(), place / "ae.pt")
        (place / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}, "buffer": None}))
        codes = sae.encode(rows)
        keep(place, codes, sae.decode(codes))


OPEN: dict[str, Callable[[Path, torch.Tensor], None]] = {"saelens": open_saelens, "sparsify": open_sparsify}
MAKE = (make_saelens, make_sparsify, make_overcomplete, make_dictionary_learning)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    rows = torch.from_numpy(np.load(folder / "rows.npy"))
    for place in sorted((folder / "ours").iterdir()):
        OPEN[place.name.split("-")[0]](place, rows)
    theirs = folder / "theirs"
    theirs.mkdir()
    for make in MAKE:
        make(theirs, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
