"""Recipes: what each needs, and the choice among them without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clearsight.errors import UsageError
from clearsight.jobs import recipes
from clearsight.jobs.compare import compare
from clearsight.jobs.recipes import RECIPES, Sides, in_memory, sample
from clearsight.types import Embeddings, Item, Task

WIDTH = 24


def views(random: np.random.Generator, count: int, *, apart: bool, shift: int = 0) -> tuple[Embeddings, ...]:
    """Images and texts of the same things: in one space, or (apart) each in its own axes with an offset."""
    things = random.standard_normal((count, WIDTH))
    turn = (
        np.linalg.qr(np.random.default_rng(99).standard_normal((WIDTH, WIDTH)))[0] if apart else np.eye(WIDTH)
    )
    gap = 5.0 * np.random.default_rng(98).standard_normal(WIDTH) if apart else np.zeros(WIDTH)
    names = [f"{n + shift}" for n in range(count)]
    rows = (things, things @ turn + gap)
    noisy = [part + 0.15 * random.standard_normal(part.shape) for part in rows]
    images, texts = (part.astype(np.float32) for part in noisy)
    return (
        Embeddings.of([f"i{n}" for n in names], images, side="query", modality="image"),
        Embeddings.of([f"t{n}" for n in names], texts, modality="text"),
    )


def sides(*, apart: bool) -> Sides:
    random = np.random.default_rng(0)
    return Sides(*views(random, 150, apart=apart), pairs=views(random, 200, apart=apart, shift=1000))


def hits(repaired: object) -> float:
    left, right = repaired.queries.rows_ND, repaired.candidates.rows_ND  # type: ignore[attr-defined]
    left, right = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (left, right))
    return float(((left @ right.T).argmax(axis=1) == np.arange(len(left))).mean())


def test_chosen_takes_the_alignment_where_axes_differ() -> None:
    given = sides(apart=True)
    found = RECIPES.get("chosen").apply(given)
    assert found.notes["chosen"] == "refined"
    assert hits(RECIPES.get("base").apply(given)) < 0.1
    assert hits(found) > 0.9
    seen = found.notes["held_out"]
    assert max(seen, key=seen.get) == "self_aligned"


def test_chosen_leaves_a_good_space_as_it_is() -> None:
    given = sides(apart=False)
    found = RECIPES.get("chosen").apply(given)
    assert found.notes["chosen"] == "base"
    assert found.fitted is None
    assert np.array_equal(found.queries.rows_ND, given.queries.rows_ND)


@pytest.mark.parametrize("name", ["self_aligned", "refined", "chosen"])
def test_what_needs_pairs_says_so(name: str) -> None:
    given = sides(apart=True)
    with pytest.raises(UsageError, match="unlabelled"):
        RECIPES.get(name).apply(Sides(given.queries, given.candidates))


def test_turned_sides_are_the_same_vectors_the_other_way() -> None:
    given = sides(apart=True)
    for name in ("base", "centred", "realign"):
        way = RECIPES.get(name).apply(given)
        back = RECIPES.get(name).apply(Sides(given.candidates, given.queries))
        assert np.allclose(way.turned().queries.rows_ND, back.queries.rows_ND, atol=1e-5)
        assert np.allclose(way.turned().candidates.rows_ND, back.candidates.rows_ND, atol=1e-5)


class Elsewhere:
    """Rows that are not an `Embeddings`; counts the most that were asked for at once."""

    def __init__(self, inside: Embeddings) -> None:
        self.inside, self.ids = inside, inside.ids
        self.width, self.origin = inside.width, inside.origin
        self.most = 0

    def __len__(self) -> int:
        return len(self.inside)

    def take(self, index: np.ndarray) -> Embeddings:
        self.most = max(self.most, len(index))
        return self.inside.take(index)


def task_of(given: Sides) -> Task:
    queries, candidates = (
        tuple(Item(name, text=name) for name in side.ids)
        for side in (given.queries, in_memory(given.candidates))
    )
    relevance = {name: {f"t{name[1:]}": 1.0} for name in given.queries.ids}
    return Task("t", queries, candidates, relevance, measures=("hit_rate@1", "mrr@10"))


@pytest.mark.parametrize("fit_on", ["sides", "candidates", "joint", "modality"])
def test_recipes_that_stream_score_the_same_outside_memory(fit_on: str) -> None:
    given = replace(sides(apart=True), fit_on=fit_on)
    names = [name for name in RECIPES if RECIPES.get(name).streams]
    assert {"base", "centred", "realign", "realign_release", "realign_chosen", "self_aligned"} <= set(names)
    task = task_of(given)
    here = compare(task, given, names, embedding="e")
    there = compare(task, replace(given, candidates=Elsewhere(given.candidates)), names, embedding="e")
    for inside, outside in zip(here, there, strict=True):
        for measure, expected in inside.scores.items():
            found = outside.scores[measure]
            np.testing.assert_allclose(found.values_Q, expected.values_Q, atol=1e-12)
            assert found.mean == pytest.approx(expected.mean)
        assert outside.geometry == pytest.approx(inside.geometry, rel=1e-4, abs=1e-4)
        assert outside.seen is None, "a small pool is looked at whole"
        assert (inside.repaired.fitted is None) == (outside.repaired.fitted is None)


def test_a_sample_stands_for_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes.sample, "__defaults__", (40, 0))
    given = sides(apart=False)
    outside = Elsewhere(given.candidates)
    large = replace(given, candidates=outside, pairs=None)
    found = compare(task_of(given), large, ["base", "realign", "realign_chosen"], embedding="e")
    for outcome in found:
        assert outcome.seen == 40
        assert "sample of 40 candidates" in outcome.geometry_row().label
    drawn = sample(large.candidates)
    assert len(drawn) == 40
    assert len(set(drawn.ids)) == 40
    assert [int(name[1:]) for name in drawn.ids] == sorted(int(name[1:]) for name in drawn.ids)
    repaired = found[1].repaired.candidates
    np.testing.assert_allclose(
        sample(repaired).rows_ND,
        in_memory(repaired).rows_ND[[repaired.ids.index(n) for n in drawn.ids]],
        atol=1e-5,
    )
    assert sample(given.candidates) is given.candidates
