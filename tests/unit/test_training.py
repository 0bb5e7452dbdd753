"""Training the shipped model: the encoder's own vectors, exact gradients, resuming, and every bad input."""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import DataError, ItemError, ModelError, UsageError
from clearsight.models.encoder import Encoder
from clearsight.models.load import load_model
from clearsight.training import Training, TrainSettings, train
from clearsight.training import feeding as feeding_module
from clearsight.training.checkpoint import load_checkpoint
from clearsight.training.loop import losses_of
from clearsight.training.pairs import Pairs
from clearsight.training.plan import Plan
from clearsight.training.processes import Processes
from clearsight.training.step import Stepper
from clearsight.types import Item, Task
from small.clusters import cluster_rows, spare_task

TASK = spare_task(12, seed=3)
CLUSTERS = cluster_rows(TASK, [4, 3, 4, 1])
FAST = TrainSettings(
    prompt="one_word", pooling="mean", batch=2, steps=4, warmup=1, rate=2e-3, rank=4, alpha=8
)


@pytest.fixture(scope="module")
def alone() -> Processes:
    return Processes("cpu")


def training(alone: Processes, settings: TrainSettings = FAST, **options: Any) -> Training:
    task = options.pop("task", TASK)
    clusters = options.pop("clusters", CLUSTERS)
    return Training(options.pop("model", "tiny"), clusters, {task.name: task}, settings, alone, **options)


def first_step(one: Training) -> tuple[Any, dict[str, torch.Tensor]]:
    """The losses of the first step and the gradients it leaves."""
    stepper, step = one._stepper(), next(iter(one._feeding().steps(0)))
    losses = stepper(step, one.log_scale.exp())
    return losses, {n: w.grad.clone() for n, w in one.lora.weights.items() if w.grad is not None}


def nudged(one: Training) -> Training:
    """The adapter as if it had been trained: LoRA's second matrices are no longer zero."""
    torch.manual_seed(7)
    for name, weight in one.lora.weights.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return one


# --------------------------------------------------------------------------- training and inference are one
@pytest.mark.parametrize(
    ("prompt", "pooling", "layer"),
    [("hierarchical", "last", -1), ("one_word", "mean_no_prompt", -1), ("one_word", "last_attention", -1)],
)
def test_without_a_step_vectors_are_the_encoders(
    alone: Processes, prompt: str, pooling: str, layer: int
) -> None:
    settings = replace(FAST, prompt=prompt, pooling=pooling, layer=layer, batch=9)
    one = training(alone, settings)
    one.loaded.model.train()  # dropout is on; the adapter is no change yet
    stepper, step = one._stepper(), next(iter(one._feeding().steps(0)))
    places = list(step.ready)
    rows = stepper.rows([step.ready[place].prepared for place in places]).detach().numpy()
    encoder = Encoder.load("tiny", prompt=prompt, pooling=pooling, layer=layer)
    for side, items, counterpart in (
        ("query", TASK.queries, "text"),
        ("candidate", TASK.candidates, "image"),
    ):
        at = [i for i, place in enumerate(places) if place.side == side]
        wanted = encoder.embed([items[places[i].row] for i in at], side, counterpart=counterpart).rows_ND
        assert len(at) == 12
        np.testing.assert_allclose(rows[at], wanted, atol=5e-5 * np.abs(wanted).max())


def test_the_adapter_embeds_as_the_trained_model(alone: Processes, tmp_path: Path) -> None:
    done = train("tiny", CLUSTERS, {TASK.name: TASK}, FAST, tmp_path, processes=alone)
    encoder = Encoder.load(tmp_path)
    assert (encoder.template.name, encoder.pooling) == ("one_word", "mean")
    before, after = (
        one.embed(TASK.queries, "query", counterpart="text").rows_ND for one in (done.encoder, encoder)
    )
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert losses_of(done.history)[-1] < losses_of(done.history)[0]
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] for line in lines] == losses_of(done.history).tolist()


