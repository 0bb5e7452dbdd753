"""The map and the state of the index on the search page, in a headless Chromium."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from search_pages import Opener, elsewhere, opened, server, until
from search_server import SearchServer

__all__ = ["elsewhere", "opened", "server"]  # fixtures
pytestmark = pytest.mark.browser

BLUE, ORANGE = (0x1F, 0x6C, 0xB0), (0xAD, 0x4F, 0x06)


def pixels(page: Any) -> np.ndarray[Any, Any]:
    page.wait_for_timeout(120)  # a frame or two
    data = page.locator("canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def near(image: np.ndarray[Any, Any], colour: tuple[int, int, int], far: int = 60) -> int:
    return int((np.abs(image - colour).sum(-1) < far).sum())


def place(page: Any, xy: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Where a point of the plane lies on the canvas before any zoom; as points.js has it."""
    box = page.locator("canvas").bounding_box()
    unit = 0.47 * min(box["width"], box["height"] * 1.4)
    sx, sy = min(box["width"] / 2 - 16, unit * 1.35), min(box["height"] / 2 - 16, unit)
    return box["width"] / 2 + float(xy[0]) * sx, box["height"] / 2 - float(xy[1]) * sy


def lonely(xy_N2: np.ndarray[Any, Any]) -> int:
    """The point that is farthest from its neighbours, away from the edges."""
    inner = np.flatnonzero(np.abs(xy_N2).max(1) < 0.85)[:1500]
    gap = ((xy_N2[inner, None] - xy_N2[None]) ** 2).sum(-1)
    return int(inner[np.partition(gap, 1, axis=1)[:, 1].argmax()])


def test_a_hundred_thousand_points_are_drawn_and_move_between_the_spaces(elsewhere: Any) -> None:
    page = elsewhere(100_000, "?view=map", ready="canvas")
    assert page.get_attribute("canvas", "aria-label") == "Map of 100,000 items"
    after = pixels(page)
    assert near(after, BLUE, 200) > 3000
    assert near(after, ORANGE, 200) > 500
    page.click("#spaces label:has-text('Before repair')")
    page.wait_for_selector("h1:has-text('Map before repair')")
    before = pixels(page)
    assert (np.abs(after - before).sum(-1) > 60).mean() > 0.02
    middle = before.shape[1] // 2
    assert near(before[:, :middle], BLUE, 200) > 5 * near(before[:, middle:], BLUE, 200)  # the gap
    page.click("#spaces label:has-text('Repaired')")
    assert (np.abs(after - pixels(page)).sum(-1) > 60).mean() < 0.001
    page.hover("canvas")
    page.mouse.wheel(0, -600)
    assert (np.abs(after - pixels(page)).sum(-1) > 60).mean() > 0.02
    page.click("[aria-label='Show all']")
    assert (np.abs(after - pixels(page)).sum(-1) > 60).mean() < 0.001


def test_motion_is_shown_unless_it_is_unwelcome(opened: Opener) -> None:
    """The share of the way between the spaces, as the drawing program was given it."""
    for motion, moves in (("reduce", False), ("no-preference", True)):
        page = opened(reduced_motion=motion)
        page.add_init_script(
            "window.ways = []; const gl = WebGL2RenderingContext.prototype, named = new Map();"
            "const place = gl.getUniformLocation, give = gl.uniform1f;"
            "gl.getUniformLocation = function (p, name) {"
            " const found = place.call(this, p, name); named.set(found, name); return found; };"
            "gl.uniform1f = function (where, value) {"
            " if (named.get(where) === 'mixed') ways.push(value); return give.call(this, where, value); };"
        )
        page.goto(f"{opened.server.url}?view=map")
        page.wait_for_selector("canvas")
        until(page, "ways.at(-1) === 1")
        page.click("#spaces label:has-text('Before repair')")
        until(page, "ways.at(-1) === 0")
        assert page.evaluate("ways.some(way => way > 0 && way < 1)") == moves


