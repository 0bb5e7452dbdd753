"""An encoder that is killed loses nothing it reported, keeps nothing wrong, and does nothing twice."""

from __future__ import annotations

import random
import signal
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.data.content import content_key
from clearsight.errors import ItemError
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.pooling import poolings
from clearsight.store import VectorTable
from clearsight.types import Item
from killed_worker import start

COUNT = 120

# `passed` is printed for every batch that the model has seen, `kept` once the encoder has taken its rows, and
# `done` when progress is told of rows that are in the cache.
WORKER = """
import sys, time
from clearsight.models.encoder import Encoder
from test_encoder_resume import encoder, items

class Told:
    def start(self, total, label): pass
    def advance(self, n=1): print("done", n, flush=True)
    def close(self): pass

tool = encoder(sys.argv[1], sys.argv[2])
readout = tool.readout

def slow(poolings):
    inner = readout(poolings)
    def call(window):
        for index, rows in inner(window):
            print("passed", len(index), flush=True)
            time.sleep(0.01)  # leaves room for a kill between any two steps
            yield index, rows
            print("kept", len(index), flush=True)
    return call

tool.readout = slow
print("ready", flush=True)
tool.embed(items(), "query", progress=Told())
print("end", flush=True)
"""


def items():
    """Texts, one of them twice, and some images; the same in every process."""
    texts = [Item(f"text-{n}", text=f"a {'red ' * (n % 7)}square, number {n}") for n in range(COUNT - 20)]
    pixels = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
    images = [Item(f"image-{n}", image=Image.fromarray(one)) for n, one in enumerate(pixels)]
    return [*texts, Item("again", text=texts[0].text), *images]


def encoder(folder, cache):
    return Encoder(load_model(folder), cache=cache, workers=2, token_budget=150, commit_seconds=0.03)


def numbers(lines, word):
    """The counts that follow `word`; a last line cut by a kill counts for nothing."""
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{word} ") and line.endswith("\n"))


def in_cache(folder, cache):
    store = VectorTable.open(cache, encoder(folder, cache).origin())
    keys = [f"{content_key(item)}:query" for item in items()]
    return store.lookup(keys)


@pytest.fixture(scope="module")
def expected(folder_of):
    return Encoder(load_model(folder_of("qwen2_vl")), workers=0).embed(items(), "query").rows_ND


def wait_for(worker, word, count):
    """Lines up to the `count`-th that begins with `word`, or to the end."""
    lines = []
    while count and (line := worker.stdout.readline()):
        lines.append(line)
        count -= line.startswith(word)
    return lines


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_at_random_moments_and_resumed(folder_of, tmp_path, expected):
    folder, cache = folder_of("qwen2_vl"), tmp_path / "cache"
    moments = random.Random()  # the law holds at every moment, so every run of the test tries others
    known = np.zeros(COUNT, dtype=bool)
    for _ in range(2):
        with start(WORKER, folder, cache) as worker:
            lines = wait_for(worker, "done", moments.randint(2, 4))
            time.sleep(moments.uniform(0, 0.1))
            worker.send_signal(signal.SIGKILL)
            lines += worker.stdout.readlines()
        found, rows = in_cache(folder, cache)
        assert (found | ~known).all(), "a row that was there is lost"
        assert found.sum() >= numbers(lines, "done") >= known.sum() + 1
        np.testing.assert_allclose(rows, expected[found], atol=1e-5)
        known = found
    with start(WORKER, folder, cache) as worker:
        lines = worker.stdout.readlines()
    assert lines[-1] == "end\n"
    found, rows = in_cache(folder, cache)
    assert found.all()
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    distinct = ~np.array([item.id == "again" for item in items()])
    assert numbers(lines, "passed") == (~known & distinct).sum(), "a finished row was embedded again"
    assert numbers(lines, "done") == COUNT


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_interrupted_by_the_keyboard_keeps_every_row_that_passed(folder_of, tmp_path, expected):
    folder, cache = folder_of("qwen2_vl"), tmp_path / "cache"
    with start(WORKER, folder, cache) as worker:
        lines = wait_for(worker, "kept", 3)
        worker.send_signal(signal.SIGINT)
        lines += worker.stdout.readlines()
    assert "end\n" not in lines
    found, rows = in_cache(folder, cache)
    distinct = found & np.array([item.id != "again" for item in items()])
    assert distinct.sum() >= numbers(lines, "kept") > 0
    np.testing.assert_allclose(rows, expected[found], atol=1e-5)


