"""The world as tasks: seeded, disjoint, and right by construction."""

from __future__ import annotations

import pytest

from clearsight.data import world
from clearsight.data.scenes import Scene, draw
from clearsight.data.scenes_text import consistent
from clearsight.errors import DataError, UsageError
from clearsight.types import Item


def test_pairs_both_ways() -> None:
    forth, back = world.image_to_text(40, 3), world.text_to_image(40, 3)
    assert [q.modality for q in forth.queries] == ["image"] * 40
    assert [c.modality for c in forth.candidates] == ["text"] * 40
    assert [q.id for q in back.queries] == [c.id for c in forth.candidates]
    assert forth.candidates == back.queries
    for image, text in zip(forth.queries, forth.candidates, strict=True):
        assert forth.relevance[image.id] == {text.id: 1.0}
        assert back.relevance[text.id] == {image.id: 1.0}
        assert world.caption_is_consistent(text.text or "", image)
        assert world.scene_of(image).split == "test"


def test_same_seed_same_task() -> None:
    one, two, other = (world.image_to_text(10, seed) for seed in (0, 0, 1))
    assert one.candidates == two.candidates
    assert [q.image.tobytes() for q in one.queries] == [q.image.tobytes() for q in two.queries]
    assert one.candidates != other.candidates


def test_a_smaller_task_shows_the_first_scenes_of_a_larger_one() -> None:
    assert world.scenes(5) == world.scenes(9)[:5]


def test_unlabelled_images_and_texts_share_no_scene_with_tasks() -> None:
    task = world.image_to_text(60)
    tested = {world.scene_of(item).key for item in task.queries}
    tested |= {world.scene_of(item).key for item in world.composed(10).candidates}
    images = {world.scene_of(item).key for item in world.unlabelled_images(60)}
    texts = {world.scene_of(item).key for item in world.texts(60)}
    assert len(images) == len(texts) == 60
    assert not tested & images
    assert not tested & texts


def test_composed() -> None:
    task = world.composed(25, 1)
    by_id = {item.id: item for item in task.candidates}
    assert len(task.queries) == 25
    for query in task.queries:
        assert query.modality == "image+text"
        reference = world.scene_of(query)
        (target,) = task.relevance[query.id]
        (excluded,) = task.excluded[query.id]
        assert excluded in by_id
        assert world.scene_of(by_id[excluded]) == reference
        assert world.scene_of(by_id[target]) != reference
        assert world.scene_of(by_id[target]).held_out
    assert len(task.candidates) >= 25 * 3


def test_every_reference_has_distractors() -> None:
    task = world.composed(5, 2, distractors=3)
    assert len(task.candidates) >= 5 * 4


def test_identifiability() -> None:
    assert 0.9 < world.identifiability(world.image_to_text(300)) <= 1
    assert world.identifiability(world.image_to_text(60)) == world.identifiability(world.text_to_image(60))


def test_texts_have_a_style() -> None:
    assert all((item.text or "").startswith("There ") for item in world.texts(5, style="detailed"))


def test_scene_of_refuses_other_items() -> None:
    scene = Scene.from_code("0000-00")
    assert world.scene_of(Item(f"image-{scene.code}", image=draw(scene))) == scene
    assert consistent("A small red circle in the top left.", scene) == world.caption_is_consistent(
        "A small red circle in the top left.", Item(f"image-{scene.code}", image=draw(scene))
    )
    for name in ("cat-0000-00", "image-x", "image"):
        with pytest.raises(DataError):
            world.scene_of(Item(name, text="x"))


@pytest.mark.parametrize(
    "make", [world.image_to_text, world.text_to_image, world.composed, world.unlabelled_images, world.texts]
)
def test_counts_start_at_one(make: object) -> None:
    with pytest.raises(UsageError):
        make(0)  # type: ignore[operator]
