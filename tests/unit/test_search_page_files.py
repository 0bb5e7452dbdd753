"""The files of the search page: whole, of the house's colours, and within their policy."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

STATIC = Path(str(files("clearsight.serve").joinpath("static")))
REPORT = Path(str(files("clearsight.report")))
SCRIPTS = sorted(STATIC.glob("*.js"))


def tokens(css: str) -> dict[str, str]:
    return dict(re.findall(r"(--[a-z]+): (#[0-9a-f]+);", css))


def test_colours_are_those_of_the_reports_in_both_schemes() -> None:
    said = (STATIC / "tokens.css").read_text()
    pairs = re.findall(r"(--[a-z]+): light-dark\((#[0-9a-f]+), (#[0-9a-f]+)\);", said)
    here = [{name: colours[place] for name, *colours in pairs} for place in (0, 1)]
    there: list[dict[str, str]] = [{}, {}]
    for sheet in ("templates/style.css", "diagnosis/templates/diagnosis.css"):
        light, _, rest = (REPORT / sheet).read_text().partition("@media (prefers-color-scheme: dark)")
        there[0] |= tokens(light)
        there[1] |= tokens(rest.partition("}\n}")[0].partition("} }")[0])
    assert len(pairs) == 13
    assert here == there


def test_every_file_that_is_named_is_there_and_every_script_is_used() -> None:
    page = (STATIC / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([\w.]+\.\w+)"', page))
    for script in SCRIPTS:
        named |= set(re.findall(r"from '\./([\w.]+)'", script.read_text()))
    assert named == {path.name for path in STATIC.iterdir()} - {"index.html"}


def test_the_page_keeps_to_its_policy() -> None:
    """`default-src 'self'`: no style or script in the page itself, and nothing from elsewhere."""
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=", page)
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), path.name
    for script in SCRIPTS:
        text = script.read_text()
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), (
            script.name
        )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_takes_from_another_is_there(script: Path) -> None:
    for names, other in re.findall(r"import \{([^}]+)\} from '\./([\w.]+)'", script.read_text()):
        exported = set(
            re.findall(r"export (?:async )?(?:function|class|const) (\w+)", (STATIC / other).read_text())
        )
        assert {name.strip() for name in names.split(",")} <= exported, other
    text = script.read_text()
    for names, _ in re.findall(r"import \{([^}]+)\} from '(\./[\w.]+)'", text):
        for name in (one.strip() for one in names.split(",")):
            assert len(re.findall(rf"\b{name}\b", text)) > 1, f"{name} is imported and not used"
