"""What an index fits and keeps: repairs, captions, statistics of queries, drift, explanations, maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clearsight.errors import DataError, UsageError
from clearsight.index import Index, Query
from clearsight.index.captions import CaptionLog
from clearsight.index.explain import rebuilt, shares
from clearsight.index.fitted import Fitted
from clearsight.index.making import fixed
from clearsight.index.map import placed
from clearsight.index.queries import EVERY, PRIOR, QueryStatistics
from clearsight.index.repairing import GROWN, LEAST_BESIDE, LEAST_PAIRS, Wanted, by_default, fit
from clearsight.index.statistics import Spread, drift, moments_of
from clearsight.moments import Moments
from clearsight.progress import Silent
from clearsight.repair import load_repair
from clearsight.repair.affine import Affine, unit_rows
from clearsight.sae import SparseAutoencoder
from clearsight.sae.config import SaeConfig
from clearsight.store import open_store
from clearsight.types import Embeddings, Item
from small.toy_index import WIDTH, ToyEncoder

D = 12
Rows = np.ndarray[Any, Any]


def two_modalities(n: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Pictures and their captions: one meaning, each side turned and moved in its own way."""
    rng = np.random.default_rng(seed)
    meaning = rng.standard_normal((n, D))
    turns = [np.linalg.qr(np.random.default_rng(side).standard_normal((D, D)))[0] for side in (7, 8)]
    sides = [meaning @ turn + 3 * np.eye(D)[side] for side, turn in enumerate(turns)]
    noise = 0.1 * rng.standard_normal((2, n, D))
    return tuple((side + add).astype(np.float32) for side, add in zip(sides, noise, strict=True))  # type: ignore[return-value]


def store_of(images: Rows, texts: Rows | None = None) -> Any:
    parts = [("image", images)] if texts is None else [("image", images), ("text", texts)]
    raw = np.concatenate([rows for _, rows in parts]).astype(np.float32)
    ids = [f"{kind}{n}" for kind, rows in parts for n in range(len(rows))]
    modality = [kind for kind, rows in parts for _ in rows]
    store = open_store("memory:", raw.shape[1], create=True)
    columns = {
        "id": ids,
        "key": ids,
        "modality": modality,
        "raw": fixed(raw),
        "vector": fixed(unit_rows(raw)),
    }
    store.add(pa.table(columns))
    return store


def paired(images: Rows, texts: Rows) -> tuple[Embeddings, Embeddings]:
    ids = [str(n) for n in range(len(images))]
    return Embeddings.of(ids, images, modality="image"), Embeddings.of(ids, texts, modality="text")


def hit_rate(fitted: Fitted, images: Rows, texts: Rows) -> float:
    scores = fitted(texts, "text", "query") @ fitted(images, "image", "candidate").T
    return float((scores.argmax(axis=1) == np.arange(len(texts))).mean())


def wanted(view: Any, repair: Any, **more: Any) -> Wanted:
    return Wanted(repair, moments_of(view), **more)


@pytest.mark.parametrize(("repair", "least"), [("self_aligned", 0.9), ("auto", 0.9), ("chosen", 0.9)])
def test_self_alignment_turns_one_side_onto_the_other(repair: str, least: float) -> None:
    images, texts = two_modalities(200)
    view = store_of(images).view()
    fitted = fit(view, "000001", wanted(view, repair, pairs=paired(images, texts)), generative=True)
    assert fitted.facts["repair"] == "self_aligned"
    held = two_modalities(50, seed=1)
    assert hit_rate(Fitted(), *held) < 0.2
    assert hit_rate(fitted, *held) > least
    np.testing.assert_allclose(np.linalg.norm(fitted(images, "image", "candidate"), axis=1), 1, rtol=1e-5)


def test_candidates_are_centred_on_the_collection_and_not_on_the_captioned_part() -> None:
    images, texts = two_modalities(300)
    moved = images.copy()
    moved[100:] += 2.0
    view = store_of(moved).view()
    pairs = paired(moved[:100], texts[:100])
    fitted = fit(view, "000001", wanted(view, "self_aligned", pairs=pairs), generative=True)
    assert fitted.repair is not None
    mapped = fitted.repair.repairs_["image"].transform(moved) - fitted.centres["candidate image"]
    np.testing.assert_allclose(mapped.mean(axis=0), 0, atol=1e-5)
    affine = fitted.affine("image", "candidate")
    assert affine is not None
    np.testing.assert_allclose(affine.apply(unit_rows(moved)), mapped, atol=1e-4)