def test_a_point_is_named_and_opened_by_the_pointer(opened: Opener, server: SearchServer) -> None:
    page = opened("?view=map", ready="canvas")
    page.wait_for_timeout(200)
    i = lonely(server.world.repaired)
    x, y = place(page, server.world.repaired[i])
    page.hover("canvas", position={"x": x, "y": y})
    page.wait_for_selector(".tip:visible")
    hit = server.world.hit(i)
    assert (hit["text"] or hit["source"].split("/")[-1]) in page.inner_text(".tip")
    page.mouse.click(
        page.locator("canvas").bounding_box()["x"] + x, page.locator("canvas").bounding_box()["y"] + y
    )
    page.wait_for_selector("dialog[open]")
    assert hit["id"] in page.inner_text(".facts")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    page.mouse.move(x + 200, y + 200)
    page.mouse.down()
    page.mouse.move(x + 260, y + 200)
    page.mouse.up()
    assert page.locator("dialog").is_hidden()  # a drag opens nothing


def test_answers_are_lit_and_listed(opened: Opener, server: SearchServer) -> None:
    page = opened("?view=map", ready="canvas")
    assert "Search to light the answers" in page.inner_text(".beside")
    plain = pixels(page)
    page.fill("#words", "ring")
    page.keyboard.press("Enter")
    page.wait_for_selector(".beside li")
    hits = server.world.search({"text": "ring", "top": 60}, "repaired")["hits"]
    assert [a.get_attribute("data-id") for a in page.locator(".beside a").all()] == [
        hit["id"] for hit in hits[:50]
    ]
    assert page.inner_text(".beside h2") == "60 answers, “ring”"
    lit = pixels(page)
    ink = (0x1A, 0x20, 0x24)
    assert near(lit, ink) > near(plain, ink) + 200
    page.locator(".beside a").nth(1).focus()
    page.wait_for_selector(".tip:visible")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.click("dialog >> text=Show on the map")
    page.wait_for_selector("dialog", state="hidden")
    page.wait_for_selector(".tip:visible")


def test_the_map_is_walked_by_keyboard(opened: Opener) -> None:
    page = opened("?view=map", ready="canvas")
    page.wait_for_timeout(200)
    page.focus("canvas")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".tip:visible")
    first = page.inner_text(".tip")
    until(page, "document.querySelector('#voice').textContent.length > 5")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(300)
    assert page.inner_text(".tip") != first
    page.keyboard.press("+")
    assert page.locator(".tip").is_hidden()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".tip:visible")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")


def test_a_map_that_is_being_drawn_is_waited_for(opened: Opener, server: SearchServer) -> None:
    server.faults["map"] = (202, {"what": "The map is being drawn."}, {"Retry-After": "1"})
    page = opened("?view=map", ready=".notice")
    assert page.inner_text(".notice").count("The map is being drawn.") == 1
    page.wait_for_timeout(1500)  # it has been asked for again
    assert page.inner_text(".notice").count("The map is being drawn.") == 1
    server.faults.clear()
    page.wait_for_selector("canvas")


def test_without_webgl_the_rest_works(opened: Opener) -> None:
    page = opened(ready=".grid")
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(f"{opened.server.url}?view=map")
    page.wait_for_selector(".notice:has-text('WebGL2')")
    page.click("text=Go to the search")
    page.wait_for_selector("h1:has-text('What are you looking for?')")


def test_the_state_of_the_index_is_told_in_words(opened: Opener, server: SearchServer) -> None:
    page = opened("?view=index", ready=".state")
    text = page.inner_text("main")
    for said in (
        "2,500 items in holiday photos, embedded by tiny (prompt one_word, mean pooling, 256 numbers each).",
        "Repair: Self-aligned",
        "500 pictures that the model captioned",
        "refit it",
        "its order is exact",
        "clearsight index 'holiday photos' --refit",
        "12 MB",
    ):
        assert said in text, said
    row = page.locator("tr:has-text('Mean cosine')").inner_text().split()
    assert row[-3:] == ["0.931", "0.002", "lower"]
    assert page.locator("tr:has-text('Queries')").inner_text().endswith("yes: refit")
    page.click("summary")
    assert "0123456789ab" in page.inner_text(".tree")
    server.info["index"] = {}  # a server that tells less
    page = opened("?view=index", ready=".state")
    assert "2,500 items, embedded by tiny." in page.inner_text("main")
