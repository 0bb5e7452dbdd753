"""The vocabulary of the procedural world: every name of :mod:`clearsight.data.scenes` with its synonyms."""

from __future__ import annotations

from clearsight.data.scenes import COLORS, SHAPES

COLOR_WORDS = {name: (name,) for name in COLORS} | {
    "red": ("red", "scarlet"),
    "yellow": ("yellow", "golden"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
}
SHAPE_WORDS = {name: (name,) for name in SHAPES} | {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
TINT_WORDS = {
    "white": ("white", "snowy"),
    "gray": ("gray", "ashen"),
    "cream": ("cream", "beige"),
    "mint": ("mint",),
    "lilac": ("lilac", "lavender"),
}
TEXTURE_WORDS = {
    "plain": ("plain", "smooth"),
    "striped": ("striped", "lined"),
    "checkered": ("checkered",),
    "dotted": ("dotted", "spotted"),
    "gridded": ("gridded", "netted"),
}
PLACE_WORDS = (
    ("in the top left", "in the upper left corner", "at the top left"),
    ("at the top", "at the top center", "in the upper middle"),
    ("in the top right", "in the upper right corner", "at the top right"),
    ("on the left", "at the left edge", "on the left side"),
    ("in the center", "in the middle", "at the center"),
    ("on the right", "at the right edge", "on the right side"),
    ("in the bottom left", "in the lower left corner", "at the bottom left"),
    ("at the bottom", "at the bottom center", "in the lower middle"),
    ("in the bottom right", "in the lower right corner", "at the bottom right"),
)
PLACE_NAMES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
COMPASS = ("northwest", "north", "northeast", "west", "middle", "east", "southwest", "south", "southeast")
"""One word for each cell, used in one-word summaries."""
NUMBERS = ("one", "two", "three", "four")
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