@pytest.mark.parametrize("repair", ["centred", "realign"])
def test_without_pairs_each_modality_has_its_own_statistics(repair: Any) -> None:
    images, texts = two_modalities(100)
    view = store_of(images, texts).view()
    fitted = fit(view, "000001", wanted(view, repair), generative=False)
    for modality, rows in (("image", images), ("text", texts)):
        assert np.abs(fitted.repair.repairs_[modality].transform(rows).mean(axis=0)).max() < 1e-5  # type: ignore[union-attr]
    assert fitted.stands_in("image+text") == "image"
    alone = store_of(images).view()
    fitted = fit(alone, "000001", wanted(alone, repair), generative=False)
    assert fitted.stands_in("text") == "image"
    captions = Embeddings.of([str(n) for n in range(100)], texts)
    fitted = fit(alone, "000001", wanted(alone, repair, texts=captions), generative=False)
    assert fitted.stands_in("text") is None


def test_captions_stand_for_queries_where_they_are_more_than_the_texts() -> None:
    images, captions = two_modalities(100)
    notes = np.random.default_rng(9).standard_normal((40, D)).astype(np.float32) - 2
    view = store_of(images, notes).view()
    for n, centred in ((100, captions), (30, notes)):
        texts = Embeddings.of([str(at) for at in range(n)], captions[:n])
        fitted = fit(view, "000001", wanted(view, "realign", texts=texts), generative=True)
        assert fitted.repair is not None
        assert np.abs(fitted.repair.repairs_["text"].transform(centred).mean(axis=0)).max() < 1e-5


def test_what_auto_stands_for_and_what_is_refused() -> None:
    assert by_default(generative=False, pairs=0, texts=0) == "none"
    assert by_default(generative=False, pairs=0, texts=LEAST_BESIDE - 1) == "none"
    assert by_default(generative=False, pairs=0, texts=LEAST_BESIDE) == "realign"
    assert by_default(generative=True, pairs=LEAST_PAIRS, texts=0) == "self_aligned"
    assert by_default(generative=True, pairs=LEAST_PAIRS - 1, texts=0) == "realign"
    view = store_of(two_modalities(20)[0]).view()
    for repair in ("self_aligned", "chosen"):
        with pytest.raises(UsageError, match="captioned; there are 0"):
            fit(view, "000001", wanted(view, repair), generative=True)
    few = store_of(two_modalities(3)[0]).view()
    assert fit(few, "000001", wanted(few, "realign"), generative=True).repair is None


def test_a_choice_that_gains_nothing_stays_simple() -> None:
    """Two standard errors let one in forty pass; of eight draws most must not."""
    chosen = []
    for seed in range(4, 12):
        rng = np.random.default_rng(seed)
        images, texts = (rng.standard_normal((80, D)).astype(np.float32) for _ in range(2))
        view = store_of(images).view()
        fitted = fit(view, "000001", wanted(view, "chosen", pairs=paired(images, texts)), generative=True)
        chosen.append(fitted.facts["repair"])
        assert set(fitted.facts["held_out"]) == {"none", "centred", "realign", "self_aligned"}
    assert chosen.count("none") >= 6


def test_a_fitted_repair_survives_the_disk(tmp_path: Path) -> None:
    images, texts = two_modalities(100)
    view = store_of(images).view()
    fitted = fit(view, "000001", wanted(view, "self_aligned", pairs=paired(images, texts)), generative=True)
    fitted.save(tmp_path)
    again = Fitted.load(tmp_path, "000001")
    for side in ("query", "candidate"):
        np.testing.assert_array_equal(again(images, "image", side), fitted(images, "image", side))  # type: ignore[arg-type]
    assert again.facts == fitted.facts
    assert again.spreads["candidate image"].rank == fitted.spreads["candidate image"].rank
    plain = load_repair(tmp_path / "000001.safetensors")
    np.testing.assert_array_equal(
        plain.repairs_["image"].transform(images), fitted.repair.repairs_["image"].transform(images)
    )  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no repair"):
        Fitted.load(tmp_path, "000002")
    assert Fitted.load(tmp_path, "").repair is None


