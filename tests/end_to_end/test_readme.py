"""What the README says is executed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clearsight.cli import GROUPS, JOBS

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = README.split("```")[1::2]
    return [text.partition("\n")[2] for text in fenced if text.partition("\n")[0] == language]


def test_three_lines_do_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert "hit_rate@1" in capsys.readouterr().out


def test_every_command_named_exists() -> None:
    commands = {
        words[1] for words in map(str.split, blocks("")[1].splitlines()) if words[:1] == ["clearsight"]
    }
    assert commands == {*JOBS, *GROUPS}
    for name in GROUPS["info"][1]:
        assert re.search(rf"info .*\b{name}\b", README)


def test_the_tree_is_the_tree() -> None:
    root = Path(__file__).parents[2]
    for path in (
        "types.py",
        "moments.py",
        "pooling.py",
        "models/tiny",
        "repair",
        "run",
        "jobs",
        "cli",
        "report",
    ):
        assert (root / "src/clearsight" / path).exists(), path
        assert path.split("/")[-1].removesuffix(".py") in README
