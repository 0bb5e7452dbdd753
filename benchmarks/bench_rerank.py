"""Reranking beside one plain transformers forward per pair, and sentence-transformers' CrossEncoder.

Same model folder, same pairs, equal scores. A query's first 50 candidates are judged: captions of an image,
images of a caption, texts of a text, by p_true (one token read) and by likelihood (a text read; its prior
too). The plain way is the releases': batch 1, the image processed and passed anew for every pair, logits of
the whole sequence. The CrossEncoder is the exported folder, with batches of its own (only p_true has one);
of text pairs and of images with their captions. The floor is our own forward passes, replayed with nothing
around them.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bench_embed import without_video_part
from harness import interleave, line, peak_memory, ratio, report

from clearsight.data import world
from clearsight.models.folder import find_folder
from clearsight.models.judge_pass import Passes
from clearsight.models.load import LoadedModel, load_model
from clearsight.rerank import Reranker
from clearsight.types import Item

TOLERANCE = 1e-4
Pairs = Sequence[tuple[Item, Sequence[Item]]]


class Plain:
    """One conversation at a time through the model as transformers has it."""

    def __init__(self, folder: Path) -> None:
        auto = transformers.AutoModelForImageTextToText
        self.model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.images = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.ways = {word: self._ways(word) for word in ("true", "false")}

    def _ways(self, word: str) -> list[int]:
        every = range(len(self.tokenizer))
        return [t for t in every if self.tokenizer.decode([t]).strip().lower() == word]

    def inputs(self, image: Any, text: str, said: str = "") -> dict[str, Any]:
        parts = [{"type": "image"}] if image is not None else []
        turn = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
        words = self.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True) + said
        pixels = {}
        if image is not None:
            pixels = dict(self.images(image, return_tensors="pt"))
            count = int(pixels["image_grid_thw"].prod()) // 4
            words = words.replace("<|image_pad|>", "<|image_pad|>" * count, 1)
        inputs = dict(self.tokenizer(words, return_tensors="pt"))
        return {**inputs, **pixels, "mm_token_type_ids": (inputs["input_ids"] == self.pad).int()}

    def p_true(self, query: Item, candidate: Item) -> float:
        image, text = worded(query, candidate)
        p_V = self.model(**self.inputs(image, text)).logits[0, -1].float().softmax(-1)
        yes, no = (float(p_V[self.ways[word]].sum()) for word in ("true", "false"))
        return yes / (yes + no)

    def log_p(self, image: Any, said: str) -> float:
        inputs = self.inputs(image, "Describe the image.", f"{said}<|im_end|>")
        start = self.inputs(image, "Describe the image.")["input_ids"].shape[1]
        log_p_LV = self.model(**inputs).logits[0].float().log_softmax(-1)
        ids_L = inputs["input_ids"][0]
        return sum(float(log_p_LV[t - 1, ids_L[t]]) for t in range(start, len(ids_L)))

    def likelihood(self, query: Item, candidate: Item) -> float:
        image, text = (query.image, candidate.text) if query.text is None else (candidate.image, query.text)
        return self.log_p(image, str(text)) - self.log_p(None, str(text))

    @torch.inference_mode()
    def scores(self, pairs: Pairs, scorer: str) -> list[float]:
        return [getattr(self, scorer)(query, c) for query, candidates in pairs for c in candidates]


def worded(query: Item, candidate: Item) -> tuple[Any, str]:
    """The image and the words of the shipped model's matching question."""
    if query.image is None and candidate.image is None:
        return None, (
            f"{query.text}\nDoes the sentence match the caption: {str(candidate.text).strip('.')}? "
            "Please directly output True or False"
        ).replace(str(query.text), str(query.text).strip("."), 1)
    image, text = (query.image, candidate.text) if query.text is None else (candidate.image, query.text)
    words = str(text).strip(".")
    return image, f"Does the image match the caption: {words}? Please directly output True or False"


def ours(loaded: LoadedModel, pairs: Pairs, scorer: str) -> Callable[[], list[float]]:
    """All queries at once, as `Reranker.rerank` asks them."""
    made = Reranker.load(loaded, scorer=scorer).scorer
    form, judge = made.form, made.judge

    def run() -> list[float]:
        asked = [form.ask(query, candidates) for query, candidates in pairs]
        rows = judge.answer([question for some in asked for question in some])
        scores: list[float] = []
        for (query, candidates), some in zip(pairs, asked, strict=True):
            mine, rows = rows[: len(some)], rows[len(some) :]
            scores += form.read(mine, len(candidates), query.id).scores_C.tolist()
        return scores

    return run


