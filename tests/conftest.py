"""Fixtures that rooms share; its place also makes `families` importable from every test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> the folder of its tiny random model (`families.build.BUILDERS`), built once."""
    from families.build import BUILDERS

    @cache
    def build(family: str) -> Path:
        return BUILDERS[family](tmp_path_factory.mktemp(family))

    return build
