"""The diagnosis page in a headless Chromium: what a person does with mouse, keyboard and finger.

Needs Chromium and the Python package playwright; runs by the marker `browser` alone, and without a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.report.data import Card
from clearsight.report.diagnosis import DiagnosisData, render_diagnosis
from diagnosis_sample import sample_diagnosis

pytestmark = pytest.mark.browser

CONCEPTS, SCENES, PAGE = 150, 40, 12


@pytest.fixture(scope="module")
def data() -> DiagnosisData:
    return sample_diagnosis(4, concepts=CONCEPTS, scenes=SCENES)


@pytest.fixture(scope="module")
def file(data: DiagnosisData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "diagnosis.html"
    path.write_text(render_diagnosis(data), encoding="utf-8")
    return path


class Watched:
    """A page with all that it printed, threw, and asked of the network."""

    def __init__(self, chromium: Any, file: Path, **options: Any) -> None:
        self.context = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(file.as_uri())

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.said.append(request.url)


@pytest.fixture
def watched(chromium: Any, file: Path) -> Iterator[Watched]:
    found = Watched(chromium, file)
    yield found
    found.context.close()
    assert found.said == []


def settle(page: Any) -> None:
    """Wait until what a scroll or a new size sets off has run: a scroll takes the tip away, as it should."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page: Any) -> list[int]:
    return [
        int(entry)
        for entry in page.eval_on_selector_all(".concept", "all => all.map(e => e.dataset.concept)")
    ]


def focused(page: Any) -> int:
    return int(page.evaluate("document.activeElement.dataset.concept ?? -1"))


def order(values_C: np.ndarray, *, down: bool) -> list[int]:
    """Concepts in the order of a score, the lower number first among equals, those without a score last."""
    key_C = np.where(np.isnan(values_C), np.inf, -values_C if down else values_C)
    return [int(c) for c in np.lexsort((np.arange(len(values_C)), key_C))]


def test_it_sorts_by_every_score_both_ways(watched: Watched, data: DiagnosisData) -> None:
    page = watched.page
    scores = data.models[0].concepts.scores()
    offered = page.eval_on_selector_all("#sort option", "all => all.map(e => e.value)")
    assert offered == list(scores)
    for name, values_C in scores.items():
        page.select_option("#sort", name)
        assert page.text_content("#order").endswith("highest first")
        assert shown(page) == order(values_C, down=True)[:PAGE], name
        page.click("#order")
        assert shown(page) == order(values_C, down=False)[:PAGE], name
        page.click("#order")
        sorted_row = page.locator(".concept .sorted").first
        assert sorted_row.get_attribute("data-score") == name


def test_the_figures_of_a_concept_are_its_own(watched: Watched, data: DiagnosisData) -> None:
    page, concepts = watched.page, data.models[0].concepts
    first = order(concepts.energy_C, down=True)[0]
    entry = page.locator(f'.concept[data-concept="{first}"]')
    row = entry.locator('[data-score="modality"]')
    assert float(row.locator(".value").text_content().replace("< ", "")) == pytest.approx(
        concepts.modality_C[first], abs=1e-3
    )
    assert entry.locator('[data-score="energy"] .rank').text_content() == "1st"
    wanted = [item for item in concepts.most.items_CE[first] if item >= 0]
    pictures, texts = [i for i in wanted if i < SCENES], [i - SCENES for i in wanted if i >= SCENES]
    most = entry.locator(".examples").first
    assert most.locator(".thumb").count() == len(pictures)
    assert [q.strip("“”") for q in most.locator("q").all_text_contents()] == [
        data.items[i + SCENES].text for i in texts
    ]
    for thumb, item in zip(most.locator(".thumb").all(), pictures, strict=True):
        assert thumb.get_attribute("aria-label") == f"Picture: {data.items[item + SCENES].text}"


