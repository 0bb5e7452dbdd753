"""Exit codes mean something; help is light; a refusal is a message, never a traceback."""

from __future__ import annotations

import json
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
