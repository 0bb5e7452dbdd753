"""Laws of self-alignment, of its refinement, and of the settings chosen without labels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clearsight.errors import DataError, UsageError
from clearsight.repair import (
    SelfAlign,
    ShrinkageZCA,
    choose_alignment,
    choose_shrinkage,
    k_occurrence_skewness,
)
from clearsight.repair.affine import unit_rows
from clearsight.repair.refine import EVIDENT

Array = NDArray[np.float32]


class World:
    """Scenes of attributes, seen by an image encoder and by a text encoder that share no axis."""

    def __init__(self, seed: int = 0, width: int = 48, noise: float = 1.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.image_axes, self.text_axes = (self.rng.standard_normal((30, width)) for _ in range(2))
        self.gap = 5 * self.rng.standard_normal((2, width))
        self.noise = noise

    def scenes(self, count: int) -> NDArray[np.int64]:
        return self.rng.integers(0, 5, (count, 6))

    def _rows(self, scenes: NDArray[np.int64], axes: NDArray[np.float64], side: int) -> Array:
        active = np.eye(5)[scenes].reshape(len(scenes), -1)
        noise = self.noise * self.rng.standard_normal((len(scenes), axes.shape[1]))
        return (active @ axes * 2 + noise + self.gap[side]).astype(np.float32)

    def images(self, scenes: NDArray[np.int64]) -> Array:
        return self._rows(scenes, self.image_axes, 0)

    def texts(self, scenes: NDArray[np.int64]) -> Array:
        return self._rows(scenes, self.text_axes, 1)

    def captions(self, scenes: NDArray[np.int64], wrong: float = 0.2) -> Array:
        slips = self.rng.random(scenes.shape) < wrong
        return self.texts(np.where(slips, self.rng.integers(0, 5, scenes.shape), scenes))


def hit_rate(left: Array, right: Array) -> float:
    return float(np.mean((unit_rows(left) @ unit_rows(right).T).argmax(axis=1) == np.arange(len(left))))


def test_aligns_what_whitening_cannot() -> None:
    world = World()
    pairs, test = world.scenes(200), world.scenes(200)
    aligned = SelfAlign().fit(world.images(pairs), world.captions(pairs))
    images, texts = world.images(test), world.texts(test)
    assert hit_rate(aligned.transform(images), aligned.transform_text(texts)) > 0.6
    assert hit_rate(ShrinkageZCA().fit_transform(images), ShrinkageZCA().fit_transform(texts)) < 0.05


def test_components_are_capped_by_the_rank_of_the_pairs() -> None:
    world = World()
    scenes = world.scenes(8)
    aligned = SelfAlign(components=100).fit(world.images(scenes), world.captions(scenes))
    assert aligned.transform(world.images(scenes)).shape == (8, 7)
    assert list(aligned.get_feature_names_out()) == [f"selfalign{i}" for i in range(7)]
    assert (np.diff(aligned.correlations_) <= 0).all()
    assert aligned.correlations_[0] <= 1 / 0.9 + 1e-9  # the whitened variances are at most 1 / (1 - a)


def test_the_order_of_pairs_and_the_scale_of_rows_do_not_matter() -> None:
    world = World()
    scenes = world.scenes(100)
    image, text = world.images(scenes), world.captions(scenes)
    order = np.random.default_rng(0).permutation(100)
    one = SelfAlign(components=10).fit(image, text)
    two = SelfAlign(components=10).fit(image[order] * 7, text[order] / 3)
    assert np.allclose(one.transform(image), two.transform(image), atol=1e-3)


def test_pairs_that_are_none_are_refused() -> None:
    world = World()
    image, text = world.images(world.scenes(10)), world.captions(world.scenes(9))
    with pytest.raises(ValueError, match="not pairs"):
        SelfAlign().fit(image, text)
    with pytest.raises(ValueError, match="1 sample"):
        SelfAlign().fit(image[:1], text[:1])
    with pytest.raises(DataError, match="two pairs"):
        SelfAlign().fit(image[:9], text, sample_weight=np.eye(9)[0])
    for bad in ({"shrinkage": 0.0}, {"shrinkage": 2.0}, {"components": 0}):
        with pytest.raises(UsageError, match="shrinkage"):
            SelfAlign(**bad).fit(image[:9], text)  # type: ignore[arg-type]


class TestRefinement:
    def setup_method(self) -> None:
        self.world = World(noise=1.6)
        scenes = self.world.scenes(100)
        self.pairs = self.world.images(scenes), self.world.captions(scenes)
        self.aligned = SelfAlign(components=30).fit(*self.pairs)

    def score(self, aligned: SelfAlign) -> float:
        scenes = self.world.scenes(200)
        return hit_rate(
            aligned.transform(self.world.images(scenes)), aligned.transform_text(self.world.texts(scenes))
        )

    def test_matches_among_unpaired_rows_help_on_other_rows(self) -> None:
        scenes = self.world.scenes(200)
        shuffled = np.random.default_rng(1).permutation(200)
        further, record = self.aligned.refine(
            *self.pairs, self.world.images(scenes), self.world.texts(scenes)[shuffled], rounds=3
        )
        assert 0 < len(record.rounds) <= 3
        assert all(found.pairs >= found.kept >= 0 for found in record.rounds)
        assert 1 - self.score(further) < (1 - self.score(self.aligned)) / 2

    def test_the_watch(self) -> None:
        """Matches that show are enough; where they do not, held-out pairs decide, and are recorded."""
        scenes = self.world.scenes(200)
        images, texts = self.world.images(scenes), self.world.texts(scenes)
        _, shown = self.aligned.refine(*self.pairs, images, texts, rounds=2)
        assert shown.matching is not None
        assert shown.matching > EVIDENT
        assert shown.held_out == ()
        faint = images + 25 * np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
        _, hidden = self.aligned.refine(*self.pairs, faint, texts, rounds=2)
        assert hidden.matching is not None
        assert hidden.matching < EVIDENT
        assert len(hidden.held_out) == 3
        best = int(np.argmax(hidden.held_out))
        assert len(hidden.rounds) in (0, best)
        _, unwatched = self.aligned.refine(*self.pairs, images, texts, rounds=2, folds=0)
        assert (unwatched.matching, unwatched.held_out) == (None, ())

    def test_texts_of_something_else_leave_the_map_as_it_was(self) -> None:
        other = World(seed=9)
        images, texts = self.world.images(self.world.scenes(200)), other.texts(other.scenes(200))
        further, record = self.aligned.refine(*self.pairs, images, texts, rounds=2)
        assert record.rounds == ()
        assert np.array_equal(further.transform(images), self.aligned.transform(images))
        assert further.n_pairs_ == self.aligned.n_pairs_

    def test_scenes_without_their_own_texts_do_not_hurt(self) -> None:
        images, texts = self.world.images(self.world.scenes(200)), self.world.texts(self.world.scenes(200))
        further, _ = self.aligned.refine(*self.pairs, images, texts, rounds=2)
        assert self.score(further) >= self.score(self.aligned) - 0.03

    def test_the_order_of_unpaired_rows_does_not_matter(self) -> None:
        scenes = self.world.scenes(60)
        images, texts = self.world.images(scenes), self.world.texts(scenes)
        order = np.random.default_rng(2).permutation(60)
        one, _ = self.aligned.refine(*self.pairs, images, texts, rounds=2, folds=0)
        two, _ = self.aligned.refine(*self.pairs, images[order], texts, rounds=2, folds=0)
        assert np.allclose(one.transform(images), two.transform(images), atol=1e-3)

    def test_equal_weights_stop_where_nothing_changes(self) -> None:
        scenes = self.world.scenes(60)
        images, texts = self.world.images(scenes), self.world.texts(scenes)
        _, record = self.aligned.refine(*self.pairs, images, texts, rounds=40, weighting="equal", folds=0)
        assert len(record.rounds) < 40
        assert record.rounds[-1].kept == record.rounds[-1].pairs
        assert record.held_out == ()

    def test_settings_that_do_not_fit_are_refused(self) -> None:
        rows = (*self.pairs, *self.pairs)
        for bad in ({"rounds": 0}, {"neighbours": 0}, {"weighting": "soft"}, {"folds": 1}, {"folds": 40}):
            with pytest.raises(UsageError):
                self.aligned.refine(*rows, **bad)  # type: ignore[arg-type]


class TestChoices:
    def test_two_views_choose_the_value_under_which_they_find_each_other(self) -> None:
        """Strong nuisance directions in both views: little shrinkage removes them, much leaves them."""
        rng = np.random.default_rng(0)
        shared = rng.standard_normal((400, 20)) * 0.3
        views = [
            np.concatenate([shared, np.zeros((400, 10))], axis=1)
            + rng.standard_normal((400, 5)) @ nuisance
            + rng.standard_normal((400, 30)) * 0.02
            for nuisance in rng.standard_normal((2, 5, 30))
        ]
        choice = choose_shrinkage(views[0], views[1])
        assert choice.rule == "self_retrieval"
        found = {trial.shrinkage: trial.self_retrieval for trial in choice.trials}
        assert found[choice.value] == max(found.values())  # type: ignore[type-var]
        assert found[0.01] > found[0.9] + 0.3  # type: ignore[operator]
        assert choice.value <= 0.1

    def test_rules(self) -> None:
        rows = World().images(World().scenes(120))
        fixed = choose_shrinkage(rows)
        assert (fixed.rule, fixed.value) == ("fixed", 0.5)
        assert all(trial.self_retrieval is None for trial in fixed.trials)
        for rule in ("ledoit_wolf", "oas"):
            choice = choose_shrinkage(rows, rule=rule)  # type: ignore[arg-type]
            assert choice.value == ShrinkageZCA(rule).fit(rows).shrinkage_  # type: ignore[arg-type]
        hub = choose_shrinkage(rows, rule="hubness")
        assert min(hub.trials, key=lambda trial: trial.hubness).shrinkage == hub.value
        assert choose_shrinkage(rows, rows, rule="oas").trials[0].self_retrieval == 1.0

    def test_sampled_rows_depend_on_the_seed_alone(self) -> None:
        rows = World().images(World().scenes(120))
        one, two, three = (choose_shrinkage(rows, most_rows=50, seed=seed).trials for seed in (1, 1, 2))
        assert one == two != three

    def test_bad_requests_are_refused(self) -> None:
        rows = World().images(World().scenes(20))
        with pytest.raises(UsageError, match="second view"):
            choose_shrinkage(rows, rule="self_retrieval")
        with pytest.raises(UsageError, match="rule"):
            choose_shrinkage(rows, rule="best")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="grid"):
            choose_shrinkage(rows, grid=(0.0, 0.5))
        with pytest.raises(DataError, match="same items"):
            choose_shrinkage(rows, rows[:5])
        with pytest.raises(DataError, match="four pairs"):
            choose_alignment(rows, rows, folds=10)

    def test_alignment_settings_come_from_held_out_pairs(self) -> None:
        world = World()
        scenes = world.scenes(120)
        image, text = world.images(scenes), world.captions(scenes)
        choice = choose_alignment(image, text, shrinkages=(0.001, 0.3), components=(1, 24), folds=3)
        found = {(trial.shrinkage, trial.components): trial.hit_rate for trial in choice.trials}
        assert len(found) == 4
        assert found[choice.shrinkage, choice.components] == max(found.values())
        assert choice.components == 24


def test_hubness_of_a_hub() -> None:
    """Rows around a circle are equally often near; one centre among spokes is near to all of them."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    assert k_occurrence_skewness(circle, 2) == pytest.approx(0, abs=1e-9)
    spokes = np.concatenate([np.eye(12), np.ones((1, 12))])
    assert k_occurrence_skewness(spokes, 1) > 2
    with pytest.raises(DataError, match="1 row"):
        k_occurrence_skewness(np.ones((1, 3)))
