"""The procedural world as tasks: retrieval both ways, composed retrieval, unlabelled images, unpaired texts.

Tasks show scenes of the ``test`` split; unlabelled images and unpaired texts are drawn from the ``spare``
split, so they share no scene with any task. Neither split occurs in the training of the shipped models. An
item's id carries the code of its scene, with which :func:`caption_is_consistent` checks a text.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from clearsight.data.scenes import Scene, Split, draw, random_edit, random_scene
from clearsight.data.scenes_read import ambiguous_share, consistent
from clearsight.data.scenes_text import caption, edit_text
from clearsight.errors import DataError, UsageError
from clearsight.types import Item, Task

_TRIES = 400


def scenes(n: int, seed: int = 0, split: Split = "test", stream: str = "pairs") -> list[Scene]:
    """``n`` different scenes of a split. The same ``seed`` and ``stream`` give the same scenes, a prefix for
    less.

    Raises:
        UsageError: n below 1.
    """
    _check(n)
    rng = _generator(seed, stream)
    found: dict[str, Scene] = {}
    while len(found) < n:
        scene = random_scene(rng, split)
        found[scene.key] = scene
    return list(found.values())


def image_to_text(n: int = 2000, seed: int = 0) -> Task:
    """Each of ``n`` images looks for its caption among ``n`` captions."""
    images, texts, pairs = _pairs(n, seed)
    return Task("world/i2t", images, texts, {image: {text: 1.0} for image, text in pairs})


def text_to_image(n: int = 2000, seed: int = 0) -> Task:
    """Each of ``n`` captions looks for its image among ``n`` images: the items of :func:`image_to_text`."""
    images, texts, pairs = _pairs(n, seed)
    return Task("world/t2i", texts, images, {text: {image: 1.0} for image, text in pairs})


def composed(n: int = 500, seed: int = 0, distractors: int = 2) -> Task:
    """An image with the text of an edit looks for the edited image.

    The candidates hold the edited image of every query, ``distractors`` other edits of every reference image,
    and the reference images themselves; a query's own reference image is excluded for it.

    Raises:
        UsageError: n below 1.
    """
    _check(n)
    rng = _generator(seed, "composed")
    queries: list[Item] = []
    gallery: dict[str, Item] = {}
    relevance: dict[str, dict[str, float]] = {}
    excluded: dict[str, list[str]] = {}
    while len(queries) < n:
        reference = random_scene(rng, "test")
        edited = _held_out_edits(reference, rng, 1 + distractors)
        if len(edited) <= distractors or f"image-{reference.code}" in gallery:
            continue
        for scene in (reference, *(after for _, after in edited)):
            gallery.setdefault(f"image-{scene.code}", Item(f"image-{scene.code}", image=draw(scene, rng)))
        text, after = edited[0]
        name = f"edit-{len(queries)}-{reference.code}"
        queries.append(Item(name, text=text, image=draw(reference, rng)))
        relevance[name] = {f"image-{after.code}": 1.0}
        excluded[name] = [f"image-{reference.code}"]
    return Task("world/composed", tuple(queries), tuple(gallery.values()), relevance, excluded=excluded)


def unlabelled_images(n: int = 500, seed: int = 0) -> tuple[Item, ...]:
    """``n`` images of scenes that occur in no task and in no training."""
    rng = _generator(seed, "unlabelled-draw")
    return tuple(
        Item(f"image-{scene.code}", image=draw(scene, rng))
        for scene in scenes(n, seed, "spare", "unlabelled")
    )


def texts(n: int = 500, seed: int = 0, style: str = "short") -> tuple[Item, ...]:
    """``n`` captions in the style of the tasks' texts, of scenes without images: unpaired examples of the
    language.
    """
    rng = _generator(seed, "texts-words")
    return tuple(
        Item(f"text-{scene.code}", text=caption(scene, rng, style))
        for scene in scenes(n, seed, "spare", "texts")
    )


def scene_of(item: Item) -> Scene:
    """The scene behind an item of this module.

    Raises:
        DataError: the id does not carry a scene's code.
    """
    kind, _, code = item.id.partition("-")
    if kind == "edit":
        code = code.partition("-")[2]
    if kind not in ("image", "text", "edit"):
        raise DataError("This item does not come from the procedural world.", where=item.id)
    return Scene.from_code(code)


def caption_is_consistent(text: str, image: Item) -> bool:
    """Whether every statement of the text is true of the image's scene, and all of it is this world's
    grammar.
    """
    return consistent(text, scene_of(image))


def identifiability(task: Task) -> float:
    """Share (0..1) of a pair task's texts that describe one of its scenes only.

    About what a hit rate@1 can reach: between two scenes that fit, a guess is still right half of the time.
    """
    images = task.queries if task.queries[0].modality == "image" else task.candidates
    words = task.candidates if task.queries[0].modality == "image" else task.queries
    return 1.0 - ambiguous_share([item.text or "" for item in words], [scene_of(item) for item in images])


@lru_cache(maxsize=1)  # both directions, one after the other, without drawing twice
def _pairs(n: int, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...], list[tuple[str, str]]]:
    shown = scenes(n, seed)
    rng = _generator(seed, "pairs-draw")
    images = tuple(Item(f"image-{scene.code}", image=draw(scene, rng)) for scene in shown)
    words = tuple(Item(f"text-{scene.code}", text=caption(scene, rng)) for scene in shown)
    return images, words, [(image.id, text.id) for image, text in zip(images, words, strict=True)]


def _held_out_edits(reference: Scene, rng: np.random.Generator, count: int) -> list[tuple[str, Scene]]:
    """Up to ``count`` edits of a scene with different results, all held out from training."""
    found: dict[str, tuple[str, Scene]] = {}
    for _ in range(_TRIES):
        edit = random_edit(rng, reference)
        if edit.scene.held_out and edit.scene.key not in found:
            found[edit.scene.key] = (edit_text(reference, edit, rng), edit.scene)
            if len(found) == count:
                break
    return list(found.values())


def _generator(seed: int, stream: str) -> np.random.Generator:
    """A generator for one use of a seed: different streams never share randomness."""
    return np.random.default_rng([seed, *stream.encode()])


def _check(n: int) -> None:
    if n < 1:
        raise UsageError(f"n is {n}.", do="Give a whole number from 1.")
