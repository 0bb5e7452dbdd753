"""A procedural world of 64x64 scenes: what a scene is, how it is drawn, how it is edited.

A scene holds one to four objects on a 3x3 grid of cells (at most one object a cell) over a tinted, textured
background. Everything is pure: randomness is a :class:`numpy.random.Generator` given by the caller. The words
for scenes live in :mod:`clearsight.data.scenes_text`.

The two-pixel bevelled frame is part of the world: a vision tower with only relative positions cannot know
absolute place on a plain background, and with the frame it can.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from clearsight.errors import DataError, UsageError

T = TypeVar("T")
Split: TypeAlias = Literal["train", "test", "spare"]

SIDE = 64
"""Width and height of a drawn scene in pixels."""
FRAME = 2
"""Width of the frame in pixels."""
CELL = (SIDE - 2 * FRAME) // 3
"""Width of a cell of the 3x3 grid in pixels."""
MAX_THINGS = 4

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart")
COLORS = {
    "red": (214, 30, 38),
    "orange": (248, 134, 20),
    "yellow": (240, 208, 0),
    "green": (26, 142, 52),
    "cyan": (0, 184, 200),
    "blue": (28, 66, 206),
    "purple": (120, 34, 158),
    "pink": (248, 110, 176),
    "brown": (120, 70, 28),
    "black": (16, 16, 16),
}
SIZES = {"small": 5.5, "large": 9.0}
"""Size name -> radius in pixels."""
PLACES = 9
"""Number of cells, counted row by row from the top left."""
TINTS = {
    "white": (246, 246, 246),
    "gray": (172, 172, 176),
    "cream": (246, 232, 186),
    "mint": (186, 230, 202),
    "lilac": (214, 198, 240),
}
TEXTURES = ("plain", "striped", "checkered", "dotted", "gridded")
COUNT_WEIGHTS = (0.16, 0.26, 0.29, 0.29)
"""Share of scenes with one, two, three and four objects."""
HELD_OUT_SHARE = 10
"""One scene in this many is held out: it never occurs in training."""


@dataclass(frozen=True, order=True)
class Thing:
    """One object: ``place`` is a cell 0..8 counted row by row, the rest are names of this module."""

    place: int
    shape: str
    color: str
    size: str

    @property
    def row(self) -> int:
        """Row of the cell, 0 (top) to 2."""
        return self.place // 3

    @property
    def column(self) -> int:
        """Column of the cell, 0 (left) to 2."""
        return self.place % 3


@dataclass(frozen=True)
class Scene:
    """One to four things sorted by place, over a background of one tint and one texture."""

    things: tuple[Thing, ...]
    tint: str
    texture: str

    @property
    def key(self) -> str:
        """Canonical text of the scene: equal scenes have equal keys."""
        things = ";".join(f"{t.place}{t.shape},{t.color},{t.size}" for t in self.things)
        return f"{things}|{self.tint}|{self.texture}"

    @property
    def code(self) -> str:
        """A short name with which the scene can be made again: four digits a thing, then tint and texture."""
        things = "-".join(
            f"{t.place}{SHAPES.index(t.shape)}{list(COLORS).index(t.color)}{list(SIZES).index(t.size)}"
            for t in self.things
        )
        return f"{things}-{list(TINTS).index(self.tint)}{TEXTURES.index(self.texture)}"

    @classmethod
    def from_code(cls, code: str) -> Scene:
        """The scene of a :attr:`code`.

        Raises:
            DataError: not a code of a scene.
        """
        try:
            *things, ground = [[int(digit) for digit in part] for part in code.split("-")]
            tint, texture = ground
            scene = cls(
                tuple(
                    Thing(place, SHAPES[shape], tuple(COLORS)[color], tuple(SIZES)[size])
                    for place, shape, color, size in things
                ),
                tuple(TINTS)[tint],
                TEXTURES[texture],
            )
        except (ValueError, IndexError):
            raise DataError("This is not the code of a scene.", where=code) from None
        return scene

    @property
    def split(self) -> Split:
        """``train`` for nine tenths of all scenes; ``test`` and ``spare`` share the tenth that is never
        trained on.

        Decided by a hash of the key, for ever.
        """
        digest = int.from_bytes(hashlib.blake2b(self.key.encode(), digest_size=4).digest(), "big")
        if digest % HELD_OUT_SHARE:
            return "train"
        return "spare" if digest // HELD_OUT_SHARE % 2 else "test"

    @property
    def held_out(self) -> bool:
        """Whether the scene is never trained on."""
        return self.split != "train"


@dataclass(frozen=True)
class Edit:
    """One change of a scene. ``kind`` is one of :data:`EDIT_KINDS`; ``before``/``after`` are the thing
    concerned.
    """

    kind: str
    scene: Scene
    before: Thing | None = None
    after: Thing | None = None


EDIT_KINDS = ("color", "shape", "size", "place", "remove", "add", "tint", "texture")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items, uniformly."""
    return items[int(rng.random() * len(items))]


