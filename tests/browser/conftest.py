"""One headless Chromium for the tests of a page; it talks to nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DRAWING = (
    *(flag for flag in FLAGS if flag != "--disable-gpu"),
    "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader",
)  # fmt: skip
"""With WebGL2, drawn by the processor."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    yield from _launched(FLAGS)


@pytest.fixture(scope="module")
def drawing_chromium() -> Iterator[Any]:
    yield from _launched(DRAWING)


def _launched(flags: tuple[str, ...]) -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("There is no Chromium. On Debian: apt-get install chromium.")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail("The package playwright is missing. Run `make test-browser`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()