def test_a_refit_rewrites_all_vectors_and_searches_of_before_stay(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", ToyEncoder(), address=f"memory:{tmp_path}", repair="realign") as index:
        with pytest.raises(DataError, match="nothing to fit"):
            index.refit()
        index.add([Item(f"t{n}", text=f"text {n}") for n in range(40)])
        before = index.store.view()
        assert index.due
        facts = index.refit()
        assert (facts["repair"], facts["rows"]) == ("realign", {"text": 40})
        assert not index.due
        after = index.store.view()
        assert (before.repair, after.repair) == ("", "000001")
        raw = np.stack([vector["raw"] for batch in after.read(["raw"]) for vector in batch.to_pylist()])
        vector = np.stack([one["vector"] for batch in after.read(["vector"]) for one in batch.to_pylist()])
        modality = np.full(40, "text")
        np.testing.assert_allclose(vector, index.fitted().rows(raw.astype(np.float32), modality), atol=1e-5)
        assert index.search("text 7").hits[0].id == "t7"
        assert index.search("text 7").repair == "000001"
        index.add([Item("late", text="late")])
        assert index.search("late").hits[0].score == pytest.approx(1, abs=1e-5)
        assert not index.search("late").notes
        index.add([Item(f"more{n}", text=f"more {n}") for n in range(GROWN * 40)])
        assert "grown from 40 to 201" in index.search("late").notes[0]
        for expected in ("000002", "000003", "000004", "000005"):
            index.refit("centred")
            assert index.store.view().repair == expected
        assert len(list((tmp_path / "i" / "repairs").iterdir())) == 3
        index.refit("none")
        assert index.store.view().repair == ""
        assert Index.open(tmp_path / "i", encoder=ToyEncoder()).settings.repair == "none"


def test_a_refit_counts_every_row_once(tmp_path: Path) -> None:
    steps: list[int] = []

    class Counting(Silent):
        def advance(self, n: int = 1) -> None:
            steps.append(n)

    with Index.create(tmp_path / "i", ToyEncoder(), repair="realign") as index:
        for first in (0, 20, 40):  # Lance keeps a file for each call
            index.add([Item(f"t{n}", text=f"text {n}") for n in range(first, first + 20)])
        index.refit(progress=Counting())
        assert sum(steps) == 60


def test_captions_are_kept_line_by_line(tmp_path: Path) -> None:
    log = CaptionLog(tmp_path, {"revision": "1"})
    log.add({"k1": "eins", "k2": "zwei\n\u2028"})
    with open(tmp_path / "captions.jsonl", "ab") as file:
        file.write(b'{"key": "k3", "te')
    again = CaptionLog(tmp_path, {"revision": "1"})
    assert again.texts == {"k1": "eins", "k2": "zwei\n\u2028"}
    again.add({"k3": "drei"})
    assert CaptionLog(tmp_path, {"revision": "1"}).texts["k3"] == "drei"
    assert CaptionLog(tmp_path, {"revision": "2"}).texts == {}


def test_statistics_of_queries_are_sums_that_processes_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((3 * EVERY, D)) + 1).astype(np.float32)
    one, other = QueryStatistics(tmp_path), QueryStatistics(tmp_path)
    for n, row in enumerate(rows):
        (one if n % 3 else other).add(row[None], "text")
    one.flush()
    other.flush()
    kept = QueryStatistics(tmp_path)
    assert kept.counts() == {"text": 3 * EVERY}
    unit = unit_rows(rows.astype(np.float64))
    np.testing.assert_allclose(kept.moments()["text"].mean_D, unit.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(kept.moments()["text"].covariance_DD, np.cov(unit.T), atol=1e-6)
    stored = np.ones(D)
    expected = (unit.sum(axis=0) + PRIOR * stored) / (len(rows) + PRIOR)
    np.testing.assert_allclose(kept.mean_D("text", stored), expected, atol=1e-6)
    kept.forget()
    assert QueryStatistics(tmp_path).counts() == {}


def test_no_query_is_kept_and_only_where_it_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    with Index.create(folder, ToyEncoder(), address=f"memory:{tmp_path}", repair="centred") as index:
        index.add([Item(f"t{n}", text=f"text {n}") for n in range(40)])
        index.refit()
        index.search("a secret wish")
        assert index.queries is None
        index.learn_queries(True)
        before = index.search("a secret wish").hits
        index.search_many([Query(f"question {n}") for n in range(EVERY)])
        assert index.info()["queries"] == {"text": EVERY + 1}
        after = index.search("a secret wish").hits
        assert [hit.score for hit in after] != [hit.score for hit in before]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"secret" in content or b"question" in content for content in files)
    with Index.open(folder, encoder=ToyEncoder()) as index:
        assert index.info()["queries"] == {"text": EVERY + 2}
        index.learn_queries(False)
        assert index.queries is None
        assert index.info()["queries"] == {}


