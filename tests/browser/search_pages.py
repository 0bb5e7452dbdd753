"""How the tests of the search page open it, and what all of them ask of it: no other origin, no error."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from search_server import SearchServer

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
CARDS = "#view-search .grid > li > a"
EXPECTED = (
    "Failed to load resource: the server responded with a status of",
    "Failed to load resource: net::ERR_FAILED",
)


def picture(colour: str = "red", edge: int = 48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (edge, edge), colour).save(out, "PNG")
    return out.getvalue()


class Opener:
    """Opens the page under options of a context and an address; remembers what was said and asked for."""

    def __init__(self, browser: Any, server: SearchServer) -> None:
        self.browser, self.server = browser, server
        self.contexts: list[Any] = []
        self.said: list[str] = []

    def __call__(self, address: str = "", *, ready: str | None = None, **options: Any) -> Any:
        context = self.browser.new_context(**({"viewport": DESKTOP, "reduced_motion": "reduce"} | options))
        context.set_default_timeout(30_000)  # a busy machine draws slowly
        self.contexts.append(context)
        page = context.new_page()
        page.on(
            "console", lambda message: message.text.startswith(EXPECTED) or self.said.append(message.text)
        )
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", self.look)
        page.goto(self.server.url + address)
        if ready is not None:
            page.wait_for_selector(ready)
        return page

    def look(self, request: Any) -> None:
        if not request.url.startswith((self.server.url, "data:", f"blob:{self.server.url}")):
            self.said.append(request.url)

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        assert self.said == [], self.said


@pytest.fixture(scope="module")
def server() -> Iterator[SearchServer]:
    server = SearchServer(2500)
    yield server
    server.close()


@pytest.fixture
def opened(drawing_chromium: Any, server: SearchServer) -> Iterator[Opener]:
    opener = Opener(drawing_chromium, server)
    server.faults.clear()
    server.info.clear()
    server.seen.clear()
    server.asked.clear()
    yield opener
    server.faults.clear()
    opener.close()


@pytest.fixture
def elsewhere(drawing_chromium: Any) -> Iterator[Any]:
    """Opens the page of a server of one's own."""
    pairs: list[tuple[Opener, SearchServer]] = []

    def open_server(
        n: int, address: str = "", *, server: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        own = SearchServer(n, **(server or {}))
        opener = Opener(drawing_chromium, own)
        pairs.append((opener, own))
        return opener(address, **options)

    yield open_server
    for opener, own in pairs:
        opener.close()
        own.close()


GIVE = """([bytes, name, type, how]) => {
  const file = new File([new Uint8Array(bytes)], name, {type});
  const data = new DataTransfer();
  data.items.add(file);
  if (how === 'paste') {
    const options = {clipboardData: data, bubbles: true, cancelable: true};
    document.dispatchEvent(new ClipboardEvent('paste', options));
  } else {
    for (const kind of ['dragenter', 'dragover', 'drop'])
      document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}"""


def until(page: Any, expression: str, seconds: float = 30.0) -> None:
    """Waits for an expression to be true; asked from outside, for the page's policy forbids `eval`."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


def give(page: Any, data: bytes, how: str, *, name: str = "mine.png", kind: str = "image/png") -> None:
    """A file dropped on the page, or pasted."""
    page.evaluate(GIVE, [list(data), name, kind, how])
