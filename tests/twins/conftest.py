"""What the comparisons with other libraries share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clearsight.formats import remote

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def stock_path() -> str:
    """PYTHONPATH of a process that can open every exported folder."""
    stock = os.environ.get("CLEARSIGHT_STOCK")
    if stock is None:
        pytest.skip("CLEARSIGHT_STOCK is not set; run make test-peers")
    return os.pathsep.join((str(HERE / "stock_shim"), stock))


@pytest.fixture(scope="session")
def ask_stock(stock_path: str) -> Callable[[Path, Sequence[dict[str, Any]]], None]:
    """Has one process, which never loads Clearsight, answer requests (see `stock_worker.py`)."""

    def ask(root: Path, requests: Sequence[dict[str, Any]]) -> None:
        asked = root / "requests.json"
        script = str(Path(remote.__file__).with_name("encode_folder.py"))
        asked.write_text(json.dumps({"script": script, "requests": requests}))
        done = subprocess.run(
            [sys.executable, HERE / "stock_worker.py", asked],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": stock_path},
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return ask