def test_queries_of_another_kind_are_centred_by_what_was_learnt(tmp_path: Path) -> None:
    """Where all queries lie far off, each is told from the others once their own mean is taken away."""
    images, texts = two_modalities(300)
    pairs = paired(images[:200], texts[:200])
    view = store_of(images).view()
    fitted = fit(view, "000001", wanted(view, "self_aligned", pairs=pairs), generative=True)
    odd = texts[200:] + 4 * np.eye(D)[5].astype(np.float32)
    candidates = fitted(images[200:], "image", "candidate")
    statistics = QueryStatistics(tmp_path)
    statistics.add(odd[:50], "text")
    assert fitted.repair is not None
    mean_D = statistics.mean_D("text", fitted.spreads["query text"].mean_D)
    centre_E = fitted.repair.repairs_["text"].affine_.apply(mean_D[None])[0].astype(np.float32)
    learnt = replace(fitted, centres={**fitted.centres, "query text": centre_E})
    rates = [
        ((one(odd, "text", "query") @ candidates.T).argmax(axis=1) == np.arange(100)).mean()
        for one in (fitted, learnt)
    ]
    assert rates[1] > rates[0] + 0.1


def test_drift_is_one_standard_error_by_chance_and_grows_with_the_shift() -> None:
    rng = np.random.default_rng(0)
    base, same = rng.standard_normal((400, D)), rng.standard_normal((300, D))
    spreads = [
        Spread.of(Moments().update(rows)) for rows in (base, same, same + 1.0, same * np.linspace(0, 2, D))
    ]
    still = drift(spreads[0], spreads[1], side="query", modality="text")
    assert 0.3 < still.errors < 2
    assert not still.moved
    moved = drift(spreads[0], spreads[2], side="query", modality="text")
    distance = np.linalg.norm((same + 1).mean(0) - base.mean(0))
    error = np.sqrt(np.trace(np.cov(base.T)) / 400 + np.trace(np.cov(same.T)) / 300)
    assert moved.errors == pytest.approx(distance / error)
    assert moved.spreads == pytest.approx(distance / np.sqrt(np.trace(np.cov(base.T))))
    assert moved.moved
    assert "queries of today (text, 300)" in moved.sentence()
    squeezed = drift(spreads[0], spreads[3], side="candidate", modality="text")
    assert squeezed.rank_now < squeezed.rank_before


def test_drift_of_a_collection_is_said_in_the_facts_and_in_answers(tmp_path: Path) -> None:
    class Shifted(ToyEncoder):
        def embed(self, items: Any, role: str = "candidate", **more: Any) -> Embeddings:
            found = super().embed(items, role, **more)
            late = np.array([name.startswith("late") for name in found.ids], np.float32)
            return found.with_rows(found.rows_ND + 6 * late[:, None])

    with Index.create(tmp_path / "i", Shifted(), address=f"memory:{tmp_path}", repair="centred") as index:
        index.add([Item(f"t{n}", text=f"text {n}") for n in range(200)])
        index.refit()
        assert not index.info()["notes"]
        index.add([Item(f"late{n}", text=f"late {n}") for n in range(400)])
        (note,) = index.info()["notes"]
        assert "items of today (text, 600)" in note
        assert note in index.search("text 1").notes


def autoencoder(width: int, concepts: int = 24, seed: int = 0) -> SparseAutoencoder:
    rng = np.random.default_rng(seed)
    weights = {
        "encoder_CD": rng.standard_normal((concepts, width)).astype(np.float32),
        "decoder_CD": rng.standard_normal((concepts, width)).astype(np.float32),
        "decoder_bias_D": rng.standard_normal(width).astype(np.float32),
    }
    return SparseAutoencoder(SaeConfig(width=width, concepts=concepts, k=4), weights)