def test_the_folder_is_plain_peft(alone: Processes, tmp_path: Path) -> None:
    from peft import PeftModel

    done = train("tiny", CLUSTERS, {TASK.name: TASK}, replace(FAST, dora=True), tmp_path, processes=alone)
    loaded = load_model("tiny", head=True)
    from clearsight.models.adapter import renamed_quietly

    with renamed_quietly():
        PeftModel.from_pretrained(loaded.model, tmp_path).eval()
    rows = Encoder(loaded, prompt="one_word", pooling="mean").embed(TASK.candidates).rows_ND
    np.testing.assert_allclose(rows, done.encoder.embed(TASK.candidates).rows_ND, atol=1e-4)


def test_only_the_adapter_is_trained(alone: Processes) -> None:
    base = load_model("tiny", head=True).model.state_dict()
    one = training(alone)
    one.steps(2)
    kept = {
        name.replace(".base_layer", ""): value
        for name, value in one.loaded.model.state_dict().items()
        if "lora_" not in name
    }
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)
    assert all("language_model.layers" in name for name in one.lora.weights)


# ----------------------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_of_chunks_are_those_of_the_whole(alone: Processes, dora: bool) -> None:
    settings = replace(FAST, dropout=0.0, batch=4, dora=dora)
    found = []
    for budget in (10**6, 90):
        losses, gradients = first_step(nudged(training(alone, replace(settings, token_budget=budget))))
        found.append((losses.contrast, gradients))
    (whole, whole_gradients), (chunked, chunked_gradients) = found
    assert chunked == pytest.approx(whole, abs=1e-5)
    assert whole_gradients.keys() == chunked_gradients.keys()
    largest = max(float(g.abs().max()) for g in whole_gradients.values())
    assert largest > 0.01
    for name, gradient in whole_gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, atol=1e-5 * max(1, largest), rtol=0)


@pytest.mark.parametrize(("pooling", "dropout"), [("mean", 0.3), ("last", 0.0)])
def test_recomputed_layers_give_the_same_gradients(alone: Processes, pooling: str, dropout: float) -> None:
    settings = replace(FAST, dropout=dropout, pooling=pooling, batch=4, token_budget=200)
    found = []
    for recompute in (False, True):
        one = nudged(training(alone, replace(settings, checkpointing=recompute)))
        one.loaded.model.train()
        found.append(first_step(one))
    assert found[0][0].contrast == pytest.approx(found[1][0].contrast, abs=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-4, rtol=1e-3)


def test_negatives_that_stand_alone_add_to_the_loss(alone: Processes) -> None:
    settings = replace(FAST, batch=1, dropout=0.0, temperature=0.5)
    with_them, without = (
        first_step(training(alone, settings, clusters=cluster_rows(TASK, [4], alone=n)))[0] for n in (3, 0)
    )
    assert with_them.pairs == without.pairs == 4
    assert with_them.contrast > without.contrast + 0.1


def test_options_of_the_loss(alone: Processes) -> None:
    plain = first_step(training(alone))[0].contrast
    narrow = first_step(training(alone, replace(FAST, matryoshka=(8, 64))))[0].contrast
    assert narrow != plain
    one = training(alone, replace(FAST, learn_temperature=True, rate=0.05, temperature=0.05))
    one.steps(3)
    assert one.temperature != pytest.approx(0.05, abs=1e-4)
    assert one.history[0].temperature == pytest.approx(0.05)
    hot = training(alone, replace(FAST, learn_temperature=True, temperature=0.011))
    with torch.no_grad():
        hot.log_scale.fill_(20.0)
    hot.steps(1)
    assert hot.temperature >= 0.01 - 1e-9, "1 / temperature went above 100"


