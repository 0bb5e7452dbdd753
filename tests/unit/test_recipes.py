"""Recipes: what each needs, and the choice among them without labels."""

from __future__ import annotations

import numpy as np
import pytest

from clearsight.errors import UsageError
from clearsight.jobs.recipes import RECIPES, Sides
from clearsight.types import Embeddings

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
