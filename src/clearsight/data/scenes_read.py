"""Reads texts of the procedural world: what a text states, and whether that is true of a scene.

A text with words outside the grammar counts as not consistent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from clearsight.data.scenes import Scene, Thing
from clearsight.data.scenes_words import (
    COLOR_WORDS,
    NUMBERS,
    PLACE_NAMES,
    PLACE_WORDS,
    RELATIONS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    TINT_WORDS,
)


def holds(name: str, first: Thing, second: Thing) -> bool:
    """Whether ``first`` is left of, right of, above or below ``second`` (strictly, by column or row)."""
    return {
        "left": first.column < second.column,
        "right": first.column > second.column,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }[name]


def _lookup(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: name for name, words in table.items() for word in words}


_COLOR, _SHAPE, _SIZE = _lookup(COLOR_WORDS), _lookup(SHAPE_WORDS), _lookup(SIZE_WORDS)
_TINT, _TEXTURE = _lookup(TINT_WORDS), _lookup(TEXTURE_WORDS)
_PLACE = {words: place for place, options in enumerate(PLACE_WORDS) for words in options}
_NAMED = {name: place for place, name in enumerate(PLACE_NAMES)}
_RELATION = _lookup(RELATIONS)
_FILLER = frozenset(
    [
        "a",
        "an",
        "and",
        "the",
        "there",
        "is",
        "are",
        "on",
        "against",
        "with",
        "background",
        "backdrop",
        "object",
        "objects",
        "shape",
        "shapes",
    ]
)


def _any(words: Sequence[str]) -> str:
    """A pattern for any of the words, longest first: 'at the top left' is not read as 'at the top'."""
    return "(?:" + "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True)) + ")"


_LOOKS = rf"(?:{_any(tuple(_SIZE))} )?{_any(tuple(_COLOR))} {_any(tuple(_SHAPE))}"
_RELATION_RE = re.compile(rf"\bthe ({_LOOKS}) is ({_any(tuple(_RELATION))}) the ({_LOOKS})\b")
_COUNT_RE = re.compile(rf"\b({_any(NUMBERS)}) (?:object|shape)s?\b")
_THING_RE = re.compile(
    rf"(?:\b({_any(PLACE_NAMES)}): an? )?\b({_LOOKS})\b(?:(?: is)? ({_any(tuple(_PLACE))})\b)?"
)
_BACKGROUND_RE = re.compile(rf"\b(?:{_any((*_TINT, *_TEXTURE))})\b")


@dataclass(frozen=True)
class Stated:
    """What a text says of one object; None where it says nothing."""

    color: str
    shape: str
    size: str | None = None
    place: int | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether the thing has every stated attribute."""
        return (
            self.color == thing.color
            and self.shape == thing.shape
            and self.size in (None, thing.size)
            and self.place in (None, thing.place)
        )


@dataclass(frozen=True)
class Reading:
    """All statements of a text. ``unread`` holds words outside the grammar."""

    things: tuple[Stated, ...]
    counts: tuple[int, ...]
    tints: tuple[str, ...]
    textures: tuple[str, ...]
    relations: tuple[tuple[Stated, str, Stated], ...]
    unread: tuple[str, ...]


def _stated(looks: str, place: int | None = None) -> Stated:
    words = looks.split()
    return Stated(_COLOR[words[-2]], _SHAPE[words[-1]], _SIZE[words[0]] if len(words) == 3 else None, place)


def read(text: str) -> Reading:
    """The statements of a text of this grammar."""
    rest = " ".join(text.lower().split())
    relations = tuple((_stated(a), _RELATION[name], _stated(b)) for a, name, b in _RELATION_RE.findall(rest))
    rest = _RELATION_RE.sub(" ", rest)
    counts = tuple(NUMBERS.index(word) + 1 for word in _COUNT_RE.findall(rest))
    rest = _COUNT_RE.sub(" ", rest)
    things = []
    for named, looks, placed in _THING_RE.findall(rest):
        things.append(_stated(looks, _NAMED[named] if named else _PLACE[placed] if placed else None))
    rest = _THING_RE.sub(" ", rest)
    words = _BACKGROUND_RE.findall(rest)
    unread = [w for w in re.findall(r"[^\s.,;:?!]+", _BACKGROUND_RE.sub(" ", rest)) if w not in _FILLER]
    return Reading(
        tuple(things),
        counts,
        tuple(_TINT[w] for w in words if w in _TINT),
        tuple(_TEXTURE[w] for w in words if w in _TEXTURE),
        relations,
        tuple(unread),
    )


def agrees(reading: Reading, scene: Scene) -> bool:
    """Whether every statement is true of the scene; objects named apart must be different things."""
    if reading.unread or any(count != len(scene.things) for count in reading.counts):
        return False
    if any(t != scene.tint for t in reading.tints) or any(t != scene.texture for t in reading.textures):
        return False
    if len(reading.things) > len(scene.things):
        return False
    for first, name, second in reading.relations:
        if not any(
            first.fits(a) and second.fits(b) and holds(name, a, b) for a, b in permutations(scene.things, 2)
        ):
            return False
    return any(
        all(stated.fits(thing) for stated, thing in zip(reading.things, chosen, strict=True))
        for chosen in permutations(scene.things, len(reading.things))
    )


def consistent(text: str, scene: Scene) -> bool:
    """Whether the text says something, all of it is grammar of this world, and every statement is true."""
    reading = read(text)
    says = reading.things or reading.counts or reading.tints or reading.textures or reading.relations
    return bool(says) and agrees(reading, scene)


def complete(text: str, scene: Scene) -> bool:
    """Whether a consistent text also names every object of the scene."""
    return consistent(text, scene) and len(read(text).things) == len(scene.things)


def ambiguous_share(texts: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Share (0..1) of texts that completely describe more than one scene of the gallery.

    Captions of this world name every object, so a scene with further objects is not counted as fitting.
    """
    gallery = {scene.key: scene for scene in scenes}
    by_look: dict[tuple[str, str], set[str]] = {}
    for key, scene in gallery.items():
        for thing in scene.things:
            by_look.setdefault((thing.color, thing.shape), set()).add(key)
    hits = 0
    for text in texts:
        reading = read(text)
        # Only scenes that hold every named look can fit; the whole check is run on these few.
        keys: set[str] = set(gallery)
        for stated in reading.things:
            keys &= by_look.get((stated.color, stated.shape), set())
        fitting = (gallery[key] for key in keys if len(gallery[key].things) == len(reading.things))
        hits += sum(agrees(reading, scene) for scene in fitting) > 1
    return hits / max(len(texts), 1)
