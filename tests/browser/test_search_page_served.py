"""The search page before the server it belongs to, the shipped model and a small index: one walk through all.

The token, the page's policy and the server's own refusals are the real ones here.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from search_pages import CARDS, Opener, give, picture, until

from serving import ODD, ROWS, tiny_service

pytestmark = pytest.mark.browser
TOKEN = "a token of one's own"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    import uvicorn

    from clearsight.serve.app import create_app

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(tiny_service, token=TOKEN), log_config=None, access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)
    listening.close()


@pytest.fixture
def opened(drawing_chromium: Any, url: str) -> Iterator[Opener]:
    opener = Opener(drawing_chromium, SimpleNamespace(url=url))
    yield opener
    opener.close()


def test_a_walk_through_the_real_server(opened: Opener) -> None:
    page = opened()
    page.set_default_timeout(60_000)  # the model is being loaded
    page.wait_for_selector(".notice input[type=password]")
    page.fill(".notice input[type=password]", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{CARDS} img")
    assert f"{ROWS} items" in page.inner_text("#collection")
    until(page, "[...document.querySelectorAll('.grid img')].some(e => e.naturalWidth > 0)", 30)

    page.fill("#words", "a red ring")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('a red ring')")
    page.wait_for_selector(f".more:has-text('These are all {ROWS}.')")
    page.click("#spaces label:has-text('Side by side')")
    page.wait_for_selector(".columns .move")
    assert page.locator(".columns section").count() == 2

    page.click("#narrow")
    page.fill("#where", "year > ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#where-fault:visible")
    page.fill("#where", "year = 2030 and place = 'Bern'")
    page.keyboard.press("Enter")
    page.wait_for_selector(".more:has-text('This is the only item.')")
    page.locator(CARDS).first.click()
    page.wait_for_selector("dialog .alike a")
    assert ODD in page.inner_text(".facts")
    assert "Bern" in page.inner_text(".facts")
    until(page, "document.querySelector('dialog .shot img').naturalWidth === 64", 30)
    page.keyboard.press("Escape")

    page.goto(opened.server.url)
    page.wait_for_selector(CARDS)
    give(page, picture("blue"), "drop")
    page.wait_for_selector("h1:has-text('Like your picture')")
    page.wait_for_selector(CARDS)

    page.goto(f"{opened.server.url}?view=map&q=ring")
    page.wait_for_selector(".beside li")
    page.goto(f"{opened.server.url}?view=index")
    page.wait_for_selector(".state table")
    assert "Repair: Centred" in page.inner_text("main")
    page.click("text=the API")
    page.wait_for_selector("h1:has-text('Clearsight')")
