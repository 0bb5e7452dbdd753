"""A process of a test's own code, to be killed."""

from __future__ import annotations

import subprocess
import sys

# A shell's background job ignores SIGINT, and so would what it starts.
_PRELUDE = """
import signal, sys
sys.path[:0] = {paths!r}
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Python on `code`, which imports what this process can and prints "ready" first."""
    paths = [str(path) for path in sys.path if path]
    worker = subprocess.Popen(
        [sys.executable, "-c", _PRELUDE.format(paths=paths) + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker
