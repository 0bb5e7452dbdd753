"""Every benchmark beside its peers, one after the other (never at once), then docs/benchmarks.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# name -> the arguments of each of its runs; the file is bench_NAME.py, or NAME.py where it measures quality
BENCHMARKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "help": ((),),
    "rank": ((),),
    "scale": (("metadata",), ("ranking", "--rounds", "1"), ("measures",)),
    "realign": ((),),
    "embed": ((),),
    "sae": ((), ("--width", "1024", "--concepts", "16384", "--k", "50")),
    "concepts": (("large",), ("beside",)),
    "rerank": ((),),
    "rerank_quality": ((),),
    "rerank_ablation": ((),),
    "mine": ((), ("--search", "approximate")),
    "mine_quality": (
        ("--repairs", "base,centred,realign,self_aligned"),
        ("--model", "tiny-contrastive", "--repairs", "base,realign"),
    ),
    "train_quality": ((),),
    "search": ((),),
    "serve": ((),),
}


def script(name: str) -> Path:
    quality = HERE / f"{name}.py"
    return quality if quality.is_file() else HERE / f"bench_{name}.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(BENCHMARKS), help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--save", action="store_true", help="keep the results and write docs/benchmarks.md")
    options = parser.parse_args()
    for name in options.names:
        for arguments in BENCHMARKS[name]:
            command = [sys.executable, str(script(name)), *arguments]
            subprocess.run([*command, *(["--save"] if options.save else [])], check=True, cwd=HERE)
    if options.save:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=True, cwd=HERE)


if __name__ == "__main__":
    main()