def test_thumbnails_show_their_own_picture(watched: Watched, data: DiagnosisData) -> None:
    """The pixels on the screen are those of the picture that the data name."""
    import io

    from PIL import Image

    page = watched.page
    first = shown(page)[0]
    item = next(int(i) for i in data.models[0].concepts.most.items_CE[first] if 0 <= i < SCENES)
    thumb = page.locator(f'.concept[data-concept="{first}"] .thumb').first
    with Image.open(io.BytesIO(thumb.screenshot())) as drawn:
        seen = np.asarray(drawn.convert("RGB").resize((32, 32)), dtype=float)

    def away(card: Card) -> float:
        with Image.open(io.BytesIO(card.image)) as picture:
            return float(
                np.abs(seen - np.asarray(picture.convert("RGB").resize((32, 32)), dtype=float)).mean()
            )

    distances = [away(card) for card in data.items[:SCENES]]
    assert int(np.argmin(distances)) == item
    assert min(distances) < 12


def test_it_searches_words_numbers_and_sides(watched: Watched, data: DiagnosisData) -> None:
    page, concepts = watched.page, data.models[0].concepts
    texts = [data.items[SCENES + i % SCENES].text.lower() for i in range(2 * SCENES)]

    def fits(concept: int, *words: str) -> bool:
        items = [item for item in concepts.most.items_CE[concept] if item >= 0]
        found = [re.findall(r"[a-z0-9]+", texts[item]) for item in items]
        return any(all(any(t.startswith(w) for t in told) for w in words) for told in found)

    page.fill("#search", "Red  star")
    wanted = [c for c in order(concepts.energy_C, down=True) if fits(c, "red", "star")]
    assert 0 < len(wanted) < CONCEPTS
    assert shown(page) == wanted[:PAGE]
    assert page.text_content("#count") == f"{len(wanted)} of {CONCEPTS} concepts"
    marks = {mark.lower() for mark in page.locator("mark").all_text_contents()}
    assert marks <= {"red", "star"}
    assert page.locator(".hit .thumb, mark").count() > 0
    assert "checkered" in " ".join(texts)  # holds "red", but does not begin with it
    page.fill("#search", "kered")
    assert shown(page) == []
    page.fill("#search", "#17")
    assert shown(page) == [17]
    page.fill("#search", "#17 red")  # not a number alone: words, and no text holds "#17"
    assert shown(page) == []
    page.fill("#search", "zeb")  # begins the name of every third concept, and no text
    named = [c for c in order(concepts.energy_C, down=True) if c % 3 == 0]
    assert shown(page) == named[:PAGE]
    assert f"Concept {named[0]} zebra" in (page.locator(".concept h3").first.text_content() or "")
    page.fill("#search", "(no such [word")
    assert shown(page) == []
    assert page.text_content("#count") == f"0 of {CONCEPTS} concepts"
    page.fill("#search", "")
    page.select_option("#side", "text")
    by_energy = order(concepts.energy_C, down=True)
    assert shown(page) == [c for c in by_energy if concepts.modality_C[c] >= 0.75][:PAGE]
    page.select_option("#side", "silent")
    assert shown(page) == [c for c in by_energy if np.isnan(concepts.modality_C[c])][:PAGE]
    assert page.locator(".concept").first.locator(".examples").first.text_content().endswith("activates it.")


def test_pages_turn_and_other_models_follow(watched: Watched, data: DiagnosisData) -> None:
    page = watched.page
    whole = order(data.models[0].concepts.energy_C, down=True)
    previous, forward = (
        page.get_by_role("button", name="Previous").first,
        page.get_by_role("button", name="Next").first,
    )
    assert previous.get_attribute("aria-disabled") == "true"
    forward.click()
    assert shown(page) == whole[PAGE : 2 * PAGE]
    field = page.locator("[data-page]").first
    field.fill("999")
    field.press("Enter")
    assert shown(page) == whole[-(len(whole) % PAGE or PAGE) :]
    assert forward.get_attribute("aria-disabled") == "true"
    page.get_by_role("radio", name="tiny-clip").check()
    assert shown(page) == order(data.models[1].concepts.energy_C, down=True)[:PAGE]