@pytest.mark.parametrize("repaired", [False, True])
def test_the_parts_of_all_concepts_and_the_rest_are_the_cosine(repaired: bool) -> None:
    rng = np.random.default_rng(1)
    sae = autoencoder(D)
    affine = Affine(rng.standard_normal((D, 5)), rng.standard_normal(5)) if repaired else None
    rows = rng.standard_normal((2, D)).astype(np.float32)
    query, hit = rebuilt(rows, sae, affine)
    whole = unit_rows(sae.reconstruct(rows).astype(np.float64))
    naive = whole if affine is None else whole @ affine.matrix_DE + affine.offset_E
    np.testing.assert_allclose(np.stack([query.whole_E, hit.whole_E]), naive, atol=1e-5)
    lengths = np.linalg.norm(query.whole_E) * np.linalg.norm(hit.whole_E)
    cosine = query.whole_E @ hit.whole_E / lengths
    rests = [one.whole_E - one.part_SE.sum(axis=0) for one in (query, hit)]
    rest = (rests[0] @ hit.whole_E + rests[1] @ query.whole_E) / (2 * lengths)
    assert sum(shares(query, hit).values()) + rest == pytest.approx(float(cosine))


def test_hits_say_which_concepts_they_share_with_the_query(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", ToyEncoder(), address=f"memory:{tmp_path}") as index:
        index.add([Item(f"t{n}", text=f"text {n}") for n in range(20)])
        sae = autoencoder(WIDTH)
        results = index.search("text 3", top=5)
        explained = index.explain(results, sae, names={n: f"concept {n}" for n in range(24)})
        assert [hit.id for hit in explained.hits] == [hit.id for hit in results.hits]
        first = explained.hits[0]
        assert first.why
        assert all(name.startswith("concept ") for name, _ in first.why)
        assert [share for _, share in first.why] == sorted((share for _, share in first.why), reverse=True)
        like = index.explain(index.search(like="t3", top=3), sae)
        assert len(like.hits) == 3
        with pytest.raises(DataError, match="width 12"):
            index.explain(results, autoencoder(D))


def test_hits_are_judged_again(tmp_path: Path) -> None:
    class Judge:
        def rank(self, query: Item, candidates: Any) -> list[tuple[str, float]]:
            assert query.text == "text 3"
            scores = [
                (one.id, float("nan") if one.id == "t0" else float(int(one.id[1:]))) for one in candidates
            ]
            return sorted(scores, key=lambda pair: (pair[1] != pair[1], -pair[1]))

    with Index.create(tmp_path / "i", ToyEncoder(), address=f"memory:{tmp_path}") as index:
        index.add([Item(f"t{n}", text=f"text {n}") for n in range(6)])
        results = index.search("text 3", top=6)
        again = index.rerank(results, reranker=Judge(), top=6)  # type: ignore[arg-type]
        assert [hit.id for hit in again.hits] == ["t5", "t4", "t3", "t2", "t1", "t0"]
        assert (again.hits[0].fine, again.hits[-1].fine) == (5.0, None)
        assert "no score for 1 of 6" in again.notes[0]
        assert {hit.id: hit.score for hit in again.hits} == {hit.id: hit.score for hit in results.hits}
        part = index.rerank(results, reranker=Judge(), top=2)  # type: ignore[arg-type]
        assert [hit.id for hit in part.hits[2:]] == [hit.id for hit in results.hits[2:]]
        with pytest.raises(UsageError, match="top is 0"):
            index.rerank(results, reranker=Judge(), top=0)  # type: ignore[arg-type]


def test_what_was_not_placed_lies_between_its_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pacmap", None)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, D)) * 6
    rows = np.concatenate([centre + rng.standard_normal((40, D)) for centre in centres]).astype(np.float32)
    found = placed(store_of(rows).view(), tmp_path, most=20)
    side = found["raw"][:, 0] > 0
    group = np.array([int(name.removeprefix("image")) < 40 for name in found["ids"]])
    assert (side == group).mean() in (0, 1), "both groups stay apart"
    assert "Made of 20 items" in found["notes"]["raw"]
    assert json.dumps(found["notes"])