def floor_of(run: Callable[[], Any]) -> Callable[[], None]:
    """The passes that one call makes, replayed, each after the prefix that it had."""
    passes: list[tuple[Passes, dict[str, Any], Any]] = []
    call = Passes._run

    def record(self: Passes, inputs: Any, cache: Any) -> Any:
        passes.append((self, dict(inputs), fresh(cache)))
        return call(self, inputs, cache)

    Passes._run = record  # type: ignore[method-assign]
    try:
        run()
    finally:
        Passes._run = call  # type: ignore[method-assign]

    @torch.inference_mode()
    def replay() -> None:
        for one, inputs, cache in passes:
            one.loaded.base(**inputs, past_key_values=fresh(cache), use_cache=cache is not None)

    return replay


def fresh(cache: Any) -> Any:
    """The same keys and values, to which a pass may add its own."""
    if cache is None:
        return None
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    return mine


def cross_encoder(loaded: LoadedModel, place: Path) -> Any:
    """The exported folder in sentence-transformers."""
    from sentence_transformers import CrossEncoder

    from clearsight.formats.cross_encoder import PairJudge, plan_reranker, reranker_facts
    from clearsight.formats.sentence_transformers_folder import write_export

    judge = PairJudge(Reranker.load(loaded, scorer="p_true"))
    plan = plan_reranker(judge)
    write_export(place, judge, plan, facts=reranker_facts(judge, plan), card="# p_true")
    return CrossEncoder(str(place), device="cpu")


def theirs(peer: Any, pairs: Pairs, batch_size: int) -> Callable[[], list[float]]:
    inputs = [
        (query.text if query.image is None else query.image, c.text if c.image is None else c.image)
        for query, candidates in pairs
        for c in candidates
    ]
    return lambda: peer.predict(inputs, batch_size=batch_size, show_progress_bar=False).tolist()


def workloads(queries: int, top: int) -> list[tuple[str, str, Pairs]]:
    """(scorer, way, pairs)."""
    images, texts = world.image_to_text(top, seed=7).queries, world.text_to_image(top, seed=7).queries
    ways = {
        "image -> text": [(image, texts) for image in images[:queries]],
        "text -> image": [(text, images) for text in texts[:queries]],
        "text -> text": [(text, texts) for text in texts[:queries]],
    }
    chosen = [("p_true", way) for way in ways]
    chosen += [("likelihood", way) for way in list(ways)[:2]]
    return [(scorer, way, ways[way]) for scorer, way in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32, help="of sentence-transformers (its default)")
    parser.add_argument("--only", nargs="*", metavar="SCORER", help="p_true, likelihood; both by default")
    parser.add_argument("--no-peer", action="store_true", help="leave sentence-transformers out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="append to results/rerank.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = find_folder("tiny").path
    loaded, plain = load_model(folder, device="cpu", head=True), Plain(folder)
    with tempfile.TemporaryDirectory() as scratch:
        peer = None
        if not options.no_peer:
            without_video_part()
            peer = cross_encoder(loaded, Path(scratch) / "folder")
        for scorer, way, pairs in workloads(options.queries, options.top):
            if not options.only or scorer in options.only:
                measure(loaded, plain, peer if scorer == "p_true" else None, (scorer, way, pairs), options)


def measure(
    loaded: LoadedModel, plain: Plain, peer: Any, workload: tuple[str, str, Pairs], options: Any
) -> None:
    """One line of the results."""
    scorer, way, pairs = workload
    mine = ours(loaded, pairs, scorer)
    contenders: dict[str, Callable[[], Any]] = {
        "clearsight": mine,
        "plain": lambda: plain.scores(pairs, scorer),
        "floor": floor_of(mine),
    }
    if peer is not None:
        contenders["sentence-transformers"] = theirs(peer, pairs, options.batch_size)
    expected = np.array(contenders["plain"]())
    differences = {
        name: float(np.abs(np.array(run()) - expected).max())
        for name, run in contenders.items()
        if name not in ("plain", "floor")
    }
    if max(differences.values()) > TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise SystemExit(f"Scores differ: {differences}. A faster wrong answer is no result.")
    seconds = interleave(contenders, options.rounds)
    count = sum(len(candidates) for _, candidates in pairs)
    report(
        line(
            "rerank",
            peers=("sentence-transformers", "transformers", "torch"),
            model="tiny",
            scorer=scorer,
            way=way,
            queries=options.queries,
            top=options.top,
            threads=options.threads,
            peer_batch_size=options.batch_size,
            pairs_per_second={name: round(count / float(np.median(s)), 1) for name, s in seconds.items()},
            seconds=seconds,
            over_plain=ratio(seconds, "plain", "clearsight"),
            over_peer=ratio(seconds, "sentence-transformers", "clearsight") if peer is not None else None,
            over_floor=ratio(seconds, "clearsight", "floor"),
            peak_memory=peak_memory(mine),
            differences=differences,
            tolerance=TOLERANCE,
        ),
        save=options.save,
    )


if __name__ == "__main__":
    main()
