"""The page and the terminal table, on data of the size and shape that the demonstration gives them."""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from rich.cells import cell_len
from rich.console import Console

from clearsight.errors import DataError
from clearsight.metrics import PairedTest
from clearsight.report import (
    Caption,
    Card,
    Curve,
    Example,
    GeometryRow,
    ReportData,
    ResultRow,
    render_report,
    render_table,
    rows_to_json,
)
from clearsight.report.axis import chart, nice_ticks
from clearsight.report.view import headlines, scales, task_tables
from clearsight.types import Score
from html_page import Page

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is not a fault."""

CHANCE = {"hit_rate@1": 0.0005, "hit_rate@5": 0.0025, "hit_rate@10": 0.005}
HOSTILE = "<script>alert(1)</script>\"' onload=x {{ 7*7 }} </style> \ud800 \x1b[31m \u202e"


def score(measure: str, mean: float, queries: int = 2000) -> Score:
    spread = 1.96 * math.sqrt(mean * (1 - mean) / queries)
    low, high = max(0.0, mean - spread), min(1.0, mean + spread)
    values_Q = np.full(queries, mean)
    return Score(measure, values_Q, mean, low, high, mean, mean, queries, 0.0, CHANCE[measure])


def row(
    task: str, embedding: str, repair: str, hits: str, test: PairedTest | None = None, note: str = ""
) -> ResultRow:
    scores = {m: score(m, float(h) / 100) for m, h in zip(CHANCE, hits.split("/"), strict=True)}
    return ResultRow(task, embedding, repair, scores, "base" if test else None, test, note)


def group(task: str, embedding: str, hits: dict[str, str]) -> list[ResultRow]:
    base = float(next(iter(hits.values())).split("/")[0]) / 100
    rows = []
    for place, (repair, figures) in enumerate(hits.items()):
        gain = float(figures.split("/")[0]) / 100 - base
        p = 0.0002 if abs(gain) > 0.01 else 0.31
        test = PairedTest(gain, gain - 0.02, gain + 0.02, p, 2000) if place else None
        rows.append(row(task, embedding, repair, figures, test))
    return rows


REPAIRS = ("base", "centred", "ReAlign", "self-aligned", "refined")
MEASURED = {
    "image -> text": {
        "mean, one_word": "0.7/3.1/5.9 3.7/12.1/19.4 5.3/16.9/25.2 30.9/59.1/69.9 58.9/81.2/88.3",
        "mean, plain": "0.2/0.7/1.6 0.9/2.4/3.3 1.9/4.2/6.8 11.2/26.9/35.7 20.4/38.1/47.0",
        "last, one_word": "27.5/67.5/85.3 28.6/70.2/86.2 34.5/74.4/88.2 46.7/85.3/95.2 50.5/87.9/96.0",
        "contrastive control": "71.4/93.0/97.2 70.9/93.2/97.0",
    },
    "text -> image": {
        "mean, one_word": "0.4/1.1/2.5 3.5/12.7/19.4 5.8/17.9/26.5 33.5/61.9/72.6 61.3/83.3/88.8",
        "mean, plain": "0.1/0.4/0.9 0.2/1.4/2.7 1.4/3.6/6.8 9.9/25.2/33.7 21.1/39.2/47.7",
        "last, one_word": "16.5/50.3/70.2 19.2/58.3/78.8 28.3/68.0/84.2 41.2/82.7/93.8 47.8/86.0/95.5",
        "contrastive control": "69.8/92.1/96.9 70.2/92.4/96.6",
    },
}


def table_rows() -> tuple[ResultRow, ...]:
    rows = []
    for task, embeddings in MEASURED.items():
        for embedding, hits in embeddings.items():
            rows += group(task, embedding, dict(zip(REPAIRS, hits.split(), strict=False)))
    task = "composed image + edit -> image"
    hits = {"base": "63.4/80.7/86.5", "centred": "70.0/83.4/88.6", "self-aligned": "78.6/91.3/94.7"}
    rows += group(task, "mean, one_word", hits)
    rows.append(row(task, "mean, one_word", "self-aligned", "76.9/90.2/93.8", note="image only"))
    rows.append(row(task, "mean, one_word", "self-aligned", "0.3/1.5/2.9", note="text only"))
    return tuple(rows)


def scene(rng: np.random.Generator) -> bytes:
    image = Image.new("RGB", (64, 64), tuple(rng.integers(170, 250, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for x, y in rng.integers(6, 44, (3, 2)).tolist():
        pen.ellipse((x, y, x + 14, y + 14), fill=tuple(rng.integers(0, 220, 3).tolist()))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def sentence(rng: np.random.Generator) -> str:
    words = rng.choice(
        ["large", "small", "red", "blue", "green", "cyan", "star", "ring", "cross", "heart"], 7
    )
    return (
        "a "
        + " and a ".join(" ".join(pair) for pair in words.reshape(-1, 1).tolist())
        + " on a striped mint ground"
    )


def sample(picture=scene, text=sentence) -> ReportData:
    rng = np.random.default_rng(7)

    def strip(right: int | None, *, pictures: bool) -> tuple[Card, ...]:
        return tuple(
            Card(
                f"scene-{int(rng.integers(9999)):04d}",
                None if pictures else text(rng),
                picture(rng) if pictures else None,
                place == right,
                0.93 - 0.04 * place,
            )
            for place in range(5)
        )

    examples = (
        Example(
            "image -> text",
            Card("scene-0412", image=picture(rng)),
            strip(None, pictures=False),
            strip(0, pictures=False),
            "base",
            "self-aligned",
        ),
        Example(
            "text -> image",
            Card("caption-0077", text=text(rng)),
            strip(3, pictures=True),
            strip(0, pictures=True),
            "base",
            "self-aligned",
        ),
        Example(
            "composed image + edit -> image",
            Card("edit-0009", "the same, but the circle is red", picture(rng)),
            strip(None, pictures=True),
            strip(1, pictures=True),
            "base",
            "self-aligned",
        ),
    )
    shrinkages = (0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9)
    return ReportData(
        title="A small generator, before and after its repair",
        summary="Without labels, the right caption now comes first for 58.9% of the images, not 0.7%.",
        rows=table_rows(),
        examples=examples,
        captions=tuple(
            Caption(Card(f"scene-{i}", image=picture(rng)), text(rng), (True, True, False, None)[i % 4])
            for i in range(8)
        ),
        curves=(
            Curve(
                "Shrinkage, chosen without labels",
                "shrinkage",
                "Hubness, lower is better",
                shrinkages,
                {
                    "images": (9.1, 7.0, 5.2, 3.1, 2.0, 1.9, 2.4, 4.0),
                    "texts": (8.0, 6.6, 5.0, 3.6, 2.6, 2.2, 2.3, 3.1),
                },
                0.5,
                log_x=True,
                note="The smallest sum is used.",
            ),
            Curve(
                "Rounds of refinement",
                "round",
                "Hit rate@1 in %",
                (0, 1, 2, 3, 4, 5),
                {
                    "image -> text": (36.8, 47.0, 53.2, 56.6, 58.0, 58.9),
                    "text -> image": (40.5, 49.7, 55.8, 59.4, 60.8, 61.3),
                },
                5,
            ),
        ),
        geometry=tuple(
            GeometryRow(label, {"mean_cosine": c, "effective_rank": r, "modality_gap": g, "hubness": h})
            for label, c, r, g, h in (
                ("base", 0.88, 4.2, 0.71, 9.4),
                ("centred", 0.002, 21.7, 0.001, 5.1),
                ("ReAlign", 0.0004, 118.3, 0.0, 2.2),
                ("self-aligned", 0.0, 74.0, math.nan, 1.4),
            )
        ),
        skipped=(
            ("broken.png", "The file ends in the middle of the picture."),
            ("empty.txt", "The text is empty."),
        ),
        warnings=("12 of 2000 captions fit more than one scene; no method can tell these apart.",),
        manifest={
            "clearsight": "0.1.0",
            "seed": 7,
            "model": {
                "name": "tiny-qwen2vl",
                "family": "qwen2_vl",
                "parameters": 3_180_000,
                "sha256": "6b1f" * 16,
            },
            "measures": list(CHANCE),
            "stages": [{"name": "embed", "seconds": 12.4}, {"name": "repair", "seconds": 0.8}],
            "cuda": None,
        },
        commands=("clearsight demo --seed 7",),
    )


ROW = table_rows()[1]


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample()


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_report(data)


def lines(rows: tuple[ResultRow, ...], width: int) -> list[str]:
    """The table as written to a console too wide to wrap anything."""
    out = io.StringIO()
    Console(file=out, width=500, no_color=True).print(render_table(rows, width))
    return out.getvalue().splitlines()


def test_every_element_is_closed_and_ids_are_unique(html: str) -> None:
    page = Page(html)
    assert page.faults == []
    ids = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert ids
    assert max(ids.values()) == 1
    for link in page.all("a"):
        assert link["href"][1:] in ids


def test_nothing_is_asked_of_the_network(html: str) -> None:
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "use"}
    for _, attrs in page.elements:
        assert (attrs.get("src") or "data:image/").startswith("data:image/")
        assert (attrs.get("href") or "#").startswith("#")
        assert not [name for name in attrs if name.startswith("on") or name in ("srcset", "style", "action")]
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_a_reader_who_cannot_see_gets_names_and_captions(html: str) -> None:
    page = Page(html)
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_number_and_every_picture_is_on_the_page(data: ReportData, html: str) -> None:
    page = Page(html)
    for row_ in data.rows:
        for score_ in row_.scores.values():
            assert f"{100 * score_.mean:.1f}" in page.text
    cards = [card for e in data.examples for card in (e.query, *e.before, *e.after)]
    pictures = sum(card.image is not None for card in cards) + len(data.captions)
    assert len(page.all("img")) == pictures
    assert page.text.count("✓ right") == sum(card.relevant for card in cards)
    assert "right answer not in the top 5" in page.text
    assert "right answer at rank 4" in page.text
    for item_id, reason in data.skipped:
        assert item_id in page.text
        assert reason in page.text
    assert "6b1f" * 16 in page.text
    assert "stands for itself alone" in page.text


def test_bars_stand_at_their_scores(data: ReportData, html: str) -> None:
    """The widths drawn, read back from the page, are the scores on the scale of their measure."""
    scale = scales(data.rows)
    drawn = [
        float(attrs["width"].rstrip("%"))
        for tag, attrs in Page(html).elements
        if tag == "rect" and attrs["width"].endswith("%")
    ]
    wanted = [100 * s.mean / scale[s.measure].top for row_ in data.rows for s in row_.scores.values()]
    assert drawn == pytest.approx(wanted, abs=0.01)
    assert all(s.high <= scale[s.measure].top for row_ in data.rows for s in row_.scores.values())


def test_hostile_ids_and_texts_are_only_text() -> None:
    card = Card(HOSTILE, HOSTILE, scene(np.random.default_rng(0)), relevant=True)
    row_ = replace(
        table_rows()[1], task=HOSTILE, embedding=HOSTILE, repair=HOSTILE, against=HOSTILE, note=HOSTILE
    )
    data = ReportData(
        HOSTILE,
        HOSTILE,
        (row_, replace(row_, note="")),
        (Example(HOSTILE, card, (card,), (card,), HOSTILE, HOSTILE),),
        (Caption(card, HOSTILE, False),),
        (Curve(HOSTILE, HOSTILE, HOSTILE, (1.0, 2.0), {HOSTILE: (1.0, 2.0)}, 1.0, note=HOSTILE),),
        (GeometryRow(HOSTILE, {HOSTILE: 1.0}),),
        ((HOSTILE, HOSTILE),),
        (HOSTILE,),
        {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
        (HOSTILE,),
    )
    html = render_report(data)
    html.encode("utf-8")
    page = Page(html)
    assert page.faults == []
    assert page.all("script") == []
    assert not [name for _, attrs in page.elements for name in attrs if name == "onload"]
    assert page.text.count("<script>alert(1)</script>") >= 20
    assert "{{ 7*7 }}" in page.text
    assert "\x1b" not in html
    assert "\x1b" not in "".join(lines(data.rows, 100))
    assert ReportData.from_json(data.to_json()).title == HOSTILE


def test_json_brings_back_the_same_page(data: ReportData, html: str) -> None:
    text = data.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = ReportData.from_json(text)
    assert again.to_json() == text
    assert render_report(again) == html
    assert again.examples == data.examples
    assert again.rows[1].test == data.rows[1].test
    assert math.isnan(again.geometry[3].values["modality_gap"])
    assert again.rows[0].scores["hit_rate@1"].values_Q.size == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"title": 1}', "null", '{"title": "a", "summary": "b", "rows": [1]}']
)
def test_json_that_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="not the JSON of a report"):
        ReportData.from_json(text)


def test_rows_to_json_keeps_the_figures_and_leaves_the_queries_out(data: ReportData) -> None:
    values = json.loads(json.dumps(rows_to_json(data.rows), allow_nan=False))
    assert len(values) == len(data.rows)
    assert values[4]["scores"]["hit_rate@1"]["mean"] == 0.589
    assert values[4]["test"]["p_value"] == 0.0002
    assert "values_Q" not in values[4]["scores"]["hit_rate@1"]


def test_an_empty_report_is_a_page() -> None:
    page = Page(render_report(ReportData("Nothing", "Nothing was measured.")))
    assert page.faults == []
    assert "every item was read" in page.text
    assert page.all("table") == []


def test_values_that_are_missing_are_dashes_not_errors() -> None:
    void = Score("hit_rate@1", np.full(3, math.nan), *[math.nan] * 5, 0, math.nan, math.nan)
    rows = (ResultRow("t", "e", "base", {"hit_rate@1": void}), ResultRow("t", "e", "centred", {"mrr": void}))
    page = Page(render_report(ReportData("a", "b", rows)))
    assert page.faults == []
    assert not re.search(r"\bnan\b", page.text + "\n".join(lines(rows, 80)))
    assert "–" in page.text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_table_fits_its_width_and_loses_nothing_silently(data: ReportData, width: int) -> None:
    shown = lines(data.rows, width)
    legend = shown.index(next(line for line in shown if line.startswith("Per cent")))
    body = shown[:legend]
    # Below 80 columns headings and legend are longer than a line; they are prose and the console wraps them.
    assert (
        max(cell_len(line) for line in shown if width >= 80 or (line in body and "chance" not in line))
        <= width
    )
    assert sum("refined" in line for line in body) == 6
    everything = "\n".join(shown)
    assert "58.9" in everything
    assert "+58.2 ***" in everything
    assert "+0.7 n.s." in everything
    assert "chance 0.05 / 0.25 / 0.5 %" in everything
    assert ("56.7–61.1" in everything) == (width >= 80)
    assert ("86.9–89.7" in everything) == (width >= 100)
    assert ("88.3" in everything) != ("No room for: hit rate@10." in everything)


def test_columns_of_the_table_are_aligned(data: ReportData) -> None:
    """In every row of results the decimal point of the first measure stands in the same column."""
    rows = [line for line in lines(data.rows, 100) if re.match(r"  \S.*\d\.\d \[", line)]
    assert len(rows) == len(data.rows)
    assert len({line.index(" [") for line in rows}) == 1


@pytest.mark.parametrize("width", [90, 97, 100, 110])
def test_an_interval_that_reaches_100_fits_too(data: ReportData, width: int) -> None:
    sure = {name: replace(one, mean=1.0, low=0.975, high=1.0) for name, one in data.rows[1].scores.items()}
    shown = lines((replace(data.rows[1], scores=sure), data.rows[2]), width)
    rule = next(i for i, line in enumerate(shown) if line.startswith("──"))
    assert max(map(cell_len, shown)) <= width
    assert "[97.5–100.0]" in "".join(shown)
    first, second = shown[rule + 2 : rule + 4]
    assert first.index("+") == second.index("+")


def test_an_arrow_is_an_arrow_everywhere(data: ReportData) -> None:
    assert "->" in data.rows[0].task
    curve = replace(data.curves[0], title="Rounds: image -> text")
    page = Page(
        render_report(
            replace(data, curves=(curve,), geometry=(GeometryRow("image -> text", {"hubness": 1.0}),))
        )
    )
    assert "Rounds: image → text" in page.text
    assert "->" not in page.text


def test_rows_that_differ_in_their_reference_name_it(data: ReportData) -> None:
    rows = (*data.rows[:2], replace(data.rows[2], against="centred"))
    shown = lines(rows, 100)
    assert [line for line in shown if "+3.0 *** vs base" in line.replace("***  ", "*** ")]
    assert [line for line in shown if "vs centred" in line]
    assert max(map(cell_len, shown)) <= 100


@settings(PATIENT)
@given(st.lists(st.text(max_size=60), min_size=3, max_size=3), st.integers(44, 120))
def test_no_name_breaks_the_table(names: list[str], width: int) -> None:
    rows = tuple(replace(ROW, embedding=names[0], repair=name) for name in names[1:])
    shown = lines(rows, width)
    rule = next(i for i, line in enumerate(shown) if line.startswith("──"))
    header, *results = shown[rule + 1 : rule + 4]
    assert max(map(cell_len, (header, *results))) <= width
    assert all("3.7" in line for line in results)


def test_the_headline_follows_the_order_never_the_scores(data: ReportData) -> None:
    found = {h.task: (h.first.embedding, h.first.repair, h.last.repair) for h in headlines(data.rows)}
    assert found == {
        "image -> text": ("mean, one_word", "base", "refined"),
        "text -> image": ("mean, one_word", "base", "refined"),
        "composed image + edit -> image": ("mean, one_word", "base", "self-aligned"),
    }
    control_first = (*data.rows[15:17], *data.rows[:15])
    assert headlines(control_first)[0].last is data.rows[16]
    assert headlines(data.rows[:1]) == ()


def test_a_chance_level_that_differs_is_said_for_each_embedding(data: ReportData) -> None:
    assert [table.facts for table in task_tables(data.rows)] == [
        "2,000 queries; chance 0.05 / 0.25 / 0.5 %"
    ] * 3
    fewer = {name: replace(s, judged=300) for name, s in data.rows[5].scores.items()}
    (table,) = task_tables((data.rows[0], replace(data.rows[5], scores=fewer)))
    assert table.facts == ""
    assert [group.facts[:11] for group in table.groups] == ["2,000 queri", "300 queries"]


@settings(PATIENT)
@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))
def test_ticks_cover_the_range_evenly(low: float, span: float) -> None:
    high = low + span
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert np.diff(ticks) == pytest.approx([ticks[1] - ticks[0]] * (len(ticks) - 1), rel=1e-3)


def test_a_chart_breaks_at_nan_and_stays_in_its_frame() -> None:
    curve = Curve(
        "t",
        "x",
        "y",
        (0.01, 0.1, 1.0, 10.0, 100.0),
        {"a": (1, 2, math.nan, 2, 3), "b": (3, 3, 3, 3, 3)},
        1.0,
        True,
    )
    drawn = chart(curve)
    assert [len(line.pieces) for line in drawn.lines] == [2, 1]
    assert [len(line.marks) for line in drawn.lines] == [4, 5]
    places = np.array([mark for line in drawn.lines for mark in line.marks])
    assert (places >= (drawn.left, drawn.top)).all()
    assert (places <= (drawn.right, drawn.bottom)).all()
    steps = np.diff([x for x, _ in drawn.lines[1].marks])
    assert steps == pytest.approx([steps[0]] * 4, abs=0.11)
    assert drawn.chosen is not None
    assert drawn.chosen.at == drawn.lines[1].marks[2][0]


@pytest.mark.parametrize("x", [(), (3.0,), (3.0, 4.0)])
def test_a_chart_of_few_points_is_drawn(x: tuple[float, ...]) -> None:
    assert [len(line.marks) for line in chart(Curve("t", "x", "y", x, {"a": x})).lines] == [len(x)]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(DataError, match="PNG or JPEG"):
        Card("a", image=b"<svg onload=alert(1)>")
    with pytest.raises(DataError, match="1 values for 2 places"):
        Curve("t", "x", "y", (1, 2), {"a": (1,)})
    with pytest.raises(DataError, match="logarithmic"):
        Curve("t", "x", "y", (0, 1), {"a": (1, 2)}, log_x=True)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_text_has_the_contrast_of_wcag_aa_in_light_and_dark(html: str) -> None:
    schemes = re.findall(r":root \{([^}]*--paper: #[0-9a-f]{6}[^}]*)\}", Page(html).style)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for ground in ("paper", "card", "tint"):
            for text, least in (("ink", 4.5), ("soft", 4.5), ("accent", 4.5), ("bar", 3.0)):
                dark, light = sorted((luminance(colours[text]), luminance(colours[ground])))
                assert (light + 0.05) / (dark + 0.05) >= least, (text, ground)