# -------------------------------------------------------------------------------- known faults of releases
def test_images_are_prepared_by_workers_before_the_step(
    alone: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    inside: list[int] = []
    real_open, real_call = feeding_module.open_image, Stepper.__call__

    def open_image(*args: Any, **kwargs: Any) -> Any:
        opened.append(threading.current_thread().name)
        return real_open(*args, **kwargs)

    def call(self: Stepper, *args: Any) -> Any:
        before = len(opened)
        result = real_call(self, *args)
        inside.append(len([name for name in opened[before:] if not name.startswith("prepare")]))
        return result

    monkeypatch.setattr(feeding_module, "open_image", open_image)
    monkeypatch.setattr(Stepper, "__call__", call)
    training(alone).steps(2)
    assert opened
    assert all(name.startswith("prepare") for name in opened), "an image was opened in the training's thread"
    assert inside == [0, 0]


def long_task(words: int) -> Task:
    colours = ("red", "blue", "green")
    texts = tuple(Item(f"t{i}", text=" ".join([colours[i]] * words)) for i in range(3))
    labels = tuple(Item(f"c{i}", text=f"{colours[i]} circle") for i in range(3))
    return Task("long", texts, labels, {f"t{i}": {f"c{i}": 1.0} for i in range(3)})


def test_the_length_that_was_asked_for_holds(alone: Processes) -> None:
    task = long_task(900)
    clusters = cluster_rows(task, [3])
    one = training(alone, replace(FAST, max_tokens=1024), task=task, clusters=clusters)
    step = next(iter(one._feeding().steps(0)))
    longest = max(len(ready.prepared.ids_L) for ready in step.ready.values())
    assert 900 <= longest <= 1024, "neither reset to 512 nor cut"
    cut = training(alone, replace(FAST, max_tokens=700), task=task, clusters=clusters)
    cut.steps(1)
    assert cut.cut == 3
    with pytest.raises(UsageError, match="reads 4096 tokens at most, 5000 were asked for"):
        training(alone, replace(FAST, max_tokens=5000))


def test_files_are_told_apart_by_content_not_by_name(alone: Processes, tmp_path: Path) -> None:
    """Two folders hold a.png: other pictures, other positives. A third holds a copy: no negative."""
    for folder, colour in (("one", "red"), ("two", "blue"), ("three", "red")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64), colour).save(tmp_path / folder / "a.png")
    images = tuple(Item(f, image=tmp_path / f / "a.png") for f in ("one", "two", "three"))
    texts = tuple(Item(f"q-{item.id}", text=f"query for {item.id}") for item in images)
    task = Task("files", texts, images, {f"q-{item.id}": {item.id: 1.0} for item in images})
    one = training(alone, task=task, clusters=cluster_rows(task, [3]))
    code = {place: ready.code for place, ready in next(iter(one._feeding().steps(0))).ready.items()}
    by_id = {images[place.row].id: value for place, value in code.items() if place.side == "candidate"}
    assert by_id["one"] != by_id["two"]
    assert by_id["one"] == by_id["three"]
    assert first_step(one)[0].masked == pytest.approx(2 / 3), "each of the two equal ones masks the other"


def test_known_positives_are_no_negatives(alone: Processes) -> None:
    """A query with two positives: the one that is not its pair's must not count against it."""
    relevance = {query: dict(grades) for query, grades in TASK.relevance.items()}
    names = [item.id for item in TASK.queries]
    relevance[names[0]][next(iter(relevance[names[1]]))] = 1.0
    relevance[names[2]][next(iter(relevance[names[3]]))] = 0.0  # judged, and not relevant
    task = replace(TASK, relevance=relevance, excluded={names[1]: [next(iter(relevance[names[2]]))]})
    losses = first_step(training(alone, replace(FAST, batch=1), task=task, clusters=cluster_rows(task, [4])))[
        0
    ]
    assert losses.masked == pytest.approx(2 / 4)


# --------------------------------------------------------------------------------------------- going on
class Stop(Exception):  # noqa: N818 - a signal
    pass


def stopped(one: Iterator[Any], after: int) -> Iterator[Any]:
    for number, row in enumerate(one):
        if number == after:
            raise Stop
        yield row


