"""The diagnosis page without a browser: what stands in its HTML and in the data that its script reads."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clearsight.errors import DataError
from clearsight.report.axis import Level, Panel, chart
from clearsight.report.data import Card, Curve
from clearsight.report.diagnosis import (
    NO_ITEM,
    AttentionEfficiency,
    ConceptTable,
    DiagnosisData,
    EnergyCurve,
    Examples,
    MapView,
    ModalityDensity,
    ModelDiagnosis,
    RetrievalRow,
    render_diagnosis,
)
from clearsight.report.diagnosis.panels import energy_panel, removal_panels, with_differences
from clearsight.report.diagnosis.payload import MAP_RANGE, rounded
from clearsight.report.diagnosis.sheets import ACROSS, CELL, sheets
from clearsight.report.diagnosis.view import masking_rows, overlap_groups, sides
from diagnosis_sample import sample_diagnosis
from html_page import Page

HOSTILE = "</script><script>alert(1)</script><!-- \"' onload=x {{ 7*7 }} \ud800 \x1b \u202e \u2028"


@pytest.fixture(scope="module")
def data() -> DiagnosisData:
    return sample_diagnosis(1, concepts=90, scenes=20)


@pytest.fixture(scope="module")
def html(data: DiagnosisData) -> str:
    return render_diagnosis(data)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def bare(name: str = "bare", concepts: int = 3) -> ModelDiagnosis:
    none = Examples(np.full((concepts, 2), NO_ITEM), np.zeros((concepts, 2)))
    nothing = np.zeros(concepts)
    return ModelDiagnosis(name, ConceptTable(nothing, np.full(concepts, np.nan), nothing, none, none))


def test_every_element_is_closed_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert page.faults == []
    ids = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert max(ids.values()) == 1
    assert len(page.all("a")) >= 10
    assert all(link["href"][1:] in ids for link in page.all("a"))


def test_the_policy_allows_the_pages_own_script_and_no_request(page: Page) -> None:
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
    }
    assert len(page.scripts) == 2
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "video", "audio", "img"}
    for _, attrs in page.elements:
        assert not attrs.keys() & {"src", "srcset", "action", "style"}
        assert not [name for name in attrs if name.startswith("on")]
    assert set(re.findall(r"url\(([^)]*)\)", page.style)) == {"#modality"}
    assert "@import" not in page.style


def test_a_reader_who_cannot_see_gets_names(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert all("points. Arrow keys" in canvas["aria-label"] for canvas in page.all("canvas"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours `#rrggbb`."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_colours_of_words_meet_wcag_aa_in_both_schemes(page: Page) -> None:
    schemes = [{}, {}]
    for scheme, block in re.findall(r"(dark\) \{\s*)?:root \{([^}]*)\}", page.style):
        schemes[bool(scheme)].update(re.findall(r"(--[a-z]+): (#[0-9a-f]{6})", block))
    light, dark = schemes[0], schemes[0] | schemes[1]
    assert light["--image"] != dark["--image"]
    for colours in (light, dark):
        for ink in ("--ink", "--soft", "--accent", "--image", "--text"):
            for ground in ("--paper", "--card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["--ink"], colours["--mark"]) >= 4.5


def test_what_is_said_is_on_the_page(data: DiagnosisData, page: Page) -> None:
    for sentence in (*data.findings, data.summary, *data.warnings, *data.models[0].notes):
        assert sentence.replace("->", "→") in page.text
    for model in data.models:
        assert page.text.count(model.name) > 5
        for side in sides(model.concepts):
            assert f"{100 * side.share:.1f} %" in page.text
        assert f"{100 * model.energy.top_share:.1f} %" in page.text
        for row in model.removal:
            assert f"{100 * row.mean:.1f}" in page.text
    assert "0.567" in page.text  # CLIP in the paper's Table 1
    assert "random sets of that size" in page.text
    assert "never fire" in page.text


def test_the_data_of_the_page_are_those_given(data: DiagnosisData, page: Page) -> None:
    given_, found = data.models[0].concepts, page.data["models"][0]
    names = [score["name"] for score in found["scores"]]
    assert names == [
        "energy", "modality", "bridge", "bridge_max", "attribution", "firing_rate", "monosemanticity"
    ]  # fmt: skip
    for score, values_C in zip(found["scores"], given_.scores().values(), strict=True):
        shown = np.array([math.nan if v is None else v for v in score["values"]])
        assert np.allclose(shown, values_C, rtol=1e-3, equal_nan=True)
        assert score["says"]
    assert found["dead"] == np.flatnonzero(given_.dead_C).tolist()
    assert found["names"] == {str(n): name for n, name in enumerate(given_.names) if name}
    for side in ("most", "least"):
        wanted = getattr(given_, side)
        places = np.reshape(found[side]["items"], wanted.items_CE.shape)
        assert ((places == NO_ITEM) == (wanted.items_CE == NO_ITEM)).all()
        ids = np.array([*page.data["items"]["id"], ""])
        assert (ids[places] == np.array([*(item.id for item in data.items), ""])[wanted.items_CE]).all()
        activation = np.reshape(found[side]["activation"], places.shape)
        there = places != NO_ITEM
        assert np.allclose(activation[there], wanted.activation_CE[there], rtol=1e-3)
    pairs = np.reshape(page.data["pairs"], (-1, 2))
    assert (pairs == data.pairs_Q2).all()  # every item is used here, so places don't move


def test_maps_keep_their_proportions(data: DiagnosisData, page: Page) -> None:
    for found, view in zip(page.data["models"][0]["maps"], data.models[0].maps, strict=True):
        placed = np.reshape(found["places"], (-1, 2)).astype(float)
        assert placed.min() == 0
        assert placed.max() == MAP_RANGE
        scale = MAP_RANGE / np.ptp(view.points_P2, axis=0).max()
        moved = view.points_P2 * scale - placed
        assert np.ptp(moved, axis=0).max() <= 1 + 1e-9


def test_thumbnails_stand_on_their_sheet(data: DiagnosisData, page: Page) -> None:
    (uri,) = page.data["sheets"]
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as sheet:
        drawn = np.asarray(sheet.convert("RGB"), dtype=float)
    assert drawn.shape == (2 * CELL, ACROSS * CELL, 3)
    for item, cell in enumerate(page.data["items"]["cell"]):
        card = data.items[item]
        assert (cell >= 0) == (card.image is not None)
        if card.image is not None:
            down, across = divmod(cell, ACROSS)
            shown = drawn[down * CELL : (down + 1) * CELL, across * CELL : (across + 1) * CELL]
            with Image.open(io.BytesIO(card.image)) as picture:
                assert np.abs(shown - np.asarray(picture.convert("RGB"), dtype=float)).mean() < 8


def test_large_and_many_pictures_are_made_to_fit() -> None:
    def encoded(size: tuple[int, int]) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", size, (200, 0, 0)).save(out, "PNG")
        return out.getvalue()

    found = sheets([("wide", encoded((300, 100)))] * (ACROSS * ACROSS + 1))
    assert len(found) == 2
    with Image.open(io.BytesIO(base64.b64decode(found[1].partition(",")[2]))) as last:
        assert last.size == (ACROSS * CELL, CELL)
        cell = np.asarray(last.convert("RGBA"))[:, :CELL]
    assert (cell[CELL // 2, :, 3] > 200).all()  # as wide as the cell
    assert (cell[:8, :, 3] < 50).all()  # nothing above: the picture keeps its shape
    assert sheets([]) == ()


def test_the_same_data_give_the_same_page(data: DiagnosisData, html: str) -> None:
    assert render_diagnosis(data) == html


def test_hostile_texts_are_only_text(data: DiagnosisData) -> None:
    card = replace(data.items[0], id=HOSTILE, text=HOSTILE)
    model = replace(
        data.models[0], name=HOSTILE, kind=HOSTILE, sae=HOSTILE, notes=(HOSTILE,),
        removal=(RetrievalRow(HOSTILE, HOSTILE, HOSTILE, 0.1, rank=3),),
        masking=(RetrievalRow(HOSTILE, HOSTILE, HOSTILE, 0.1),),
        maps=(replace(data.models[0].maps[0], label=HOSTILE, method=HOSTILE, note=HOSTILE),),
        concepts=replace(data.models[0].concepts, more={HOSTILE: data.models[0].concepts.energy_C}),
    )  # fmt: skip
    hostile = DiagnosisData(
        HOSTILE, HOSTILE, (model,), (HOSTILE,), (card, *data.items[1:]), data.pairs_Q2, (HOSTILE,),
        {HOSTILE: HOSTILE}, (HOSTILE,),
    )  # fmt: skip
    html = render_diagnosis(hostile)
    html.encode("utf-8")
    page = Page(html)
    assert page.faults == []
    assert len(page.scripts) == 2
    assert "\x1b" not in html
    assert "{{ 7*7 }}" in page.text
    assert page.data["items"]["id"][0].startswith("</script><script>alert(1)")


def test_a_page_of_the_shipped_size_stays_below_six_megabytes() -> None:
    html = render_diagnosis(sample_diagnosis(0, concepts=2048, scenes=1000))
    assert len(html) < 6e6


def test_an_empty_diagnosis_and_one_of_dead_concepts_are_pages() -> None:
    page = Page(render_diagnosis(DiagnosisData("Nothing", "Nothing was measured.", ())))
    assert page.faults == []
    assert page.scripts == []
    page = Page(render_diagnosis(DiagnosisData("Bare", "Dead.", (bare(),))))
    assert page.faults == []
    assert page.data["models"][0]["scores"][1]["values"] == [None] * 3
    assert not re.search(r"\bnan\b", page.text)
    # Sections without data have neither a heading nor a link to them.
    ids = {attrs.get("id") for _, attrs in page.elements}
    assert not ids & {
        "modality-scores",
        "energy",
        "overlap",
        "map",
        "geometry",
        "removal",
        "masking",
        "attention",
    }


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=40), st.data())
def test_every_concept_has_one_side(modality: list[float | None], draw: st.DataObject) -> None:
    modality_C = np.array([np.nan if value is None else value for value in modality])
    dead_C = np.array(draw.draw(st.lists(st.booleans(), min_size=len(modality), max_size=len(modality))))
    count = len(modality)
    none = Examples(np.full((count, 1), NO_ITEM), np.zeros((count, 1)))
    found = sides(ConceptTable(np.zeros(count), modality_C, np.zeros(count), none, none, dead_C=dead_C))
    assert sum(side.count for side in found) == count
    assert sum(side.share for side in found) == pytest.approx(1)
    by_name = {side.name: side.count for side in found}
    assert by_name["silent"] + by_name["dead"] == np.isnan(modality_C).sum()
    assert by_name["dead"] == (np.isnan(modality_C) & dead_C).sum()


def test_differences_are_taken_from_the_base_of_their_own_direction() -> None:
    rows = (
        RetrievalRow("base", "a", "m", 0.2),
        RetrievalRow("x", "a", "m", 0.5, rank=1),
        RetrievalRow("x", "b", "m", 0.5, rank=1),
    )
    found = [pair.difference for pair in with_differences(rows)]
    assert math.isnan(found[0])
    assert found[1] == pytest.approx(0.3)
    assert math.isnan(found[2])


def test_rows_of_several_measures_are_one_row_of_bars() -> None:
    masking = tuple(
        RetrievalRow(name, "image -> text", measure, mean)
        for name, mean in (("base", 0.3), ("without image tokens", 0.1))
        for measure in ("hit_rate@1", "hit_rate@5")
    )
    rows = masking_rows((replace(bare("a"), masking=masking), replace(bare("b"), masking=masking)))
    assert [(row.embedding, row.repair) for row in rows] == [
        ("a", "base"), ("a", "without image tokens"), ("b", "base"), ("b", "without image tokens")
    ]  # fmt: skip
    assert list(rows[1].scores) == ["hit_rate@1", "hit_rate@5"]
    assert rows[1].test.difference == pytest.approx(-0.2)
    assert rows[0].test is None


def test_random_sets_are_told_once_where_they_agree(data: DiagnosisData) -> None:
    own, _, paper = overlap_groups(data.models)
    assert [line.aside for line in own.lines] == [False] * 4 + [True]
    assert all(line.aside for line in paper.lines)
    overlap = data.models[0].overlap
    mixed = (overlap[0], replace(overlap[1], random=overlap[1].found), *overlap[2:])
    (first, _) = overlap_groups((replace(data.models[0], overlap=mixed),))
    assert [line.aside for line in first.lines] == [False, True, False, True, False, False, True]


def test_energy_curves_of_different_lengths_share_an_axis() -> None:
    def of(count: int) -> ModelDiagnosis:
        share = np.arange(1, count + 1) / count
        return replace(bare(f"m{count}"), energy=EnergyCurve(share, share**0.5, 0.3, 0.1))

    panel = energy_panel((of(5000), of(7)))
    assert len(panel.curve.x) <= 200
    assert panel.curve.x[-1] == 100
    for name, values in panel.curve.y.items():
        there = np.isfinite(values)
        assert np.allclose(
            np.array(values)[there], 100 * np.sqrt(np.array(panel.curve.x)[there] / 100), atol=3
        ), name
    assert np.isnan(panel.curve.y["m7"][0])


def test_a_sweep_lacking_places_leaves_gaps() -> None:
    rows = (
        *(RetrievalRow("x", "a", "m", 0.1 * r, rank=r) for r in (1, 4)),
        RetrievalRow("y", "a", "m", 0.5, rank=2),
        RetrievalRow("base", "a", "m", 0.2),
    )
    (panel,) = removal_panels(replace(bare(), removal=rows))
    assert panel.curve.x == [1, 2, 4]
    assert np.allclose(panel.curve.y["x"], [10, np.nan, 40], equal_nan=True)
    assert panel.levels["base"].value == 20
    drawn = chart(panel)
    assert [len(line.marks) for line in drawn.lines] == [2, 1]
    assert all(line.whiskers == () for line in drawn.lines)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30), st.floats(0, 5), st.floats(-60, 60))
def test_whiskers_and_levels_stay_in_the_frame(ys: list[float], spread: float, level: float) -> None:
    curve = Curve("t", "x", "y", list(range(len(ys))), {"a": ys})
    low, high = [y - spread for y in ys], [y + spread for y in ys]
    panel = Panel(curve, low={"a": low}, high={"a": high}, levels={"l": Level(level, level - 1, level + 1)})
    drawn = chart(panel)
    (line,) = drawn.lines
    assert len(line.whiskers) == len(ys)
    for (x, top, bottom), (mark_x, mark_y) in zip(line.whiskers, line.marks, strict=True):
        assert x == mark_x
        assert drawn.top - 0.1 <= min(top, bottom) <= max(top, bottom) <= drawn.bottom + 0.1
        assert min(top, bottom) - 0.1 <= mark_y <= max(top, bottom) + 0.1
    (band,) = drawn.levels
    assert drawn.top <= band.band[0] <= band.at <= band.band[0] + band.band[1] + 0.2 <= drawn.bottom + 0.4


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20), st.integers(2, 6))
def test_rounding_keeps_the_digits_that_are_shown(values: list[float], digits: int) -> None:
    for value, short in zip(values, rounded(np.array(values), digits), strict=True):
        if not math.isfinite(value):
            assert short is None
        else:
            assert short == pytest.approx(value, rel=10.0 ** (1 - digits), abs=1e-320)
    json.dumps(rounded(np.array(values), digits), allow_nan=False)


NONE = Examples(np.full((2, 1), NO_ITEM), np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Examples(np.zeros(3, int), np.zeros(3)), "shape"),
        (lambda: ConceptTable(np.zeros(2), np.zeros(3), np.zeros(2), NONE, NONE), "3 values for 2 concepts"),
        (lambda: ConceptTable(np.zeros(3), np.zeros(3), np.zeros(3), NONE, NONE), "2 values for 3 concepts"),
        (lambda: ModalityDensity(np.zeros(2), np.zeros(2), np.zeros(3)), "differ"),
        (lambda: EnergyCurve(np.zeros(2), np.zeros(2), 0.0, 0.0), "logarithm"),
        (lambda: AttentionEfficiency(("a",), (0, 1), np.zeros((1, 2)), np.zeros((2, 1))), "layers and types"),
        (lambda: MapView("m", "pca", np.zeros(2, int), np.zeros((3, 2))), "2 items"),
        (lambda: MapView("m", "pca", np.zeros(1, int), np.full((1, 2), np.nan)), "not a number"),
        (lambda: DiagnosisData("t", "s", (bare("a"), bare("a"))), "one name"),
        (lambda: DiagnosisData("t", "s", (), pairs_Q2=np.array([[0, 1]])), "0 items"),
        (lambda: DiagnosisData("t", "s", (), pairs_Q2=np.zeros(3, int)), "shape"),
    ],
)
def test_data_that_do_not_fit_are_refused(build: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build()


def test_positions_and_pictures_that_are_not_there_are_refused(data: DiagnosisData) -> None:
    with pytest.raises(DataError, match="Positions"):
        replace(data, items=data.items[:5])
    broken = Card("broken.png", image=b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(DataError, match=r"broken\.png"):
        render_diagnosis(replace(data, items=(broken, *data.items[1:])))