def test_the_keyboard_reaches_everything(watched: Watched, data: DiagnosisData) -> None:
    page = watched.page
    whole = order(data.models[0].concepts.energy_C, down=True)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("a/b")  # in a field, a stroke is a letter
    assert page.input_value("#search") == "a/b"
    page.fill("#search", "")
    page.locator(".concept").first.focus()
    for _ in range(PAGE):
        page.keyboard.press("ArrowDown")
    assert focused(page) == whole[PAGE]
    page.keyboard.press("ArrowUp")
    assert focused(page) == whole[PAGE - 1]
    page.keyboard.press("Home")
    assert focused(page) == whole[0]
    page.keyboard.press("ArrowUp")
    assert focused(page) == whole[0]
    page.keyboard.press("PageDown")
    assert focused(page) == whole[PAGE]
    page.keyboard.press("End")
    assert focused(page) == whole[2 * PAGE - 1]
    page.keyboard.press("PageUp")
    assert focused(page) == whole[0]
    # One stop for the whole list: the next Tab leaves it.
    page.keyboard.press("Tab")
    assert focused(page) == -1


def screen_place(page: Any, view: Any, place: int, nth: int) -> tuple[float, float]:
    """Where a point of a map must stand on the screen, from the data alone."""
    canvas = page.locator("canvas").nth(nth)
    canvas.scroll_into_view_if_needed()
    settle(page)
    box, margin = canvas.bounding_box(), 14
    points = view.points_P2 - view.points_P2.min(0)
    width, height = points.max(0)
    scale = min((box["width"] - 2 * margin) / width, (box["height"] - 2 * margin) / height)
    left, top = (box["width"] - scale * width) / 2, (box["height"] - scale * height) / 2
    return box["x"] + left + scale * points[place, 0], box["y"] + top + scale * points[place, 1]


def lonely(view: Any, among: slice) -> int:
    """The point of a map that lies farthest from every other one."""
    away = np.linalg.norm(view.points_P2[:, None] - view.points_P2[None], axis=2)
    np.fill_diagonal(away, np.inf)
    return among.start + int(away.min(1)[among].argmax())