def test_a_second_run_embeds_nothing_and_another_prompt_or_text_everything(folder_of, tmp_path):
    loaded = load_model(folder_of("qwen2_vl"))

    def rows_passed(prompt, texts):
        tool = Encoder(loaded, prompt=prompt, cache=tmp_path, workers=0)
        readout, passed = tool.readout, []

        def counting(poolings):
            inner = readout(poolings)

            def call(window):
                passed.extend(window)
                return inner(window)

            return call

        tool.readout = counting
        rows = tool.embed([Item(f"{prompt}-{text}", text=text) for text in texts], "query").rows_ND
        return len(passed), rows

    first, rows = rows_passed("plain", ["a", "b", "c"])
    again, same = rows_passed("plain", ["c", "a", "b"])
    assert (first, again) == (3, 0)
    np.testing.assert_array_equal(same, rows[[2, 0, 1]])
    assert rows_passed("plain", ["a", "d"])[0] == 1
    assert rows_passed("one_word", ["a", "b", "c"])[0] == 3


def test_a_bad_item_is_named_after_what_was_done_is_kept(folder_of, tmp_path):
    loaded = load_model(folder_of("qwen2_vl"))
    good = [Item(f"text-{n}", text=f"a {n}") for n in range(5)]
    thin = Item("thin", image=Image.new("RGB", (1, 300)))  # the processor refuses such a shape
    tool = Encoder(loaded, cache=tmp_path, workers=0)
    with pytest.raises(ItemError, match="thin"):
        tool.embed([*good, thin], "query")
    store = VectorTable.open(tmp_path, tool.origin())
    assert store.lookup([f"{content_key(item)}:query" for item in good])[0].all()


def test_skipping_leaves_bad_items_out_and_says_why(folder_of, tmp_path):
    loaded = load_model(folder_of("qwen2_vl"))
    empty, missing = Item("empty", text=" "), Item("missing", image=tmp_path / "no.png")
    thin = Item("thin", image=Image.new("RGB", (1, 300)))
    good = [Item("one", text="a red square"), Item("two", image=Image.new("RGB", (32, 32), "red"))]
    tool = Encoder(loaded, on_error="skip", workers=2)
    embedded = tool.embed([empty, good[0], missing, thin, good[1]], "query")
    assert embedded.ids == ("one", "two")
    assert set(embedded.skipped) == {"empty", "missing", "thin"}
    assert "empty" in embedded.skipped["empty"]
    np.testing.assert_allclose(embedded.rows_ND, tool.embed(good, "query").rows_ND, atol=1e-5)
    nothing = tool.embed([empty], "query")
    assert (len(nothing), set(nothing.skipped)) == (0, {"empty"})


def test_a_long_text_is_cut_as_said_and_counted(folder_of):
    loaded = load_model(folder_of("qwen2_vl"))
    tool = Encoder(loaded, max_tokens=60, workers=0)
    long = Item("long", text="square " * 400)
    embedded = tool.embed([long, Item("short", text="square"), Item("copy", text=long.text)], "query")
    whole = Encoder(loaded).preparer(poolings.get("mean"))(long, "query", None)
    assert embedded.cut == dict.fromkeys(("long", "copy"), len(whole.ids_L) - 60)


def test_vectors_that_are_not_finite_are_refused_and_never_kept(folder_of, tmp_path):
    loaded = load_model(folder_of("qwen2_vl"))
    tool = Encoder(loaded, cache=tmp_path, on_error="skip", workers=0)
    readout = tool.readout

    def broken(poolings):
        inner = readout(poolings)

        def call(window):
            for index, rows in inner(window):
                broken_B = torch.tensor([u == 1 for u in index])[:, None]
                yield (
                    index,
                    {name: rows_BD.masked_fill(broken_B, torch.nan) for name, rows_BD in rows.items()},
                )

        return call

    tool.readout = broken
    embedded = tool.embed([Item(str(n), text=f"a {n}") for n in range(4)], "query")
    assert embedded.ids == ("0", "2", "3")
    assert "NaN" in embedded.skipped["1"]
    store = VectorTable.open(tmp_path, tool.origin())
    assert len(store) == 3
