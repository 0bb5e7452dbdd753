"""`clearsight mine` on the shipped model: the file, the page, the table; it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clearsight.cli import main
from clearsight.data import load_task, world
from clearsight.errors import ClearsightError, DataError, UsageError
from clearsight.jobs.mine import MineConfig, mine
from clearsight.mining import read_clusters
from clearsight.models.encoder import Encoder
from small.mmeb import write_mmeb_train

N = 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_command_writes_clusters_and_a_page(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clusters.parquet"
    flags = ["--data", "world/t2i", "--n", str(N), "--negatives", "3", "--pool", "4", "--json"]
    assert main(["mine", "tiny", *flags, "--out", str(out), "--cache", str(cache)]) == 0
    said = json.loads(capsys.readouterr().out)
    clusters = read_clusters(out)
    task = world.text_to_image(N)
    assert said["clusters"] == len(clusters)
    assert clusters.manifest["strategy"] == "saha"
    assert clusters.manifest["repair"] == "none"
    assert clusters.manifest["negatives"] == 3
    assert clusters.manifest["pool"] == 4
    assert clusters.manifest["data"][0]["dataset"] == "world/t2i"
    assert clusters.manifest["data"][0]["origin"]["queries"]["prompt"] == "one_word"
    named = {m.query for members in clusters for m in members} | {one.query for one in clusters.left_over}
    assert named == {item.id for item in task.queries}
    assert all(m.positive in task.relevance[m.query] for members in clusters for m in members)
    by_label = {row["label"]: row["quality"] for row in said["strategies"]}
    assert set(by_label) == {
        "in-batch",
        "hard negatives",
        "hard negatives + beta",
        "SaHa",
        "SaHa (release)",
        "SaHa, whole clusters",
    }
    # The nearest candidates are the hardest; random ones the easiest.
    assert by_label["hard negatives"]["cosine"] > by_label["SaHa"]["cosine"] > by_label["in-batch"]["cosine"]
    assert all(0 <= quality["false_negatives"] <= 1 for quality in by_label.values())
    page = out.with_suffix(".html").read_text()
    assert page.count('<article class="cluster">') == min(8, len(clusters))
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert f"clearsight mine tiny --data world/t2i --n {N} --negatives 3" in page


def test_the_similarities_are_those_of_the_model(cache: Path, tmp_path: Path) -> None:
    result = mine(
        MineConfig("tiny", ("world/t2i",), n=N, negatives=3, out=tmp_path / "c.parquet", cache=cache)
    )
    task = world.text_to_image(N)
    vectors = Encoder.load("tiny", prompt="one_word", cache=cache).embed(
        task.queries, "query", counterpart="image"
    )
    row = {name: v / np.linalg.norm(v) for name, v in zip(vectors.ids, vectors.rows_ND, strict=True)}
    for members in result.clusters:
        for member in members[1:]:
            assert member.similarity == pytest.approx(row[members[0].query] @ row[member.query], abs=1e-5)


def test_vectors_are_repaired_before_they_are_mined(cache: Path, tmp_path: Path) -> None:
    from clearsight.repair import ShrinkageZCA

    plain = MineConfig("tiny", ("world/t2i",), n=N, negatives=3, out=tmp_path / "c.parquet", cache=cache)
    result = mine(replace(plain, repair="realign", out=tmp_path / "realign.parquet"))
    encoder = Encoder.load("tiny", prompt="one_word", cache=cache)
    queries = encoder.embed(world.text_to_image(N).queries, "query", counterpart="image").rows_ND
    rows = ShrinkageZCA(shrinkage=0.5).fit_transform(queries)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    row = {item.id: v for item, v in zip(world.text_to_image(N).queries, rows, strict=True)}
    for members in result.clusters:
        for member in members[1:]:
            assert member.similarity == pytest.approx(row[members[0].query] @ row[member.query], abs=1e-5)
    assert result.clusters.manifest["repair"] == "realign"
    [entry] = result.clusters.manifest["data"][0]["origin"]["candidates"]["repairs"]
    assert entry["repair"] == "ShrinkageZCA"
    assert list(result.clusters) != list(mine(plain).clusters)


def test_self_alignment_needs_captions_and_takes_them(cache: Path, tmp_path: Path) -> None:
    config = MineConfig("tiny", ("world/t2i",), n=N, negatives=3, repair="self_aligned", cache=cache)
    config = replace(config, compare=("hard",), out=tmp_path / "c.parquet")
    with pytest.raises(UsageError, match="needs unlabelled images"):
        mine(config)
    result = mine(replace(config, unlabelled="12"))
    assert len(result.clusters)
    [entry] = result.clusters.manifest["data"][0]["origin"]["queries"]["repairs"]
    assert entry["repair"] == "SelfAlign"
    with pytest.raises(UsageError, match="contrastive model cannot caption"):
        mine(replace(config, model="tiny-contrastive", unlabelled="12"))


@pytest.mark.parametrize(
    ("left", "repair", "said"), [(6, "none", True), (5, "none", False), (6, "realign", False)]
)
def test_many_queries_left_over_are_a_word_of_advice(left: int, repair: str, said: bool) -> None:
    from clearsight.jobs.mining_repair import what_may_help

    assert (what_may_help(MineConfig("tiny", repair=repair), left, 100) is not None) is said


def test_an_interrupted_run_keeps_what_it_mined(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clearsight.jobs import mining

    calls: list[str] = []
    real, load = mining.mine_pairs, mining.load_set

    def counted(strategy, given):
        calls.append(given.pairs.dataset)
        return real(strategy, given)

    def stopped(encoder, task, progress):
        if task.name == "world/t2i":
            raise KeyboardInterrupt
        return load(encoder, task, progress)

    monkeypatch.setattr(mining, "mine_pairs", counted)
    config = MineConfig(
        "tiny",
        ("world/i2t", "world/t2i"),
        n=N,
        negatives=3,
        compare=("hard",),
        out=tmp_path / "c.parquet",
        cache=cache,
    )
    monkeypatch.setattr(mining, "load_set", stopped)
    with pytest.raises(KeyboardInterrupt):
        mine(config)
    assert not config.out.exists()
    assert calls == ["world/i2t"] * 2
    monkeypatch.setattr(mining, "load_set", load)
    result = mine(config)
    assert calls == ["world/i2t"] * 2 + ["world/t2i"] * 2
    assert sorted(set(result.clusters.dataset_G)) == ["world/i2t", "world/t2i"]
    assert [row.label for row in result.rows] == ["hard negatives", "SaHa"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.parquet"]
    fresh = mine(
        MineConfig(
            "tiny", config.data, n=N, negatives=3, compare=("hard",), out=tmp_path / "d.parquet", cache=cache
        )
    )
    assert list(fresh.clusters) == list(result.clusters)


def test_mmeb_train_and_pairs_of_ones_own_are_mined(cache: Path, tmp_path: Path) -> None:
    write_mmeb_train(tmp_path / "mmeb", ["MSCOCO_t2i"], n=12)
    result = mine(
        MineConfig(
            "tiny",
            ("mmeb_train/MSCOCO_t2i",),
            files=tmp_path / "mmeb",
            strategy="saha_release",
            negatives=2,
            out=tmp_path / "release.parquet",
            cache=cache,
        )
    )
    task = load_task("mmeb_train/MSCOCO_t2i", data=tmp_path / "mmeb")
    assert len(result.clusters)
    assert result.rows[0].quality.false_negatives is None
    assert all(m.positive in task.relevance[m.query] for members in result.clusters for m in members)
    # Ten rows with three texts: equal texts are one answer, whichever row they stand in.
    folder = tmp_path / "own"
    folder.mkdir()
    lines = []
    for number, image in enumerate(world.unlabelled_images(10)):
        image.image.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "text": f"class {number % 3}"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    own = mine(
        MineConfig(
            "tiny", (str(folder / "pairs.jsonl"),), negatives=4, out=tmp_path / "own.parquet", cache=cache
        )
    )
    text = {str(number + 1): f"class {number % 3}" for number in range(10)}
    for members in own.clusters:
        assert len({text[m.positive] for m in members}) == len(members)
    assert own.clusters.sizes_G.max() == 3


def test_bad_data_is_named_and_skipped_on_request(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    lines = []
    for number, image in enumerate(world.unlabelled_images(5)):
        image.image.save(folder / f"{number}.png")
        lines.append(
            json.dumps({"id": f"row{number}", "image": f"{number}.png", "text": f"a thing {number}"})
        )
    (folder / "2.png").write_bytes(b"no image")
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    config = MineConfig("tiny", (str(folder / "pairs.jsonl"),), out=tmp_path / "c.parquet", cache=cache)
    with pytest.raises(DataError, match="row2"):
        mine(config)
    result = mine(replace(config, on_error="skip"))
    assert [item for item, _ in result.skipped] == ["row2"]
    assert "row2" not in {m.query for members in result.clusters for m in members}
    assert "row2" in config.out.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"data": ()}, UsageError, "nothing to mine"),
        ({"strategy": "sahaa"}, UsageError, "Did you mean 'saha'"),
        ({"repair": "realigned"}, UsageError, "Did you mean 'realign'"),
        ({"negatives": 0}, UsageError, "0 negatives"),
        ({"compare": ("none",)}, UsageError, "Unknown mining_strategy"),
        ({"n": 1}, DataError, "Only one query"),
        ({"data": ("world/t2i", "world/t2i")}, UsageError, "Two data sets are named"),
    ],
)
def test_wrong_settings_are_told_before_any_work(
    change: dict, error: type[ClearsightError], said: str, tmp_path: Path, cache: Path
) -> None:
    settings = {"data": ("world/t2i",), "n": N, "out": tmp_path / "c.parquet", "cache": cache} | change
    with pytest.raises(error, match=said):
        mine(MineConfig("tiny", **settings))
