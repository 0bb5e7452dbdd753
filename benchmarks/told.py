"""What a section of docs/benchmarks.md is made of: the newest results, ratios, rows, where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
Line = dict[str, Any]


def newest(name: str, *keys: str) -> list[Line]:
    """The last line of each workload (told apart by `keys`) of one benchmark."""
    path = HERE / "results" / f"{name}.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return list({tuple(str(line[key]) for key in keys): line for line in lines}.values())


def spread(ratio: dict[str, float]) -> str:
    return f"**x{ratio['median']:.2f}** ({ratio['min']:.2f}-{ratio['max']:.2f})"


def seconds(line: Line, name: str) -> str:
    return f"{median(line['seconds'][name]):.3g}"


def origin(line: Line) -> str:
    machine = line["origin"]
    versions = line.get("peer_versions") or line["peers"]
    peers = ", ".join(f"{name} {version}" for name, version in versions.items())
    timed = line.get("seconds")
    rounds = line.get("rounds") or (len(next(iter(timed.values()))) if isinstance(timed, dict) else 1)
    commit = (machine.get("commit") or "unknown")[:10]
    return (
        f"{line['date']}, {rounds} rounds, {machine['cpu']}, {machine['cores']} cores, commit {commit}"
        f"{'; ' + peers if peers else ''}."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def section(title: str, note: str, head: list[str], rows: list[list[str]], lines: list[Line]) -> str:
    if not lines:
        return ""
    origins = "\n".join(f"* {text}" for text in dict.fromkeys(map(origin, lines)))
    return f"## {title}\n\n{note}\n\n{table(head, rows)}\n\n{origins}\n"