def other(rng: np.random.Generator, items: Sequence[T], not_this: T) -> T:
    """One of the items that is not ``not_this``, uniformly."""
    return pick(rng, [item for item in items if item != not_this])


def random_thing(rng: np.random.Generator, place: int) -> Thing:
    """A thing of random looks in the given cell."""
    return Thing(place, pick(rng, SHAPES), pick(rng, tuple(COLORS)), pick(rng, tuple(SIZES)))


def random_scene(rng: np.random.Generator, split: Split | None = None) -> Scene:
    """A random scene, of the given split where there is one."""
    while True:
        draw_count = rng.random()
        count = 1 + sum(draw_count >= edge for edge in np.cumsum(COUNT_WEIGHTS)[:-1].tolist())
        places = sorted(rng.permutation(PLACES)[:count].tolist())
        things = tuple(random_thing(rng, place) for place in places)
        scene = Scene(things, pick(rng, tuple(TINTS)), pick(rng, TEXTURES))
        if split is None or scene.split == split:
            return scene


def random_edit(rng: np.random.Generator, scene: Scene, kinds: Sequence[str] = EDIT_KINDS) -> Edit:
    """A random change of the scene: the result differs from it in exactly one attribute or object."""
    possible = [
        k
        for k in kinds
        if not (k == "remove" and len(scene.things) == 1)
        and not (k == "add" and len(scene.things) == MAX_THINGS)
    ]
    if not possible:
        raise UsageError(
            f"None of the edits {tuple(kinds)} is possible here.", do=f"Allow more of {EDIT_KINDS}."
        )
    kind = pick(rng, possible)
    if kind == "tint":
        return Edit(kind, replace(scene, tint=other(rng, tuple(TINTS), scene.tint)))
    if kind == "texture":
        return Edit(kind, replace(scene, texture=other(rng, TEXTURES, scene.texture)))
    free = [place for place in range(PLACES) if all(t.place != place for t in scene.things)]
    if kind == "add":
        after = random_thing(rng, pick(rng, free))
        return Edit(kind, replace(scene, things=tuple(sorted((*scene.things, after)))), after=after)
    before = pick(rng, scene.things)
    rest = [thing for thing in scene.things if thing is not before]
    if kind == "remove":
        return Edit(kind, replace(scene, things=tuple(rest)), before=before)
    after = {
        "color": lambda: replace(before, color=other(rng, tuple(COLORS), before.color)),
        "shape": lambda: replace(before, shape=other(rng, SHAPES, before.shape)),
        "size": lambda: replace(before, size=other(rng, tuple(SIZES), before.size)),
        "place": lambda: replace(before, place=pick(rng, free)),
    }[kind]()
    return Edit(kind, replace(scene, things=tuple(sorted((*rest, after)))), before=before, after=after)


