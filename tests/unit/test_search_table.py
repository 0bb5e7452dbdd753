"""Hits in a terminal: ids whole at any width, nothing that a file says does anything to the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from clearsight.index import Hit, Query, Results
from clearsight.jobs.search import table

NAME = "scenes/a-very-long-name-of-a-scene-0042.png"


def printed(width: int, *hits: Hit) -> str:
    told = Results(Query("a red ring"), hits, rows=2, version=1, repair="", seconds=0.0)
    out = io.StringIO()
    Console(file=out, width=width).print(table(told), highlight=False)
    return out.getvalue()


def hit(**more: object) -> Hit:
    facts = {"id": NAME, "score": 0.5, "modality": "image", "text": None, "source": NAME} | more
    return Hit(**{"metadata": {}, "fine": None, "why": (), **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [70, 80, 120])
def test_ids_are_whole(width: int) -> None:
    many = {f"field_{n}": "a value of some length" for n in range(9)}
    shown = printed(width, hit(metadata=many), hit(id="b", fine=1.25, source=None, text="a red ring"))
    assert NAME in shown
    assert "1.25" in shown
    assert "a red ring" in shown
    assert all(f"field_{n}" in shown for n in range(9))
    assert max(map(len, shown.splitlines())) <= width


def test_what_is_nothing_is_left_out() -> None:
    shown = printed(80, hit(metadata={"year": None}, why=(("12 (rings)", 0.31), ("7", 0.001))))
    assert "year" not in shown
    assert "file" not in shown
    assert "why: 12 (rings) +0.31\n" in "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"
    assert "reranked" not in shown


def test_markup_and_control_characters_are_plain() -> None:
    shown = printed(80, hit(text="[red]a\x1b[31m\nring[/red]", metadata={"note": "\x07"}))
    assert "[red]a�[31m ring[/red]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
