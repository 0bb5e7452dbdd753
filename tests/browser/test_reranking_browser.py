"""The reranking page in a headless Chromium: every width, both schemes, by keyboard, without a request.

Needs Chromium and the Python package playwright; runs by the marker `browser` alone, and without a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clearsight.report.reranking import render_reranking
from reranking_sample import sample_reranking

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "reranking.html"
    path.write_text(render_reranking(sample_reranking()), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium: Any, file: Path) -> Iterator[Any]:
    """Opens the page under options; at the end, nothing was said and nothing asked for."""
    contexts, said = [], []

    def open_page(**options: Any) -> Any:
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url),
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1280])
def test_no_width_scrolls_sideways(opened: Any, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    for details in page.locator("details").all():
        details.evaluate("d => { d.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *, header *')].filter(e => e.getClientRects().length"
        " && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, svg, .hidden'))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_the_keyboard_chooses_the_bars_and_reaches_every_section(opened: Any) -> None:
    page = opened()
    shown = "[...document.querySelectorAll('svg.bar')].filter(e => e.getClientRects().length).length"
    bars = page.evaluate(shown)
    assert bars > 0
    page.locator("#show-0").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#show-1").is_checked()
    assert page.evaluate(shown) == bars
    assert page.locator("svg.bar.show-0").first.is_hidden()
    assert page.locator("svg.bar.show-1").first.is_visible()
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        link.focus()
        page.keyboard.press("Enter")
        assert page.locator(f"section{target} h2").is_visible()
        assert page.evaluate(f"document.querySelector('{target}').getBoundingClientRect().top") < 900
    page.locator(".bias").focus()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Bias")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


def test_names_stay_where_the_table_of_biases_scrolls(opened: Any) -> None:
    page = opened(viewport={"width": 390, "height": 800})
    name = page.locator(".bias tbody tr:not(.group) th").first
    before = name.bounding_box()["x"]
    page.locator(".bias").evaluate("e => { e.scrollLeft = 200; }")
    assert page.locator(".bias").evaluate("e => e.scrollLeft") == 200
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_both_schemes(opened: Any, scheme: str) -> None:
    """WCAG asks a contrast of 4.5 of every text; bars have their figures beside them and need less."""
    page = opened(color_scheme=scheme)
    assert page.evaluate(CONTRASTS) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper.removeprefix("rgb(").removesuffix(")").split(",")) > 600) == (
        scheme == "light"
    )


CONTRASTS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => [.2126, .7152, .0722].reduce((sum, w, i) => sum + w * linear(rgb[i] / 255), 0);
  const ratio = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((p, q) => q - p);
    return (high + .05) / (low + .05);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const seen = e => e.getClientRects().length;
  const says = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const weak = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!seen(e) || !says(e)) continue;
    const style = getComputedStyle(e);
    if (ratio(parts(e.closest('svg') ? style.fill : style.color), behind(e)) < 4.5) weak.push(e.outerHTML);
  }
  for (const e of document.querySelectorAll('rect.base, rect.repaired'))
    if (seen(e) && ratio(parts(getComputedStyle(e).fill), behind(e)) < 2.5) weak.push(e.outerHTML);
  return weak.map(html => html.slice(0, 80));
}"""
