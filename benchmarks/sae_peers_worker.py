"""Training steps of other houses' top-k autoencoders, in their environment; bench_sae.py talks to it.

Reads a JSON object a line and answers with one:
{"make": [width, concepts, k, batch], "file": weights and rows, "threads": n} builds every peer;
{"step": name} makes one training step and answers {"loss": its value}.

What a step contains, beside codes, loss, gradients, Adam and zeroing the gradients, as each house does it:
overcomplete: its `train_sae` on one batch, monitoring off (clipping at 1, dead-code tracking); the linear
    encoder of the published checkpoints (no batch norm); criterion mean squared error.
overcomplete+aux: the same with its `top_k_auxiliary_loss`.
sparsify: what its trainer does a step: rows to unit length, forward with a dead mask (auxk_alpha 1/32),
    gradient along the rows removed, counters of the dead; no clipping; torch's Adam (its default is signum).
saelens, saelens_sparse: `SAETrainer._train_step` (clipping at 1, counters, schedulers) with its default dense
    and its sparse activations (these without its rescaling by decoder lengths: with it they have no gradient
    on a CPU).
dictionary_learning: `TopKTrainer.update` (clipping, gradient along the rows removed, rows to unit length,
    loss read by the host).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
import types
from importlib.metadata import version

import torch


def without_init(package: str) -> None:
    """Import a package's modules without its __init__: overcomplete's pulls in torchvision, that of
    dictionary_learning an old nnsight; neither is part of a step."""
    spec = importlib.util.find_spec(package)
    module = types.ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = module


os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its Triton decoder needs CUDA
with contextlib.redirect_stdout(io.StringIO()):
    without_init("overcomplete")
    without_init("dictionary_learning")
    from dictionary_learning.trainers.top_k import TopKTrainer
    from overcomplete.sae import TopKSAE, train_sae
    from overcomplete.sae.losses import top_k_auxiliary_loss
    from overcomplete.sae.modules import MLPEncoder
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer
    from sparsify import SparseCoder, SparseCoderConfig

LR = 1e-4
PEERS = ("Overcomplete", "eai-sparsify", "sae-lens", "dictionary-learning", "torch")


def overcomplete(shape, rows, weights, criterion):
    width, concepts, k, _ = shape
    encoder = MLPEncoder(width, concepts, norm_layer=torch.nn.Identity)
    model = TopKSAE(width, concepts, top_k=k, encoder_module=encoder)
    with torch.no_grad():
        encoder.final_block[0].weight.copy_(weights)
        encoder.final_block[0].bias.zero_()
        model.dictionary._weights.copy_(weights)
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    seen = []

    def watched(*given):
        loss = criterion(*given)
        seen.append(loss.detach())
        return loss

    def step():
        train_sae(model, [rows], watched, optimiser, nb_epochs=1, monitoring=0)
        return float(seen.pop())

    return step


def sparsify(shape, rows, weights):
    width, concepts, k, batch = shape
    sae = SparseCoder(width, SparseCoderConfig(num_latents=concepts, k=k))
    with torch.no_grad():
        sae.encoder.weight.copy_(weights)
        sae.W_dec.copy_(weights)
        sae.b_dec.copy_(rows.mean(0))
    optimiser = torch.optim.Adam(sae.parameters(), lr=LR)
    since = torch.zeros(concepts, dtype=torch.long)
    fired = torch.zeros(concepts, dtype=torch.bool)

    def step():
        sae.set_decoder_norm_to_unit_norm()
        out = sae(rows, dead_mask=since > 10_000_000)
        fired[out.latent_indices.flatten()] = True
        loss = out.fvu + out.auxk_loss / 32
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        since.add_(batch)
        since[fired] = 0
        fired.zero_()
        return float(loss.detach())

    return step


def saelens(shape, rows, sparse):
    width, concepts, k, batch = shape
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=width,
            d_sae=concepts,
            k=k,
            use_sparse_activations=sparse,
            rescale_acts_by_decoder_norm=not sparse,
        )
    )
    settings = SAETrainerConfig(10**9, batch, lr=LR, lr_end=LR)
    trainer = SAETrainer(settings, sae, iter(()))
    return lambda: float(trainer._train_step(sae=sae, sae_in=rows).loss.detach())


def dictionary_learning(shape, rows):
    width, concepts, k, _ = shape
    trainer = TopKTrainer(
        steps=10**6,
        activation_dim=width,
        dict_size=concepts,
        k=k,
        layer=0,
        lm_name="none",
        lr=LR,
        device="cpu",
    )
    return lambda: trainer.update(1, rows)


def mean_square(x, x_hat, pre_codes, codes, dictionary):
    return (x - x_hat).square().mean()


def makers(shape, rows, weights):
    return {
        "overcomplete": lambda: overcomplete(shape, rows, weights, mean_square),
        "overcomplete+aux": lambda: overcomplete(shape, rows, weights, top_k_auxiliary_loss),
        "sparsify": lambda: sparsify(shape, rows, weights),
        "saelens": lambda: saelens(shape, rows, False),
        "saelens_sparse": lambda: saelens(shape, rows, True),
        "dictionary_learning": lambda: dictionary_learning(shape, rows),
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints does not mix with the answers
    steps = {}
    for text in sys.stdin:
        order = json.loads(text)
        if "make" in order:
            torch.set_num_threads(order["threads"])
            held = torch.load(order["file"], weights_only=True)
            known = makers(order["make"], held["rows"], held["weights"])
            steps = {name: known[name]() for name in order["names"]}
            answer = {"versions": {name: version(name) for name in PEERS}}
        else:
            answer = {"loss": steps[order["step"]]()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
