"""Embedding beside sentence-transformers: one model folder, the same items, equal vectors.

Workloads: short texts under the hierarchical system prompt (last token), texts of mixed lengths under the
same prompt, and images (mean of all tokens). Models: the shipped one, and a random Qwen2-VL of about 100 M
parameters over the shipped tokenizer. The floor is the forward passes of our own batches, replayed with
nothing around them.

sentence-transformers cannot build the processor of Qwen2-VL without torchvision (its video part needs it).
Here, and only here, that part is taken out of the processor class; its own code is otherwise as installed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from harness import interleave, line, ratio, report
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

from clearsight.data import world
from clearsight.models.encoder import Encoder
from clearsight.models.folder import find_folder
from clearsight.models.forward import Forward
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.prompts import get_template
from clearsight.types import Item

TOLERANCE = 2e-5  # of the largest value: float32 in another batch and another order
WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "circle",
    "square",
    "star",
    "above",
    "below",
    "beside",
    "near",
    "a",
    "the",
    "one",
    "two",
    "left",
    "right",
]


def random_texts(count: int, words: tuple[int, int], seed: int) -> list[str]:
    """Texts of words between the two numbers, lengths spread evenly in their logarithm."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(np.log(words[0]), np.log(words[1] + 1), count)).astype(int)
    return [f"{n} {' '.join(rng.choice(WORDS, length))}" for n, length in enumerate(lengths)]


def large_folder(folder: Path) -> Path:
    """A random Qwen2-VL of about 100 M parameters with the shipped tokenizer and image processor."""
    shipped = find_folder("tiny").path
    config = transformers.AutoConfig.from_pretrained(shipped)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 768, 2560, 12
    text.num_attention_heads, text.num_key_value_heads, text.layer_types = 12, 4, ["full_attention"] * 12
    text.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    vision.depth, vision.embed_dim, vision.num_heads, vision.hidden_size = 6, 384, 6, 768
    torch.manual_seed(0)
    model = transformers.Qwen2VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(shipped).save_pretrained(folder)
    transformers.AutoImageProcessor.from_pretrained(shipped).save_pretrained(folder)
    return folder


def peer_of(folder: Path, pooling: str) -> Any:
    """A sentence-transformers model over the folder; the generation prompt goes with last-token pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    last = pooling == "last"
    options = {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}} if last else {}
    transformer = Transformer(str(folder), model_kwargs={"dtype": torch.float32}, **options)
    mode = "lasttoken" if last else "mean"
    pooler = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
    return SentenceTransformer(modules=[transformer, pooler], device="cpu")


def without_video_part() -> None:
    """See the docstring above."""
    Qwen2VLProcessor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])


class Workload:
    """Items, and both ways to embed them."""

    def __init__(self, name: str, items: Sequence[Item], prompt: str, pooling: str) -> None:
        self.name, self.items, self.prompt, self.pooling = name, list(items), prompt, pooling

    def ours(self, loaded: LoadedModel) -> Callable[[], Any]:
        encoder = Encoder(loaded, prompt=self.prompt, pooling=self.pooling)
        return lambda: encoder.embed(self.items, "candidate").rows_ND

    def theirs(self, peer: Any, batch_size: int) -> Callable[[], Any]:
        system = get_template(self.prompt).rule[0].system
        inputs = [item.text if item.image is None else item.image for item in self.items]
        options = {"prompt": system} if system else {}
        return partial(peer.encode, inputs, batch_size=batch_size, show_progress_bar=False, **options)

    def floor(self, loaded: LoadedModel) -> Callable[[], None]:
        """The passes that one call makes, replayed."""
        passes: list[tuple[Any, ...]] = []
        call = Forward.__call__

        def record(forward: Forward, *inputs: Any) -> Any:
            passes.append((forward, *inputs))
            return call(forward, *inputs)

        Forward.__call__ = record  # type: ignore[method-assign]
        try:
            self.ours(loaded)()
        finally:
            Forward.__call__ = call  # type: ignore[method-assign]

        @torch.inference_mode()
        def replay() -> None:
            for forward, *inputs in passes:
                forward(*inputs)

        return replay


def equal(ours_ND: Any, theirs_ND: Any) -> float:
    """The largest difference, as a share of the largest value.

    Raises:
        SystemExit: it exceeds the tolerance; a faster wrong answer is no result.
    """
    theirs = np.asarray(theirs_ND, dtype=np.float32)
    difference = float(np.abs(ours_ND - theirs).max() / np.abs(theirs).max())
    if difference > TOLERANCE:
        raise SystemExit(f"Vectors differ by {difference:.1e} of the largest value.")
    return difference


def workloads(count: int) -> list[Workload]:
    images = [Item(f"image {n}", image=item.image) for n, item in enumerate(world.unlabelled_images(count))]
    short, mixed = random_texts(count, (3, 8), seed=1), random_texts(count, (4, 200), seed=2)
    return [
        Workload("short texts", [Item(text, text=text) for text in short], "hierarchical", "last"),
        Workload("mixed lengths", [Item(text, text=text) for text in mixed], "hierarchical", "last"),
        Workload("images", images, "plain", "mean"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--items", type=int, default=1000, help="of each workload, for the shipped model")
    parser.add_argument(
        "--large-items", type=int, default=128, help="the same for the random 100 M model; 0 leaves it out"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="of sentence-transformers (its default)")
    parser.add_argument("--only", nargs="*", metavar="WORKLOAD", help="names of workloads; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="append to results/embed.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    without_video_part()
    with tempfile.TemporaryDirectory() as scratch:
        models = [("tiny", find_folder("tiny").path, options.items)]
        if options.large_items:
            models.append(("random-100M", large_folder(Path(scratch)), options.large_items))
        for model, folder, count in models:
            loaded = load_model(folder, device="cpu")
            for workload in workloads(count):
                if options.only and workload.name not in options.only:
                    continue
                measure(model, Path(folder), loaded, workload, options)


def measure(
    model: str, folder: Path, loaded: LoadedModel, workload: Workload, options: argparse.Namespace
) -> None:
    """One line of the results."""
    contenders = {
        "clearsight": workload.ours(loaded),
        "sentence-transformers": workload.theirs(peer_of(folder, workload.pooling), options.batch_size),
        "floor": workload.floor(loaded),
    }
    difference = equal(contenders["clearsight"](), contenders["sentence-transformers"]())
    seconds = interleave(contenders, options.rounds)
    report(
        line(
            "embed",
            peers=("sentence-transformers", "transformers", "torch"),
            model=model,
            parameters=sum(p.numel() for p in loaded.base.parameters()),
            workload=workload.name,
            items=len(workload.items),
            prompt=workload.prompt,
            pooling=workload.pooling,
            threads=options.threads,
            peer_batch_size=options.batch_size,
            seconds=seconds,
            speedup=ratio(seconds, "sentence-transformers", "clearsight"),
            over_floor=ratio(seconds, "clearsight", "floor"),
            difference=difference,
            tolerance=TOLERANCE,
        ),
        save=options.save,
    )


if __name__ == "__main__":
    main()