def test_resumed_losses_are_the_uninterrupted_ones(
    alone: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(FAST, steps=6, save_every=2, dropout=0.2, learn_temperature=True, weight_decay=0.1)
    data = {TASK.name: TASK}
    whole = train("tiny", CLUSTERS, data, settings, tmp_path / "whole", processes=alone)
    real = Training.each
    monkeypatch.setattr(Training, "each", lambda self, stop: stopped(real(self, stop), 3))
    with pytest.raises(Stop):
        train("tiny", CLUSTERS, data, settings, tmp_path / "killed", processes=alone)
    monkeypatch.undo()
    left = tmp_path / "killed" / "checkpoints" / ".step-00000004.aa.partial"
    left.mkdir()
    resumed = train("tiny", CLUSTERS, data, settings, tmp_path / "killed", processes=alone)
    np.testing.assert_allclose(losses_of(resumed.history), losses_of(whole.history), rtol=1e-5, atol=1e-8)
    rows = [one.encoder.embed(TASK.candidates).rows_ND for one in (whole, resumed)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
    assert not left.exists()
    again = train("tiny", CLUSTERS, data, settings, tmp_path / "killed", processes=alone)
    assert again.history == resumed.history, "what is done is not done again"
    other = replace(settings, rate=1e-4, rank=8, workers=2)
    with pytest.raises(UsageError) as refused:
        train("tiny", CLUSTERS, data, other, tmp_path / "killed", processes=alone)
    assert "rate: 0.002 before, 0.0001 now; rank: 4 before, 8 now." in str(refused.value)
    clusters = cluster_rows(TASK, [4, 4, 4])
    with pytest.raises(UsageError, match=r"clusters: \w+ before, \w+ now"):
        train("tiny", clusters, data, settings, tmp_path / "killed", processes=alone)
    anew = train(
        "tiny", CLUSTERS, data, replace(other, steps=1), tmp_path / "killed", processes=alone, overwrite=True
    )
    assert len(anew.history) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_full_disk_leaves_the_checkpoint_before(alone: Processes, tmp_path: Path) -> None:
    one = training(alone)
    one.steps(2)
    one.save(tmp_path)
    one.steps(3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(DataError, match=r"step 3 cannot be written .*The one of step 2 is whole"):
            one.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    saved = load_checkpoint(tmp_path, one.same)
    assert saved is not None
    fresh = training(alone)
    fresh.restore(saved)
    fresh.steps(3)
    assert fresh.history[2].loss == pytest.approx(one.history[2].loss, rel=1e-5)


def test_a_broken_checkpoint_is_named(alone: Processes, tmp_path: Path) -> None:
    one = training(alone)
    one.steps(1)
    one.save(tmp_path)
    (tmp_path / "checkpoints" / "step-00000001" / "training.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="cannot be read"):
        load_checkpoint(tmp_path, one.same)


def test_clusters_are_renewed_with_the_model_as_it_is(alone: Processes, tmp_path: Path) -> None:
    asked = []

    def again(encoder: Encoder, step: int) -> Any:
        asked.append((step, encoder.loaded.model.training))
        return cluster_rows(TASK, [2, 2, 2])

    done = train(
        "tiny", CLUSTERS, {TASK.name: TASK}, FAST, tmp_path, processes=alone, refresh=again, refresh_every=3
    )
    assert asked == [(0, False), (3, False)]
    assert [row.pairs for row in done.history] == [4, 2, 4, 2]


# ------------------------------------------------------------------------------------------------ bad input
def test_one_query_only_and_all_positives_alike(alone: Processes, tmp_path: Path) -> None:
    done = train(
        "tiny", cluster_rows(TASK, [1]), {TASK.name: TASK}, replace(FAST, steps=2), tmp_path, processes=alone
    )
    assert losses_of(done.history).tolist() == [0.0, 0.0]
    texts = tuple(Item(item.id, text="the same") for item in TASK.candidates)
    task = replace(TASK, candidates=texts)
    same = training(alone, task=task, clusters=cluster_rows(task, [4]))
    losses, gradients = first_step(same)
    assert losses.contrast == 0
    assert losses.masked == 3
    assert all(not gradient.any() for gradient in gradients.values())


def test_clusters_of_other_data_are_refused(alone: Processes) -> None:
    other = spare_task(12, seed=8)
    with pytest.raises(DataError, match="12 of 12 query ids of the clusters are not in 'spare/i2t'"):
        Pairs(CLUSTERS, {TASK.name: other})
    with pytest.raises(DataError, match="name the data set 'spare/i2t', which was not given"):
        Pairs(CLUSTERS, {"another": TASK})
    names = [item.id for item in TASK.queries]
    shifted = {a: TASK.relevance[b] for a, b in zip(names, names[1:] + names[:1], strict=True)}
    with pytest.raises(DataError, match="is not relevant to"):
        Pairs(CLUSTERS, {TASK.name: replace(TASK, relevance=shifted)})


def test_models_that_are_not_trained_here(alone: Processes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contrastive model is not trained"):
        training(alone, model="tiny-contrastive")
    with pytest.raises(UsageError, match="with its language head"):
        training(alone, model=load_model("tiny"))
    with pytest.raises(UsageError, match=r"no linear layer 'query'.*o_proj"):
        training(alone, replace(FAST, targets=("q_proj", "query")))
    with pytest.raises(UsageError, match="have 192 entries, not 512"):
        training(alone, replace(FAST, matryoshka=(512,)))
    train("tiny", CLUSTERS, {TASK.name: TASK}, replace(FAST, steps=1), tmp_path, processes=alone)
    with pytest.raises(ModelError, match="training begins from its base"):
        training(alone, model=tmp_path)


def test_bad_items_stop_or_are_left_out(alone: Processes, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    bad = (Item(TASK.queries[1].id, image=broken), *TASK.queries[2:])
    task = replace(TASK, queries=(TASK.queries[0], *bad))
    clusters = cluster_rows(task, [4])
    with pytest.raises(ItemError, match="not an image"):
        training(alone, task=task, clusters=clusters).steps(1)
    one = training(alone, task=task, clusters=clusters, on_error="skip")
    one.steps(1)
    assert list(one.skipped) == [TASK.queries[1].id]
    assert one.history[0].pairs == 3


def test_a_loss_that_is_no_number_stops(alone: Processes) -> None:
    one = training(alone)
    with torch.no_grad():
        next(iter(one.lora.weights.values())).fill_(float("nan"))
    with pytest.raises(ModelError, match="loss of step 0 is nan"):
        one.steps(1)


def test_a_tracker_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate.utils

    monkeypatch.setattr(accelerate.utils, "is_tensorboard_available", lambda: False)
    with pytest.raises(UsageError, match="tensorboard is not installed"):
        Processes("cpu", "tensorboard")


def written(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars by name and step of the event files under a folder, read record by record."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for file in folder.rglob("events.out.tfevents*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")  # then a checksum, the record, a checksum
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_losses_are_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    out = tmp_path / "adapter"
    history = train(
        "tiny", CLUSTERS, {TASK.name: TASK}, FAST, out, processes=Processes("cpu", "tensorboard", out)
    ).history
    scalars = written(out)
    assert scalars["loss"] == {
        step: pytest.approx(row.loss, rel=1e-6) for step, row in enumerate(history, start=1)
    }
    assert scalars["rate"].keys() == scalars["loss"].keys()


def test_steps_of_two_processes_share_out_the_clusters() -> None:
    pairs, settings = Pairs(CLUSTERS, {TASK.name: TASK}), replace(FAST, batch=3)
    plan = Plan.of(pairs.sets_G, settings)
    encoder = Encoder.load("tiny", prompt="one_word")
    prepare = encoder.preparer(next(iter([encoder._pooling("mean")])))
    feeds = [feeding_module.Feeding(pairs, plan, prepare, rank=rank, count=2) for rank in (0, 1)]
    for number in range(plan.per_epoch):
        parts = [feed.members(number) for feed in feeds]
        wanted = [m for g in plan.clusters(number).tolist() for m in pairs.members(g)]
        assert sorted(parts[0] + parts[1]) == sorted(wanted)
    assert not feeds[1].members(1), "the second batch has one cluster, and the second process none"
    assert next(iter(feeds[1].steps(1))).ready == {}