@pytest.mark.parametrize("nth", [0, 1, 3])
def test_pointing_at_the_map_shows_what_is_there(watched: Watched, data: DiagnosisData, nth: int) -> None:
    page = watched.page
    view = data.models[nth // 2].maps[nth % 2]
    for among, kind in ((slice(0, SCENES), "picture"), (slice(SCENES, 2 * SCENES), "text")):
        place = lonely(view, among)
        page.mouse.move(*screen_place(page, view, place, nth))
        tip = page.locator("#tip")
        assert tip.is_visible()
        card = data.items[view.items_P[place]]
        partner = data.items[(view.items_P[place] + SCENES) % (2 * SCENES)]
        assert tip.locator("p").last.text_content() == card.id
        assert (card.text or partner.text) in tip.text_content()
        assert tip.locator(".thumb").count() == (kind == "picture")
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= 1280
        assert box["y"] + box["height"] <= 900
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_matches_light_up_on_every_map(watched: Watched, data: DiagnosisData) -> None:
    page = watched.page
    settle(page)
    before = [canvas.evaluate("c => c.toDataURL()") for canvas in page.locator("canvas").all()]
    view = data.models[0].maps[0]
    page.mouse.move(*screen_place(page, view, lonely(view, slice(0, SCENES)), 0))
    after = [canvas.evaluate("c => c.toDataURL()") for canvas in page.locator("canvas").all()]
    assert all(one != other for one, other in zip(before, after, strict=True))
    page.mouse.move(2, 2)
    assert [canvas.evaluate("c => c.toDataURL()") for canvas in page.locator("canvas").all()] == before


def test_arrow_keys_walk_over_the_map(watched: Watched, data: DiagnosisData) -> None:
    page = watched.page
    page.locator("canvas").first.focus()
    settle(page)
    page.keyboard.press("ArrowRight")
    seen = {page.text_content("#spoken")}
    places = []
    for _ in range(6):
        page.keyboard.press("ArrowRight")
        seen.add(page.text_content("#spoken"))
        places.append(page.text_content("#tip .fine:last-child"))
    assert len(seen) > 3
    view = data.models[0].maps[0]
    ids = [data.items[i].id for i in view.items_P]
    # Pictures and captions of a scene may share an id; the walk must go to the right for one of them.
    across = [
        max(view.points_P2[i, 0] for i, name in enumerate(ids) if name == shown_id) for shown_id in places
    ]
    assert across[-1] > across[0]
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_charts_and_maps_can_be_taken_along(watched: Watched) -> None:
    from xml.etree import ElementTree

    page = watched.page
    charts = page.locator("figure.chart > .take")
    assert charts.count() == page.locator("figure.chart").count() > 5
    with page.expect_download() as caught:
        charts.first.click()
    root = ElementTree.parse(caught.value.path()).getroot()
    assert caught.value.suggested_filename == "tiny-qwen2vl-modality-scores.svg"
    assert "linearGradient" in [element.tag.rpartition("}")[2] for element in root.iter()]
    assert "modality score: 0 image, 1 text" in "".join(root.itertext())
    assert "var(" not in ElementTree.tostring(root, "unicode")
    with page.expect_download() as caught:
        page.locator(".plane > .take").first.click()
    assert Path(caught.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [320, 390, 768, 1024])
def test_no_width_scrolls_sideways(chromium: Any, file: Path, width: int) -> None:
    watched = Watched(chromium, file, viewport={"width": width, "height": 800})
    page = watched.page
    for details in page.locator("details").all():
        details.evaluate("d => { d.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#browser-waits").count() == 0
    wide = page.evaluate(
        "[...document.querySelectorAll('main *, header *')].filter(e => e.getClientRects().length"
        " && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, svg, .hidden'))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    watched.context.close()
    assert watched.said == []


def test_a_finger_gets_the_tip_too(chromium: Any, file: Path, data: DiagnosisData) -> None:
    watched = Watched(chromium, file, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = watched.page
    view = data.models[0].maps[0]
    place = lonely(view, slice(0, SCENES))
    page.touchscreen.tap(*screen_place(page, view, place, 0))
    assert page.locator("#tip").is_visible()
    assert page.locator("#tip p").last.text_content() == data.items[view.items_P[place]].id
    watched.context.close()
    assert watched.said == []


def test_dark_is_dark_and_light_is_light(chromium: Any, file: Path) -> None:
    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    pictures = {}
    for scheme in ("light", "dark"):
        watched = Watched(chromium, file, color_scheme=scheme)
        pictures[scheme] = watched.page.locator("canvas").first.evaluate("c => c.toDataURL()")
        assert (brightness(watched.page) > 600) == (scheme == "light")
        watched.context.close()
        assert watched.said == []
    assert pictures["light"] != pictures["dark"]
    # A page that is open when the scheme changes follows.
    watched = Watched(chromium, file, color_scheme="light")
    watched.page.emulate_media(color_scheme="dark")
    watched.page.wait_for_function(
        "before => document.querySelector('canvas').toDataURL() !== before", arg=pictures["light"]
    )
    assert brightness(watched.page) < 200
    watched.context.close()


def test_who_wants_calm_gets_no_motion(chromium: Any, file: Path) -> None:
    watched = Watched(chromium, file, reduced_motion="reduce")
    page = watched.page
    page.locator("[data-turn='1']").last.scroll_into_view_if_needed()
    page.locator("[data-turn='1']").last.click()
    top = page.evaluate("document.getElementById('browser').getBoundingClientRect().top")
    assert abs(top) < 20  # at once, without a smooth way there
    watched.context.close()


def test_without_a_script_the_charts_stand_and_the_rest_says_what_it_misses(
    chromium: Any, file: Path
) -> None:
    watched = Watched(chromium, file, java_script_enabled=False)
    page = watched.page
    assert page.locator("figure.chart > svg").first.is_visible()
    assert page.locator("#browser-waits").is_visible()
    assert page.locator("#map-waits").is_visible()
    assert page.locator("#browser").is_hidden()
    watched.context.close()
