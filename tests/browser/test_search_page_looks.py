"""How the search page looks and is reached: widths, schemes, keyboard, names, contrasts (axe), no shifts."""

from __future__ import annotations

import pytest
from search_pages import CARDS, DESKTOP, PHONE, Opener, elsewhere, opened, server, until
from search_server import SearchServer

__all__ = ["elsewhere", "opened", "server"]  # fixtures
pytestmark = pytest.mark.browser

STATES = {
    "start": ("", CARDS),
    "side by side": ("?q=ring&show=both", ".columns .card img"),
    "explained, filtered": ("?q=ring&explain=1&rerank=1&where=year+%3E+1990", CARDS),
    "wrong filter": ("?q=ring&where=year", ".notice"),
    "nothing fits": ("?q=ring&where=year+%3E+3000", ".notice"),
    "lost picture": ("?image=00", ".notice"),
    "item": ("?q=ring&explain=1&item=photos%2F000010.jpg", "dialog .alike img"),
    "broken": ("?q=ring&item=photos%2F000013.jpg", "dialog .missing"),
    "map": ("?view=map&q=ring", ".beside li"),
    "index": ("?view=index", ".state table"),
}


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_axe_finds_nothing_in_any_state(opened: Opener, size: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(color_scheme=scheme, viewport={"desktop": DESKTOP, "phone": PHONE}[size])
    found = []
    for name, (address, ready) in STATES.items():
        page.goto(opened.server.url + address)
        page.wait_for_selector(ready)
        page.wait_for_timeout(100)
        for violation in Axe().run(page).response["violations"]:
            places = [node["html"][:120] for node in violation["nodes"][:2]]
            found.append((name, violation["id"], violation["help"], places))
    assert found == []


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_width_scrolls_sideways(opened: Opener, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    for name, (address, ready) in STATES.items():
        page.goto(opened.server.url + address)
        page.wait_for_selector(ready)
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        wide = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getClientRects().length &&"
            " e.getBoundingClientRect().right > innerWidth + 1 &&"
            " !e.closest('.scroll, pre, svg, .hidden, .skip, .progress'))"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == [], name


def test_tab_leads_through_the_page_in_the_order_it_is_read(opened: Opener) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.evaluate("document.activeElement.blur()")
    said = []
    for _ in range(14):
        page.keyboard.press("Tab")
        said.append(
            page.evaluate(
                "(() => { const e = document.activeElement;"
                " return e.getAttribute('aria-label') || e.id || e.value || e.textContent.trim(); })()"
            )
        )
    assert said[:4] == ["Skip to the results", "Clearsight", "Search", "Map"]
    order = ["Index", "Colours: as the system", "words"]
    assert said[4:7] == order
    assert said[7].startswith("Search by a picture")
    assert said[8:10] == ["Search", "repaired"]
    assert said[10:12] == ["narrow", "kinds"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "card"
    page.keyboard.press("Tab")
    assert page.evaluate("!document.activeElement.closest('.grid')")  # one stop for all cards


def test_the_keyboard_searches_walks_opens_and_comes_back(opened: Opener) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("star")
    assert page.input_value("#words") == "star"  # what was there was selected
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('star')")
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.parentElement.getAttribute('aria-posinset')"
    assert page.evaluate(focused) == "1"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "2"
    page.keyboard.press("ArrowDown")
    below = int(page.evaluate(focused))
    assert below == 2 + page.evaluate(
        "(() => { const top = [...document.querySelectorAll('.grid > li')]"
        ".map(e => e.getBoundingClientRect().top); return top.filter(t => t === top[0]).length; })()"
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('.bar p').textContent.startsWith('Place {below + 1} ')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    until(page, f"{focused} === '{below + 1}'")  # where one has come to
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")


def test_focus_is_seen(opened: Opener) -> None:
    page = opened("?q=ring", ready=CARDS)
    page.focus("#words")
    page.keyboard.press("Tab")
    for selector in ("#pick", ".go", ".switch input:checked + span", "#narrow", "#kinds"):
        ring = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).outlineStyle")
        assert ring == "solid", selector
        page.keyboard.press("Tab")


def test_a_chosen_scheme_stays(opened: Opener) -> None:
    page = opened(color_scheme="light", ready=CARDS)
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    assert page.inner_text("#theme") == "Light"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(19, 23, 26)"
    page.reload()
    assert page.evaluate(paper) == "rgb(19, 23, 26)"
    assert page.get_attribute("#theme", "aria-label") == "Colours: dark"
    page.click("#theme")
    assert page.evaluate(paper) == light


def test_nothing_shifts_while_results_arrive(opened: Opener) -> None:
    page = opened(ready=CARDS)
    page.add_init_script(
        "window.shifts = []; new PerformanceObserver(list => { for (const e of list.getEntries())"
        " if (!e.hadRecentInput) shifts.push(e.value); })"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    for address in ("?q=ring", "", "?q=ring&show=both"):
        page.goto(opened.server.url + address)
        page.wait_for_selector(CARDS)
        page.wait_for_timeout(300)
        assert sum(page.evaluate("shifts")) < 0.05, address


def test_results_are_announced_and_cards_say_their_place(opened: Opener, server: SearchServer) -> None:
    page = opened("?q=ring", ready=CARDS)
    until(page, "document.querySelector('#voice').textContent.startsWith('60 results for “ring”')")
    item = page.locator(".grid > li").first
    assert item.get_attribute("aria-posinset") == "1"
    assert item.get_attribute("aria-setsize") == "2500"
    assert "score 0.620" in page.locator(CARDS).first.text_content()
