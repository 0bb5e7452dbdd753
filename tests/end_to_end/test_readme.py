"""What the README says is executed."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from clearsight.cli import GROUPS, JOBS, build_app, main
from clearsight.data import world
from clearsight.data.images import open_image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = README.split("```")[1::2]
    return [text.partition("\n")[2] for text in fenced if text.partition("\n")[0] == language]


@pytest.mark.parametrize(("place", "said"), [(0, "hit_rate@1"), (1, "1.png"), (2, "image-")])
def test_the_python_runs(
    place: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(blocks("python")) == 3
    monkeypatch.chdir(tmp_path)
    if "PHOTOS" in blocks("python")[place]:
        (tmp_path / "PHOTOS").mkdir()
        for number, item in enumerate(world.image_to_text(3).queries):
            open_image(item.image).save(tmp_path / "PHOTOS" / f"{number}.png")
        assert main(["index", "PHOTOS", "--repair", "centred"]) == 0
        capsys.readouterr()
    exec(compile(blocks("python")[place], "README.md", "exec"), {})
    assert said in capsys.readouterr().out


def test_flags_exist() -> None:
    """Every line of every block names only flags that its command has."""
    lines = [line.split() for block in blocks("") for line in block.splitlines()]
    app = build_app()
    for words in (line for line in lines if line[:1] == ["clearsight"] and len(line) > 1):
        command, end = app[words[1]], io.StringIO()
        command.help_print([], console=Console(file=end, width=400))
        for flag in (word.strip(",;") for word in words if word.startswith("--")):
            assert flag in end.getvalue(), " ".join(words)


def test_every_command_named_exists() -> None:
    commands = {
        words[1] for words in map(str.split, blocks("")[1].splitlines()) if words[:1] == ["clearsight"]
    }
    assert commands == {*JOBS, *GROUPS}
    for name in GROUPS["info"][1]:
        assert re.search(rf"info .*\b{name}\b", README)


def test_the_tree_is_the_tree() -> None:
    for path in (
        "types.py",
        "moments.py",
        "pooling.py",
        "models/tiny",
        "data/benchmarks",
        "rerank",
        "mining",
        "training",
        "jobs/papers",
        "mteb",
        "repair",
        "run",
        "jobs",
        "cli",
        "report",
    ):
        assert (ROOT / "src/clearsight" / path).exists(), path
        assert path.split("/")[-1].removesuffix(".py") in README


def test_benchmarks_exist_with_their_flags() -> None:
    found = re.findall(r"`python (benchmarks/\w+\.py)([^`]*)`", README)
    assert found
    for script, words in found:
        source = (ROOT / script).read_text()
        for flag in re.findall(r"--[\w-]+", words):
            assert f'"{flag}"' in source, f"{script} {flag}"


def test_the_figures_of_reranking_are_those_measured() -> None:
    lines = (ROOT / "benchmarks/results/rerank_quality.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["queries"] == 2000 and row["scorer"] == "likelihood"]
    last = {row["way"]: row for row in rows}
    shares = " / ".join(f"{last[way]['hit_rate@1']:.1f}" for way in ("i2t", "t2i"))
    assert f"**{shares}**" in README
    bounds = " / ".join(f"{last[way]['bound']:g}" for way in ("i2t", "t2i"))
    assert f"could pass {bounds})" in README
