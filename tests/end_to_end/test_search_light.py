"""`clearsight search` loads what a search needs, and nothing that only other commands need."""

from __future__ import annotations

import subprocess
import sys

from serving import collection

UNNEEDED = (
    "clearsight.data.benchmarks",
    "clearsight.mining",
    "clearsight.training",
    "clearsight.serve",
    "datasets",
    "faiss",
    "fastapi",
    "lancedb",
    "matplotlib",
    "mteb",
    "numba",
    "pacmap",
    "peft",
    "psycopg",
    "ray",
    "sentence_transformers",
    "sqlglot",
    "umap",
    "uvicorn",
)


def test_a_search_loads_nothing_that_only_others_need() -> None:
    code = (
        "import sys; from clearsight.cli import main; "
        "done = main(['search', 'a red ring', '--index', sys.argv[1], '--json']); "
        "assert not done, done; "
        f"extra = set({UNNEEDED}) & set(sys.modules); sys.exit(repr(extra) if extra else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(collection())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"hits"' in done.stdout
