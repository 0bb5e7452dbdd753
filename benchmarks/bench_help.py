"""`clearsight --help` beside a bare Python start: what a person waits for before anything happens."""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial

from harness import interleave, line, ratio, report


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--save", action="store_true", help="append to results/help.jsonl")
    options = parser.parse_args()
    seconds = interleave(
        {
            "help": partial(run, "import sys; from clearsight.cli import main; sys.exit(main(['--help']))"),
            "bare": partial(run, "pass"),
        },
        options.rounds,
    )
    over = sorted(a - b for a, b in zip(seconds["help"], seconds["bare"], strict=True))
    report(
        line(
            "help",
            seconds=seconds,
            over_bare_seconds={"median": over[len(over) // 2], "min": over[0], "max": over[-1]},
            ratio=ratio(seconds, "help", "bare"),
        ),
        save=options.save,
    )


if __name__ == "__main__":
    main()
