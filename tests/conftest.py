"""Fixtures that rooms share; its place also makes `families` importable from every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache_of_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Parsed tables go to a folder of this run, never to the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARSIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> the folder of its tiny random model (`families.build.BUILDERS`), built once."""
    from families.build import BUILDERS

    @cache
    def build(family: str) -> Path:
        return BUILDERS[family](tmp_path_factory.mktemp(family))

    return build
