"""Exit codes mean something; help is light; a refusal is a message, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clearsight.cli import JOBS, main
from clearsight.errors import DataError, ModelError, UsageError


def test_help_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from clearsight.cli import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'sklearn', 'pyarrow', 'lance', 'numpy'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in JOBS:
        assert name in done.stdout


@pytest.mark.parametrize("name", [*JOBS, "info"])
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "code", "words"),
    [
        (["demmo"], UsageError.exit_code, "demo"),
        (["evaluate"], UsageError.exit_code, "Give either a model"),
        (["evaluate", "tiny", "--repairs", "realing"], UsageError.exit_code, "realign"),
        (["evaluate", "tiny", "--task", "wrld/i2t"], UsageError.exit_code, "world"),
        (["embed", "no/such/folder", "one.jsonl"], ModelError.exit_code, "no/such/folder"),
        (["embed", "tiny", "no/such/items.jsonl"], DataError.exit_code, "no/such/items.jsonl"),
    ],
)
def test_refusals_say_what_and_leave_with_their_code(
    tokens: list[str],
    code: int,
    words: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"id": "a", "text": "a red circle"}\n')
    assert main(tokens) == code
    shown = capfd.readouterr()
    assert words in shown.err + shown.out
    assert "Traceback" not in shown.err


def test_info_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "system", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert "one_word" in facts["prompts"]
    assert "realign" in facts["repairs"]


@pytest.mark.parametrize(
    "command",
    [
        ["export", "tiny"],
        ["evaluate", "tiny", "--task", "world/i2t", "--n", "8"],
        ["reproduce", "prompts", "--model", "tiny", "--n", "4"],
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main([*command, "--out", str(file / "out")]) == DataError.exit_code
    said = capsys.readouterr().err
    assert "error: The system refuses: " in said
    assert f"where: {file}" in said
    assert "do: Check the path" in said


def cli(*arguments: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "clearsight", *arguments], capture_output=True, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there")
def test_an_argument_need_not_be_text() -> None:
    done = cli("tasks", b"mm\xffeb")
    assert done.returncode == UsageError.exit_code
    assert b"error: Unknown benchmark 'mm\\udcffeb'." in done.stderr


def test_a_terminal_that_knows_no_arrows_gets_what_it_can_show() -> None:
    done = cli("tasks", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE")
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(as_json: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "clearsight", "tasks", *as_json],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert done.returncode in (1, 141), "rich leaves with 1"
    assert done.stderr == b""
