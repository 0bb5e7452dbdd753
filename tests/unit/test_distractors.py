"""Removal of distractor concepts, its controls, and the masking ablation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clearsight.concepts import ConceptProfile, profile_codes, top_set
from clearsight.concepts.findings import Verdict
from clearsight.errors import DataError, UsageError
from clearsight.jobs import distractors
from clearsight.jobs.distractors import DistractorSweep, sweep_distractors
from clearsight.jobs.masking import MASKS, ablate_tokens, ablation
from clearsight.jobs.sides import Case, image_text_pairs, turned
from clearsight.jobs.trials import mean_of, save_records, scored
from clearsight.metrics import paired_test
from clearsight.models.encoder import Encoder
from clearsight.repair import PerGroup, RemoveSubspace, RemoveTopComponents, load_repair, save_repair
from clearsight.types import Embeddings, Item, Task

Array = NDArray[Any]
N, D, C = 60, 24, 200
DISTRACTORS = (10, 77)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pairs_task(count: int = N) -> Task:
    return Task(
        "pairs",
        tuple(Item(f"i{n}", image=b"-") for n in range(count)),
        tuple(Item(f"t{n}", text="-") for n in range(count)),
        {f"i{n}": {f"t{n}": 1.0} for n in range(count)},
    )


def dictionary() -> Array:
    """Concepts 10 and 77 alone lie in the first two dimensions; all others in the rest."""
    rows = rng_of(0).standard_normal((C, D))
    rows[:, :2] = 0
    rows[DISTRACTORS, :] = 0
    rows[10, 0], rows[77, 1] = 1, 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def codes() -> tuple[Array, Array]:
    """Matched items share three concepts; the distractors fire everywhere, strongly and at random."""
    rng = rng_of(1)
    image, text = np.zeros((N, C)), np.zeros((N, C))
    others = np.setdiff1d(np.arange(C), DISTRACTORS)
    for n in range(N):
        shared = rng.choice(others, 3, replace=False)
        image[n, shared], text[n, shared] = 1.0, 1.0
        for side in (image, text):
            side[n, DISTRACTORS] = rng.uniform(2, 12, 2)
    return image, text


@pytest.fixture(scope="module")
def case() -> Case:
    image, text = codes()
    queries = Embeddings.of([f"i{n}" for n in range(N)], image @ dictionary(), side="query", modality="image")
    candidates = Embeddings.of([f"t{n}" for n in range(N)], text @ dictionary())
    return Case(pairs_task(), queries, candidates, "image -> text")


@pytest.fixture(scope="module")
def profile() -> ConceptProfile:
    image, text = (csr_array(part) for part in codes())
    return profile_codes(image, text, dictionary(), np.repeat(np.arange(N)[:, None], 2, axis=1))


@pytest.fixture(scope="module")
def sweep(case: Case, profile: ConceptProfile) -> DistractorSweep:
    cases = [case, turned(case, "text -> image")]
    return sweep_distractors(cases, dictionary(), profile, ranks=(1, 2, 9), seeds=(0, 1))


class TestFromConcepts:
    def test_the_top_concepts_are_projected_out(self, profile: ConceptProfile, case: Case) -> None:
        made = RemoveSubspace.from_concepts(dictionary(), profile.influence_C())
        assert made.directions.shape == (2, D)
        out = made.transform(case.queries.rows_ND)
        assert np.abs(out[:, :2]).max() < 1e-6
        assert np.abs(out @ dictionary()[list(DISTRACTORS)].T).max() < 1e-6

    def test_equations_8_to_10(self) -> None:
        rng = rng_of(3)
        rows, scores, h = rng.standard_normal((300, 9)), rng.standard_normal(300), rng.standard_normal((4, 9))
        chosen = np.sort(np.argsort(-scores, kind="stable")[:3])
        basis = np.linalg.svd(rows[chosen])[2][:2].T
        h /= np.linalg.norm(h, axis=1, keepdims=True)
        made = RemoveSubspace.from_concepts(rows, scores, rank=2)
        assert np.allclose(made.transform(h), h - h @ basis @ basis.T, atol=1e-12)

    def test_an_sae_is_as_good_as_its_dictionary(self) -> None:
        class Sae:
            dictionary_CD = dictionary()

        scores = np.arange(C, dtype=float)
        one, other = (RemoveSubspace.from_concepts(given, scores) for given in (Sae(), dictionary()))
        assert (one.components_ == other.components_).all()

    def test_it_is_a_repair_like_every_other(self, case: Case, tmp_path: Path) -> None:
        made = RemoveSubspace.from_concepts(dictionary(), np.arange(C, dtype=float), share=0.03)
        grouped = PerGroup(made, "joint").fit(case.queries, case.candidates)
        rows = grouped.transform(case.queries).rows_ND
        assert np.allclose(rows, made.transform(case.queries.rows_ND), atol=1e-6)
        save_repair(tmp_path / "r.safetensors", made)
        again = load_repair(tmp_path / "r.safetensors").transform(case.queries.rows_ND)
        assert np.array_equal(again, made.transform(case.queries.rows_ND))

    def test_nan_and_the_dead_are_never_chosen(self) -> None:
        scores, alive = np.zeros(C), np.ones(C, dtype=bool)
        scores[5], scores[6], scores[7], scores[8] = np.nan, 3, 2, 1
        alive[6] = False
        made = RemoveSubspace.from_concepts(dictionary(), scores, among_C=alive)
        assert np.allclose(made.directions, dictionary()[[7, 8]])

    def test_bad_input(self) -> None:
        with pytest.raises(UsageError, match="do not fit a dictionary"):
            RemoveSubspace.from_concepts(dictionary(), np.zeros(C - 1))
        with pytest.raises(DataError, match="No concept is alive"):
            RemoveSubspace.from_concepts(dictionary(), np.full(C, np.nan))
        with pytest.raises(UsageError, match="share"):
            RemoveSubspace.from_concepts(dictionary(), np.zeros(C), share=0)


class TestSweep:
    def test_planted_distractors_are_found_and_their_removal_is_the_best(
        self, sweep: DistractorSweep
    ) -> None:
        assert sweep.concepts == DISTRACTORS
        assert sweep.default_rank == 2
        for way in ("image -> text", "text -> image"):
            base, removal = sweep.find(way, "base"), sweep.find(way, "top attribution")
            assert removal.scores["hit_rate@1"].mean > 0.9 > 0.5 > base.scores["hit_rate@1"].mean
            assert removal.against_base["hit_rate@1"].p_value < 0.01
            assert removal.against_random["hit_rate@1"].p_value < 0.01
            half = sweep.find(way, "top attribution", 1).scores["hit_rate@1"].mean
            assert base.scores["hit_rate@1"].mean <= half < removal.scores["hit_rate@1"].mean
        assert [finding.verdict for finding in sweep.findings()] == [Verdict.SHOWN] * 2
        assert "hit_rate@5" in sweep.findings("hit_rate@5")[0].sentence

    def test_every_arm_at_every_rank(self, sweep: DistractorSweep) -> None:
        found = {(row.case, row.arm, row.rank, row.seed) for row in sweep.rows}
        assert len(found) == len(sweep.rows)
        for way in ("image -> text", "text -> image"):
            assert {(way, "base", 0, None), (way, "centring", 0, None)} <= found
            for rank in (1, 2):  # 9 is more than two concepts span
                arms = {(arm, seed) for case, arm, r, seed in found if (case, r) == (way, rank)}
                assert arms == {
                    ("top attribution", None),
                    ("random concepts", None),
                    ("random concepts", 0),
                    ("random concepts", 1),
                    ("bottom attribution", None),
                    ("principal directions", None),
                    ("centred components", None),
                }
        assert not any(row.rank > 2 for row in sweep.rows)

    def test_rows_say_what_they_removed(self, sweep: DistractorSweep) -> None:
        for row in sweep.rows:
            chosen = row.arm in ("top attribution", "random concepts", "bottom attribution")
            assert (row.concepts == 2) == chosen
            assert np.isfinite(row.energy) == chosen
            assert row.default == (row.rank == 2)
        assert sweep.find("image -> text", "top attribution").energy == pytest.approx(1)

    def test_a_row_is_what_the_repair_itself_gives(self, case: Case, profile: ConceptProfile) -> None:
        found = sweep_distractors([case], dictionary(), profile, ranks=[2], seeds=[4])
        made = RemoveSubspace.from_concepts(dictionary(), profile.influence_C(), among_C=profile.alive_C)
        repaired = PerGroup(made, "joint").fit(case.queries, case.candidates)
        twin = scored(case.task, repaired.transform(case.queries), repaired.transform(case.candidates))
        row = found.find(case.label, "top attribution")
        base = scored(case.task, case.queries, case.candidates)
        for measure, score in row.scores.items():
            assert (score.values_Q == twin[measure].values_Q).all()
            assert row.against_base[measure] == paired_test(twin[measure], base[measure])
        both = np.concatenate([case.queries.rows_ND, case.candidates.rows_ND])
        component = RemoveSubspace(rank=2).fit(both)
        twin = scored(
            case.task,
            case.queries.with_rows(component.transform(case.queries.rows_ND)),
            case.candidates.with_rows(component.transform(case.candidates.rows_ND)),
        )
        row = found.find(case.label, "principal directions")
        assert (row.scores["hit_rate@5"].values_Q == twin["hit_rate@5"].values_Q).all()
        parts = [
            side.with_rows(RemoveTopComponents(2).fit_transform(side.rows_ND))
            for side in (case.queries, case.candidates)
        ]
        twin = scored(case.task, *parts)
        row = found.find(case.label, "centred components")
        assert (row.scores["hit_rate@5"].values_Q == twin["hit_rate@5"].values_Q).all()

    def test_random_concepts_are_alive_others_and_their_mean_is_the_control(
        self, sweep: DistractorSweep, profile: ConceptProfile
    ) -> None:
        chosen = distractors._choose(profile, 0.01, (0, 1))
        for (arm, _), concepts in chosen.items():
            assert profile.alive_C[concepts].all()
            assert arm == "top attribution" or not set(concepts) & set(DISTRACTORS)
        assert chosen["random concepts", 0].tolist() != chosen["random concepts", 1].tolist()
        rows = [r for r in sweep.rows if (r.case, r.arm, r.rank) == ("image -> text", "random concepts", 2)]
        seeds = [row.scores["hit_rate@1"].values_Q for row in rows if row.seed is not None]
        mean = next(row for row in rows if row.seed is None).scores["hit_rate@1"]
        assert np.allclose(mean.values_Q, np.mean(seeds, axis=0))
        assert mean.low <= mean.mean <= mean.high

    def test_a_bias_of_the_sae_makes_an_arm_of_its_own(self, case: Case) -> None:
        image, text = (csr_array(part) for part in codes())
        pairs = np.repeat(np.arange(N)[:, None], 2, axis=1)
        bias = -20 * dictionary()[10] - 20 * dictionary()[77] + 5
        profile = profile_codes(image, text, dictionary(), pairs, bias_D=bias)
        found = sweep_distractors([case], dictionary(), profile, ranks=[1], seeds=[0])
        assert found.concepts == DISTRACTORS
        row = found.find(case.label, "top attribution with bias")
        assert (
            row.scores["hit_rate@1"].mean
            < found.find(case.label, "top attribution").scores["hit_rate@1"].mean
        )
        assert found.findings(arm="top attribution with bias")[0].verdict is not Verdict.SHOWN

    def test_the_table_is_written_and_read_back(self, sweep: DistractorSweep, tmp_path: Path) -> None:
        records = sweep.records()
        assert len(records) == 3 * len(sweep.rows)
        for name in ("sweep.parquet", "sweep.json"):
            save_records(tmp_path / name, records)
        table = pq.read_table(tmp_path / "sweep.parquet").to_pylist()
        plain = json.loads((tmp_path / "sweep.json").read_text())
        assert len(table) == len(plain) == len(records)
        row = sweep.find("image -> text", "top attribution")
        for rows in (table, plain):
            one = next(
                r
                for r in rows
                if (r["case"], r["arm"], r["rank"], r["measure"])
                == ("image -> text", "top attribution", 2, "hit_rate@1")
            )
            assert one["mean"] == row.scores["hit_rate@1"].mean
            assert one["p_from_random"] == row.against_random["hit_rate@1"].p_value
            assert one["queries"] == N
        assert plain[0]["arm"] == "base"
        assert plain[0]["p_from_base"] is None

    def test_bad_input(self, case: Case, profile: ConceptProfile) -> None:
        image, text = (csr_array(part) for part in codes())
        with pytest.raises(DataError, match="no matched pairs"):
            sweep_distractors([case], dictionary(), profile_codes(image, text, dictionary()))
        with pytest.raises(UsageError, match="dictionary of shape"):
            sweep_distractors([case], dictionary()[:, :5], profile)
        with pytest.raises(UsageError, match="0 cases"):
            sweep_distractors([], dictionary(), profile)
        with pytest.raises(UsageError, match="0 seeds"):
            sweep_distractors([case], dictionary(), profile, seeds=())
        with pytest.raises(UsageError, match="ranks from 1"):
            sweep_distractors([case], dictionary(), profile, ranks=[0])
        with pytest.raises(DataError, match="none to compare with"):
            sweep_distractors([case], dictionary(), profile, share=1.0)
        found = sweep_distractors([case], dictionary(), profile, ranks=[1], seeds=[0])
        with pytest.raises(UsageError, match="no 'nonsense'"):
            found.find(case.label, "nonsense")


class TestSides:
    def test_pairs_of_a_task(self, case: Case) -> None:
        for one in (case, turned(case, "t")):
            (images, texts), pairs = image_text_pairs(one.task, one.queries, one.candidates)
            assert images.ids[3] == "i3"
            assert texts.ids[3] == "t3"
            assert sorted(map(tuple, pairs.tolist())) == [(n, n) for n in range(N)]

    def test_a_task_of_other_modalities_has_items_and_no_pairs(self, case: Case) -> None:
        mixed = Embeddings.of(
            [f"i{n}" for n in range(N)],
            case.queries.rows_ND,
            modality=["image+text"] * (N - 2) + ["text", "image"],
        )
        (images, texts), pairs = image_text_pairs(case.task, mixed, case.candidates)
        assert pairs.shape == (0, 2)
        assert images.ids == (f"query i{N - 1}",)
        assert len(texts) == N + 1

    def test_turning_twice_is_the_task_itself(self, case: Case) -> None:
        again = turned(turned(case, "one"), "two")
        assert again.task.relevance == case.task.relevance
        assert (again.queries.side_N == case.queries.side_N).all()
        assert set(turned(case, "one").queries.side_N.tolist()) == {"query"}

    def test_what_cannot_be_turned(self, case: Case) -> None:
        task = Task("t", case.task.queries, case.task.candidates, {}, excluded={"i0": ["t1"]})
        with pytest.raises(UsageError, match="pools, exclusions"):
            turned(Case(task, case.queries, case.candidates, "x"), "y")


def test_a_mean_over_one_seed_is_that_seed(case: Case) -> None:
    scores = scored(case.task, case.queries, case.candidates)
    assert mean_of([scores])["hit_rate@5"].mean == scores["hit_rate@5"].mean


class TestMasking:
    def test_one_pass_three_pools(self) -> None:
        from clearsight.data import world

        task = world.composed(8, seed=1)
        encoder = Encoder.load("tiny")
        found = ablate_tokens(encoder, task)
        assert [(row.pooling, row.masked) for row in found.rows] == [
            ("mean", "neither"),
            ("mean_no_image", "both"),
            ("mean_no_image", "queries"),
            ("mean_no_prompt", "both"),
            ("mean_no_prompt", "queries"),
        ]
        assert found.rows[2].label == "without image tokens (queries only)"
        assert not found.skipped
        sides = [
            Encoder(encoder.loaded, pooling="mean_no_image").embed(items, role, counterpart=kind)
            for items, role, kind in (
                (task.queries, "query", "image"),
                (task.candidates, "candidate", "image+text"),
            )
        ]
        twin = scored(task, *sides)
        assert found.rows[1].scores["hit_rate@10"].mean == pytest.approx(twin["hit_rate@10"].mean)
        assert found.rows[1].against_base["hit_rate@1"].n == 8
        records = found.records()
        assert len(records) == 15
        assert records[0]["label"] == "all tokens"
        assert records[0]["p_from_base"] is None

    def test_a_contrastive_model_has_no_tokens(self) -> None:
        with pytest.raises(UsageError, match="no tokens"):
            ablate_tokens(Encoder.load("tiny-contrastive"), pairs_task(2))

    def test_items_without_a_vector_somewhere_are_left_out_everywhere(self, case: Case) -> None:
        queries = dict.fromkeys(MASKS, case.queries)
        short = case.queries.take(np.arange(N - 1))
        queries["mean_no_prompt"] = Embeddings(
            short.ids,
            short.rows_ND,
            short.side_N,
            short.modality_N,
            skipped={f"i{N - 1}": "no token is left"},
        )
        found = ablation(case.task, queries, dict.fromkeys(MASKS, case.candidates))
        assert {row.scores["hit_rate@1"].judged for row in found.rows} == {N - 1}
        assert found.skipped == {f"i{N - 1}": "no token is left"}
        # The same vectors under every name: nothing differs.
        assert all(row.against_base["hit_rate@1"].p_value == 1 for row in found.rows[1:])


def test_top_set_of_the_profile_is_what_the_sweep_removes(
    sweep: DistractorSweep, profile: ConceptProfile
) -> None:
    assert tuple(top_set(profile.influence_C(), among_C=profile.alive_C)) == sweep.concepts
