"""A job's config is the one source of its flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from cyclopts import App

from clearsight.cli.flags import command


@dataclass(frozen=True)
class Settings:
    """Do a thing."""

    model: Annotated[str, "which model"] = field(metadata={"positional": True})
    count: Annotated[int, "how many, 1 or more"] = 3
    names: Annotated[tuple[str, ...], "several"] = ("a",)
    mode: Annotated[Literal["x", "y"], "one of two"] = "x"
    flag: Annotated[bool, "on or off"] = False


def run(*tokens: str) -> tuple[Settings, bool]:
    seen: list[tuple[Settings, bool]] = []

    def keep(settings: Settings, as_json: bool) -> int:
        seen.append((settings, as_json))
        return 0

    app = App(name="thing", result_action="return_value")
    app.default(command(Settings, keep))
    assert app(list(tokens), exit_on_error=False) == 0
    return seen[0]


def test_defaults_are_the_dataclass_own() -> None:
    assert run("m") == (Settings("m"), False)


def test_every_field_is_a_flag() -> None:
    settings, as_json = run("m", "--count", "7", "--mode", "y", "--flag", "--json")
    assert settings == Settings("m", 7, ("a",), "y", True)
    assert as_json


@pytest.mark.parametrize("tokens", [("--names", "a,b"), ("--names", "a", "--names", "b")])
def test_lists_by_comma_or_repetition(tokens: tuple[str, ...]) -> None:
    assert run("m", *tokens)[0].names == ("a", "b")


def test_help_shows_each_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    app = App(name="thing", result_action="return_value")
    app.default(command(Settings, lambda settings, as_json: 0))
    app(["--help"], exit_on_error=False)
    shown = capsys.readouterr().out
    for sentence in ("Do a thing", "which model", "how many, 1 or more", "one of two"):
        assert sentence in shown
