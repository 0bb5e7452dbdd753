"""Every benchmark beside its peers, one after the other (never at once), then docs/benchmarks.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = ("help", "rank", "realign", "embed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--save", action="store_true", help="keep the results and write docs/benchmarks.md")
    options = parser.parse_args()
    for name in options.names:
        command = [sys.executable, str(HERE / f"bench_{name}.py"), *(["--save"] if options.save else [])]
        subprocess.run(command, check=True, cwd=HERE)
    if options.save:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=True, cwd=HERE)


if __name__ == "__main__":
    main()
