"""Repairs over Embeddings, and on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from clearsight.errors import DataError, UsageError
from clearsight.repair import (
    Centre,
    Chain,
    PerGroup,
    RemoveSubspace,
    RemoveTopComponents,
    Repair,
    SelfAlign,
    ShrinkageZCA,
    fit_repair,
    load_repair,
    save_repair,
)
from clearsight.repair.groups import LEAST_TO_RECENTRE
from clearsight.types import Embeddings, Modality, Role

REPAIRS: list[Repair] = [
    Centre(),
    ShrinkageZCA(),
    ShrinkageZCA("ledoit_wolf"),
    RemoveSubspace(np.eye(8)[:2]),
    RemoveTopComponents(2),
    Chain([RemoveSubspace(np.eye(8)[:2]), ShrinkageZCA(0.3)], normalize_between=True),
]


def embed(
    count: int, side: Role, modality: Modality | list[Modality], shift: float, seed: int = 0
) -> Embeddings:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, 8)) + shift
    return Embeddings.of([f"{side}{i}" for i in range(count)], rows, side=side, modality=modality)


QUERIES = embed(40, "query", "image", 1.0)
CANDIDATES = embed(60, "candidate", "text", -1.0, seed=1)
SUPPORT = embed(50, "candidate", "image", 1.5, seed=2)


def centred_by(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, others)]
    return unit[0] - unit[1].mean(axis=0)


@pytest.mark.parametrize(
    ("fit_on", "query_statistics", "candidate_statistics"),
    [
        ("sides", [QUERIES], [CANDIDATES]),
        ("candidates", [CANDIDATES], [CANDIDATES]),
        ("joint", [QUERIES, CANDIDATES], [QUERIES, CANDIDATES]),
        ("modality", [QUERIES], [CANDIDATES]),
        ("support", [SUPPORT], [CANDIDATES]),
    ],
)
def test_fit_on(
    fit_on: str, query_statistics: list[Embeddings], candidate_statistics: list[Embeddings]
) -> None:
    support = SUPPORT if fit_on == "support" else None
    fitted = fit_repair(Centre(), QUERIES, CANDIDATES, fit_on, support)  # type: ignore[arg-type]
    for rows, by in ((QUERIES, query_statistics), (CANDIDATES, candidate_statistics)):
        expected = centred_by(rows.rows_ND, np.concatenate([part.rows_ND for part in by]))
        assert np.allclose(fitted.transform(rows).rows_ND, expected, atol=1e-6)


def test_modalities_of_one_side_are_kept_apart() -> None:
    mixed = embed(30, "candidate", ["text"] * 10 + ["image"] * 20, 1.0)
    mixed = replace(
        mixed, rows_ND=mixed.rows_ND + np.repeat([[0.0], [3.0]], [10, 20], axis=0).astype(np.float32)
    )
    out = PerGroup(Centre(), "modality").fit(mixed).transform(mixed).rows_ND
    assert np.abs(out[:10].mean(axis=0)).max() < 1e-6
    assert np.abs(out[10:].mean(axis=0)).max() < 1e-6


@pytest.mark.parametrize("repair", REPAIRS, ids=repr)
def test_one_new_query_is_repaired_by_stored_statistics(repair: Repair) -> None:
    fitted = fit_repair(repair, QUERIES, CANDIDATES)
    whole = fitted.transform(QUERIES)
    one = fitted.transform(QUERIES.take([7]))
    assert one.ids == ("query7",)
    assert np.allclose(one.rows_ND[0], whole.rows_ND[7], atol=1e-5)


def test_the_given_estimator_stays_unfitted() -> None:
    repair = Centre()
    fit_repair(repair, QUERIES, CANDIDATES)
    with pytest.raises(NotFittedError):
        repair.transform(QUERIES.rows_ND)


def test_origin_says_what_was_done() -> None:
    once = fit_repair(ShrinkageZCA(0.3), QUERIES, CANDIDATES)
    twice = PerGroup(Centre()).fit(once.transform(QUERIES))
    history = twice.transform(once.transform(QUERIES)).origin["repairs"]
    assert [entry["repair"] for entry in history] == ["ShrinkageZCA", "Centre"]
    assert history[0]["settings"]["shrinkage"] == 0.3
    assert history[0]["groups"] == ["candidate", "query"]
    json.dumps(history)
    again = fit_repair(ShrinkageZCA(0.3), QUERIES, CANDIDATES)
    other = fit_repair(ShrinkageZCA(0.3), QUERIES, CANDIDATES.take(range(59)))
    assert again.digest() == once.digest() == history[0]["digest"]
    assert other.digest() != once.digest()


def test_recentring_at_use() -> None:
    count = LEAST_TO_RECENTRE
    fitted = fit_repair(ShrinkageZCA(), QUERIES, CANDIDATES)
    moved = embed(count + 5, "query", ["image"] * count + ["text"] * 5, 3.0)
    out = fitted.transform(moved, recentre=True)
    stored = fitted.transform(moved)
    assert np.abs(out.rows_ND[:count].mean(axis=0)).max() < 1e-4
    assert np.array_equal(out.rows_ND[count:], stored.rows_ND[count:])  # too few rows for a mean of their own
    assert out.origin["repairs"][-1]["recentred"] == ["query/image"]
    # Subtracting the mean of the output is subtracting the input's own mean before the map.
    unit = moved.rows_ND[:count] / np.linalg.norm(moved.rows_ND[:count], axis=1, keepdims=True)
    before = (unit - unit.mean(axis=0)) @ fitted.affine_["query"].matrix_DE
    assert np.allclose(out.rows_ND[:count], before, atol=1e-4)


class TestPairs:
    def setup_method(self) -> None:
        self.images = embed(40, "query", "image", 1.0)
        self.captions = replace(
            self.images, rows_ND=self.images.rows_ND[:, ::-1] * 2, modality_N=np.full(40, "text")
        )
        self.fitted = PerGroup(SelfAlign(components=4)).fit_pairs(self.images, self.captions)

    def test_texts_take_the_text_map_and_everything_with_an_image_the_image_map(self) -> None:
        aligned = SelfAlign(components=4).fit(self.images.rows_ND, self.captions.rows_ND)
        modalities: list[Modality] = ["text", "image", "image+text"] * 4
        items = embed(12, "candidate", modalities, 0.0)
        out = self.fitted.transform(items).rows_ND
        assert out.shape == (12, 4)
        assert np.allclose(out[0::3], aligned.transform_text(items.rows_ND[0::3]), atol=1e-6)
        for part in (slice(1, None, 3), slice(2, None, 3)):
            assert np.allclose(out[part], aligned.transform(items.rows_ND[part]), atol=1e-6)

    def test_refined_over_embeddings(self) -> None:
        pairs = self.images, self.captions
        further, record = self.fitted.refine(pairs, *pairs, rounds=2, folds=0)
        assert len(record.rounds) >= 1
        assert further.digest() != self.fitted.digest()
        assert further.transform(self.images).width == 4

    def test_misuse_is_refused(self) -> None:
        with pytest.raises(DataError, match="not pairs"):
            PerGroup(SelfAlign()).fit_pairs(self.images, self.captions.take(range(5)))
        with pytest.raises(UsageError, match="fit_pairs"):
            PerGroup(SelfAlign()).fit(self.images)
        with pytest.raises(UsageError, match="pairs"):
            PerGroup(Centre()).fit_pairs(self.images, self.captions)
        with pytest.raises(UsageError, match="SelfAlign"):
            PerGroup(Centre()).fit(QUERIES).refine((self.images, self.captions), self.images, self.captions)


def test_bad_embeddings_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"1 row.*query"):
        fit_repair(Centre(), QUERIES.take([0]), CANDIDATES)
    same = replace(QUERIES, rows_ND=np.outer(np.arange(1, 41), np.ones(8)).astype(np.float32))
    with pytest.raises(DataError, match="same direction"):
        fit_repair(Centre(), same, CANDIDATES)
    with pytest.raises(DataError, match="no rows"):
        PerGroup(Centre()).fit(QUERIES.take(np.zeros(40, dtype=bool)))
    fitted = PerGroup(Centre()).fit(QUERIES)
    with pytest.raises(DataError, match="candidate"):
        fitted.transform(CANDIDATES)
    with pytest.raises(DataError, match="width 3"):
        fitted.transform(Embeddings.of(["a"], np.ones((1, 3)), side="query"))
    with pytest.raises(DataError, match="not one space"):
        PerGroup(Centre(), "joint").fit(QUERIES, Embeddings.of(["a", "b"], np.eye(3)[:2]))
    with pytest.raises(UsageError, match="sides"):
        fit_repair(Centre(), QUERIES, CANDIDATES, "side")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="support"):
        fit_repair(Centre(), QUERIES, CANDIDATES, "support")
    with pytest.raises(UsageError, match="modality"):
        PerGroup(Centre(), "kind")  # type: ignore[arg-type]
    assert len(fitted.transform(QUERIES.take(np.zeros(40, dtype=bool)))) == 0


class TestFiles:
    @pytest.mark.parametrize("repair", REPAIRS, ids=repr)
    def test_exact_round_trip(self, repair: Repair, tmp_path: Path) -> None:
        grouped = fit_repair(repair, QUERIES, CANDIDATES)
        save_repair(tmp_path, grouped)
        read = load_repair(tmp_path)
        assert np.array_equal(read.transform(QUERIES).rows_ND, grouped.transform(QUERIES).rows_ND)
        assert read.describe() == grouped.describe()
        alone = clone(repair).fit(QUERIES.rows_ND)
        again = load_repair(save_repair(tmp_path / "one.safetensors", alone))
        assert np.array_equal(again.transform(QUERIES.rows_ND), alone.transform(QUERIES.rows_ND))
        assert repr(again) == repr(alone)
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []

    def test_both_maps_of_pairs(self, tmp_path: Path) -> None:
        captions = replace(QUERIES, rows_ND=QUERIES.rows_ND[:, :5].copy(), modality_N=np.full(40, "text"))
        fitted = PerGroup(SelfAlign(0.2, 3)).fit_pairs(QUERIES, captions)
        read = load_repair(save_repair(tmp_path / "deep" / "maps", fitted))
        for rows in (QUERIES, captions):
            assert np.array_equal(read.transform(rows).rows_ND, fitted.transform(rows).rows_ND)
        assert read.digest() == fitted.digest()
        aligned = load_repair(save_repair(tmp_path, fitted.estimator))
        assert np.array_equal(aligned.correlations_, fitted.estimator.correlations_)  # type: ignore[attr-defined]

    def test_a_file_holds_the_map_and_not_the_statistics(self, tmp_path: Path) -> None:
        fitted = ShrinkageZCA("oas").fit(QUERIES.rows_ND)
        read = load_repair(save_repair(tmp_path, fitted))
        assert read.shrinkage_ == fitted.shrinkage_
        with pytest.raises(UsageError, match="no statistics"):
            read.partial_fit(QUERIES.rows_ND)
        assert read.fit(CANDIDATES.rows_ND).partial_fit(QUERIES.rows_ND).n_samples_seen_ == 100

    def test_what_is_no_repair_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no repair here"):
            load_repair(tmp_path)
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"\x10\x00\x00\x00")
        with pytest.raises(DataError, match="cannot be read"):
            load_repair(broken)
        save_file({"rows": np.ones(3)}, broken)
        with pytest.raises(DataError, match="known format"):
            load_repair(broken)
        with pytest.raises(NotFittedError):
            save_repair(tmp_path, PerGroup(Centre()))
        with pytest.raises(NotFittedError):
            save_repair(tmp_path, Centre())

    def test_a_file_cannot_name_anything_else(self, tmp_path: Path) -> None:
        file = save_repair(tmp_path, Centre().fit(QUERIES.rows_ND))
        arrays = load_file(file)
        facts = {"format": 1, "repair": "PerGroup", "settings": {}, "learned": {}, "maps": {}, "parts": []}
        for name in ("PerGroup", "builtins.eval", "Pipeline"):
            save_file(arrays, file, metadata={"clearsight_repair": json.dumps({**facts, "repair": name})})
            with pytest.raises(UsageError, match="Unknown repair"):
                load_repair(file)
        save_file({}, file, metadata={"clearsight_repair": json.dumps({**facts, "repair": "Centre"})})
        with pytest.raises(DataError, match="incomplete"):
            load_repair(file)
