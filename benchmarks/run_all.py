"""Every benchmark beside its peers, one after the other (never at once), then docs/benchmarks.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# name -> the arguments of each of its runs
BENCHMARKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "help": ((),),
    "rank": ((),),
    "scale": (("metadata",), ("ranking", "--rounds", "1"), ("measures",)),
    "realign": ((),),
    "embed": ((),),
    "sae": ((), ("--width", "1024", "--concepts", "16384", "--k", "50")),
    "concepts": (("large",), ("beside",)),
    "rerank": ((),),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(BENCHMARKS), help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--save", action="store_true", help="keep the results and write docs/benchmarks.md")
    options = parser.parse_args()
    for name in options.names:
        for arguments in BENCHMARKS[name]:
            command = [sys.executable, str(HERE / f"bench_{name}.py"), *arguments]
            subprocess.run([*command, *(["--save"] if options.save else [])], check=True, cwd=HERE)
    if options.save:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=True, cwd=HERE)


if __name__ == "__main__":
    main()