# ---------------------------------------------------------------------------------------------------- drawing
def draw(scene: Scene, rng: np.random.Generator | None = None) -> Image.Image:
    """The scene as a 64x64 RGB image; with a generator every object is shifted by a pixel at most."""
    image = _background(scene.tint, scene.texture).copy()
    for thing in scene.things:
        dx, dy = (0, 0) if rng is None else (int(rng.random() * 3) - 1, int(rng.random() * 3) - 1)
        mask = _mask(thing.shape, thing.size)
        left = FRAME + CELL * thing.column + dx
        top = FRAME + CELL * thing.row + dy
        image.paste(COLORS[thing.color], (left, top, left + CELL, top + CELL), mask)
    return image


@lru_cache(maxsize=64)
def _background(tint: str, texture: str) -> Image.Image:
    """Background and frame: light at the top and left, dark at the bottom and right."""
    base = np.array(TINTS[tint], dtype=np.float64)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    dark = {
        "plain": np.zeros((SIDE, SIDE), dtype=bool),
        "striped": (y // 2) % 3 == 0,
        "checkered": (x // 4 + y // 4) % 2 == 0,
        "dotted": (x % 6 < 2) & (y % 6 < 2),
        "gridded": (x % 7 == 0) | (y % 7 == 0),
    }[texture]
    pixels = np.where(dark[..., None], base * 0.84, base)
    pixels[:, :FRAME] = (255, 255, 255)
    pixels[:FRAME, :] = (235, 235, 255)
    pixels[:, -FRAME:] = (70, 60, 60)
    pixels[-FRAME:, :] = (40, 50, 60)
    return Image.fromarray(pixels.round().astype(np.uint8))


@lru_cache(maxsize=32)
def _mask(shape: str, size: str) -> Image.Image:
    """Coverage 0..255 of the shape in a cell, drawn eight times larger and averaged (soft edges)."""
    scale = 8
    canvas = Image.new("L", (CELL * scale, CELL * scale), 0)
    radius, middle = SIZES[size] * scale, CELL * scale / 2
    _OUTLINES[shape](ImageDraw.Draw(canvas), middle, radius)
    return canvas.resize((CELL, CELL), Image.Resampling.BOX)


def _polar(pen: ImageDraw.ImageDraw, m: float, radii: Sequence[float]) -> None:
    """A polygon with its corners at equal angles, the first one on top."""
    step = 2 * math.pi / len(radii)
    pen.polygon(
        [(m + r * math.sin(i * step), m - r * math.cos(i * step)) for i, r in enumerate(radii)], fill=255
    )


def _circle(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    pen.ellipse((m - r, m - r, m + r, m + r), fill=255)


def _square(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    pen.rectangle((m - 0.86 * r, m - 0.86 * r, m + 0.86 * r, m + 0.86 * r), fill=255)


def _triangle(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    pen.polygon([(m, m - r), (m + r, m + 0.8 * r), (m - r, m + 0.8 * r)], fill=255)


def _star(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    _polar(pen, m, [1.08 * r, 0.42 * r] * 5)


def _diamond(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    pen.polygon([(m, m - 1.05 * r), (m + 0.7 * r, m), (m, m + 1.05 * r), (m - 0.7 * r, m)], fill=255)


def _cross(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    arm = 0.32 * r
    pen.rectangle((m - r, m - arm, m + r, m + arm), fill=255)
    pen.rectangle((m - arm, m - r, m + arm, m + r), fill=255)


def _ring(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    _circle(pen, m, r)
    hole = 0.52 * r
    pen.ellipse((m - hole, m - hole, m + hole, m + hole), fill=0)


def _heart(pen: ImageDraw.ImageDraw, m: float, r: float) -> None:
    lobe = 0.54 * r
    for side in (-1, 1):
        cx, cy = m + side * 0.46 * r, m - 0.38 * r
        pen.ellipse((cx - lobe, cy - lobe, cx + lobe, cy + lobe), fill=255)
    pen.polygon([(m - 0.95 * r, m - 0.15 * r), (m + 0.95 * r, m - 0.15 * r), (m, m + r)], fill=255)


_OUTLINES: dict[str, Callable[[ImageDraw.ImageDraw, float, float], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}
