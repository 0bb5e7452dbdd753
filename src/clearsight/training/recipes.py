"""Recipes of published trainings, as data (`recipes.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from clearsight.registry import Registry


@dataclass(frozen=True)
class TrainRecipe:
    """One published training.

    Attributes:
        source: what its numbers are from.
        model: what it was made for.
        mine: flags of `clearsight mine` for its clusters.
        pairs, sets: what it was trained on.
        settings: fields of `TrainSettings`.
    """

    source: str
    model: str
    mine: str
    pairs: int
    sets: int
    settings: Mapping[str, Any]


RECIPES: Registry[TrainRecipe] = Registry("train_recipe")
for _name, _table in tomllib.loads(
    files(__package__).joinpath("recipes.toml").read_text(encoding="utf-8")
).items():
    RECIPES.add(_name, TrainRecipe(**_table))
