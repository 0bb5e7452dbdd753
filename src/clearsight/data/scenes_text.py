"""Writes the words of the procedural world: captions, edits, questions, one-word summaries.

Every caption is true of its scene; :func:`clearsight.data.scenes_read.consistent` decides that for any text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clearsight.data.scenes import Edit, Scene, Thing, pick, random_edit
from clearsight.data.scenes_read import consistent, holds
from clearsight.data.scenes_words import (
    COLOR_WORDS,
    COMPASS,
    NUMBERS,
    PLACE_NAMES,
    PLACE_WORDS,
    RELATIONS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    TINT_WORDS,
)
from clearsight.errors import UsageError

QUESTION_KINDS = ("count", "color", "shape", "place", "size", "tint", "texture", "at", "relation", "exists")
STYLES = ("short", "detailed")


@dataclass(frozen=True)
class Question:
    """A question about a scene and its answer, both as text; ``kind`` is one of :data:`QUESTION_KINDS`."""

    kind: str
    text: str
    answer: str


# ------------------------------------------------------------------------------------------------- captions
def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def phrase(thing: Thing, rng: np.random.Generator, size: bool = True, canonical: float = 0.6) -> str:
    """Words for the looks of a thing (no article, no place); ``canonical`` is the chance of the first
    synonym.
    """

    def word(options: Sequence[str]) -> str:
        return options[0] if rng.random() < canonical else pick(rng, options)

    looks = f"{word(COLOR_WORDS[thing.color])} {word(SHAPE_WORDS[thing.shape])}"
    return f"{word(SIZE_WORDS[thing.size])} {looks}" if size else looks


def _background(scene: Scene, rng: np.random.Generator) -> str:
    tint, texture = pick(rng, TINT_WORDS[scene.tint]), pick(rng, TEXTURE_WORDS[scene.texture])
    both = f"{texture} {tint}" if rng.random() < 0.7 else f"{tint} {texture}"
    return f"{both} {'background' if rng.random() < 0.7 else 'backdrop'}"


def _shuffled(rng: np.random.Generator, items: Sequence[Thing]) -> list[Thing]:
    return [items[i] for i in rng.permutation(len(items))]


def caption(scene: Scene, rng: np.random.Generator, style: str = "short") -> str:
    """A true caption. ``short`` (about 22 words) may leave out sizes or the background; ``detailed`` says
    all.
    """
    if style == "short":
        return _short(scene, rng)
    if style == "detailed":
        return _detailed(scene, rng)
    raise UsageError(f"There is no caption style '{style}'.", do=f"Use one of: {', '.join(STYLES)}.")


def _short(scene: Scene, rng: np.random.Generator) -> str:
    size = rng.random() < 0.6
    things = list(scene.things) if rng.random() < 0.5 else _shuffled(rng, scene.things)
    listed = rng.random() < 0.15
    if listed:
        parts = [f"{PLACE_NAMES[t.place]}: {_article(phrase(t, rng, size))}" for t in things]
        text = "; ".join(parts)
    else:
        parts = [f"{_article(phrase(t, rng, size))} {pick(rng, PLACE_WORDS[t.place])}" for t in things]
        text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    draw = rng.random()
    if draw < 0.15:
        return f"{text[0].upper()}{text[1:]}."
    background = _background(scene, rng)
    if listed or draw < 0.75:
        text = f"{text}, {pick(rng, ('on', 'against'))} {_article(background)}"
        return f"{text[0].upper()}{text[1:]}."
    return f"{_article(background).capitalize()} with {text}."


def _detailed(scene: Scene, rng: np.random.Generator) -> str:
    count = len(scene.things)
    noun = pick(rng, ("object", "shape")) + ("s" if count > 1 else "")
    text = [f"There {'are' if count > 1 else 'is'} {NUMBERS[count - 1]} {noun}."]
    text += [
        f"{_article(phrase(thing, rng)).capitalize()} is {pick(rng, PLACE_WORDS[thing.place])}."
        for thing in scene.things
    ]
    tint, texture = pick(rng, TINT_WORDS[scene.tint]), pick(rng, TEXTURE_WORDS[scene.texture])
    text.append(f"The background is {texture} and {tint}.")
    if count > 1 and rng.random() < 0.5:
        first, second = _shuffled(rng, scene.things)[:2]
        text.append(f"{relation(first, second, rng).capitalize()}.")
    return " ".join(text)


def relation(first: Thing, second: Thing, rng: np.random.Generator, true: bool = True) -> str:
    """A statement ``the red star is left of the blue ring`` that is true (or false) of the two things."""
    names = [name for name in RELATIONS if holds(name, first, second) == true]
    words = pick(rng, RELATIONS[pick(rng, names)])
    return f"the {phrase(first, rng, False)} is {words} the {phrase(second, rng, False)}"


# ---------------------------------------------------------------------------------------------------- edits
def refer(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """A definite description that fits only this thing: by shape, by color and shape, or with its place."""
    same_shape = [t for t in scene.things if t.shape == thing.shape]
    shape = pick(rng, SHAPE_WORDS[thing.shape])
    if len(same_shape) == 1 and rng.random() < 0.6:
        return f"the {shape}"
    text = f"the {pick(rng, COLOR_WORDS[thing.color])} {shape}"
    if sum(t.color == thing.color for t in same_shape) == 1:
        return text
    return f"{text} {pick(rng, PLACE_WORDS[thing.place])}"


def edit_text(scene: Scene, edit: Edit, rng: np.random.Generator) -> str:
    """Words for the change that leads from ``scene`` to ``edit.scene``."""
    lead = pick(rng, ("The same, but ", "The same picture, but ", "Same scene, but "))
    return f"{lead}{_change(scene, edit, rng)}."


def _change(scene: Scene, edit: Edit, rng: np.random.Generator) -> str:
    if edit.kind == "tint":
        return f"the background is {pick(rng, TINT_WORDS[edit.scene.tint])}"
    if edit.kind == "texture":
        return f"the background is {pick(rng, TEXTURE_WORDS[edit.scene.texture])}"
    if edit.before is None:
        assert edit.after is not None
        return f"with {_article(phrase(edit.after, rng))} {pick(rng, PLACE_WORDS[edit.after.place])}"
    who = refer(scene, edit.before, rng)
    if edit.after is None:
        return f"without {who}" if rng.random() < 0.5 else f"{who} is gone"
    return {
        "color": f"{who} is {pick(rng, COLOR_WORDS[edit.after.color])}",
        "shape": f"{who} is {_article(pick(rng, SHAPE_WORDS[edit.after.shape]))}",
        "size": f"{who} is {pick(rng, SIZE_WORDS[edit.after.size])}",
        "place": f"{who} is {pick(rng, PLACE_WORDS[edit.after.place])}",
    }[edit.kind]


# ------------------------------------------------------------------------------------ questions, single words
def one_words(scene: Scene) -> list[str]:
    """Single words that are true of the scene: shapes, colors, sizes, compass places, count, tint and
    texture.
    """
    words = [NUMBERS[len(scene.things) - 1], scene.tint, scene.texture]
    for thing in scene.things:
        words += [thing.shape, thing.color, COMPASS[thing.place], thing.size]
    return words


def question(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question:
    """A random question about the scene; where ``kind`` has no unique answer here, the count is asked
    instead.
    """
    kind = pick(rng, QUESTION_KINDS) if kind is None else kind
    if kind not in QUESTION_KINDS:
        raise UsageError(
            f"There is no question kind '{kind}'.", do=f"Use one of: {', '.join(QUESTION_KINDS)}."
        )
    thing = pick(rng, scene.things)
    unique_shape = sum(t.shape == thing.shape for t in scene.things) == 1
    unique_color = sum(t.color == thing.color for t in scene.things) == 1
    if kind == "exists":
        return _exists(scene, thing, rng)
    if kind == "relation" and len(scene.things) > 1:
        return _relation_question(scene, rng)
    shape, color = pick(rng, SHAPE_WORDS[thing.shape]), pick(rng, COLOR_WORDS[thing.color])
    if kind == "color" and unique_shape:
        return Question(kind, f"What color is the {shape}?", thing.color)
    if kind == "shape" and unique_color:
        return Question(kind, f"What shape is the {color} object?", thing.shape)
    who = _unplaced(scene, thing, rng)
    if kind == "place" and who:
        return Question(kind, f"Where is {who}?", PLACE_NAMES[thing.place])
    if kind == "size" and who:
        return Question(kind, f"How large is {who}?", thing.size)
    if kind == "at":
        answer = f"{thing.color} {thing.shape}"
        return Question(kind, f"What is {pick(rng, PLACE_WORDS[thing.place])}?", answer)
    if kind == "tint":
        return Question(kind, "What color is the background?", scene.tint)
    if kind == "texture":
        return Question(kind, "What texture is the background?", scene.texture)
    return Question("count", "How many objects are there?", NUMBERS[len(scene.things) - 1])


def _unplaced(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """A definite description without the place, or '' if looks do not single the thing out."""
    same_shape = [t for t in scene.things if t.shape == thing.shape]
    if len(same_shape) == 1:
        return f"the {pick(rng, SHAPE_WORDS[thing.shape])}"
    if sum(t.color == thing.color for t in same_shape) == 1:
        return f"the {pick(rng, COLOR_WORDS[thing.color])} {pick(rng, SHAPE_WORDS[thing.shape])}"
    return ""


def _exists(scene: Scene, thing: Thing, rng: np.random.Generator) -> Question:
    """``Is there a red circle?``; for ``no`` one attribute of an object of the scene is changed."""
    wanted = rng.random() < 0.5
    placed = rng.random() < 0.4
    while not wanted:
        kind = pick(rng, ("color", "shape", "place") if placed else ("color", "shape"))
        edit = random_edit(rng, scene, (kind,))
        assert edit.after is not None
        if not any(
            t.color == edit.after.color
            and t.shape == edit.after.shape
            and (not placed or t.place == edit.after.place)
            for t in scene.things
        ):
            thing = edit.after
            break
    where = f" {pick(rng, PLACE_WORDS[thing.place])}" if placed else ""
    return Question(
        "exists", f"Is there {_article(phrase(thing, rng, False))}{where}?", "yes" if wanted else "no"
    )


def _relation_question(scene: Scene, rng: np.random.Generator) -> Question:
    first, second = _shuffled(rng, scene.things)[:2]
    wanted = rng.random() < 0.5
    statement = relation(first, second, rng, true=wanted)
    if not wanted and consistent(statement, scene):
        # Two things with the same looks can make a false statement true of the pair swapped.
        return _exists(scene, first, rng)
    return Question("relation", f"Is {statement.replace(' is ', ' ', 1)}?", "yes" if wanted else "no")


def contradiction(scene: Scene, rng: np.random.Generator, style: str = "short") -> tuple[str, Scene]:
    """A caption with one thing wrong, and the scene that it is true of (one edit away from ``scene``)."""
    while True:
        changed = random_edit(rng, scene).scene
        text = caption(changed, rng, style)
        if not consistent(text, scene):
            return text, changed
