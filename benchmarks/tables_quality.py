"""Sections of docs/benchmarks.md that say how good, not how fast: hits, clusters, what training brings."""

from __future__ import annotations

from typing import Any

from told import Line, newest, section


def rerank_quality() -> str:
    lines = newest("rerank_quality", "recipe", "queries", "way", "scorer", "tie", "fuse")
    rows = [
        [
            f"{line['recipe']}, {line['way']}, {line['queries']:,} queries",
            line["scorer"],
            f"{line['coarse']:.1f}",
            f"{line['hit_rate@1']:.1f} ({line['interval'][0]:.1f}-{line['interval'][1]:.1f})",
            f"{line['bound']:.1f}",
            f"{line['unparsed']:,} of {line['asked']:,}" if line["asked"] else "",
        ]
        for line in lines
    ]
    head = ["coarse stage", "scorer", "coarse", "reranked", "bound", "unparsed answers"]
    note = (
        "Hit rate@1 in % on the shipped model, among 2,000 scenes, the first 20 judged again; `refined` and "
        "`self_aligned` as in the README, one-word mean. The bound is what no reordering of these 20 can "
        "pass. Queries whose answers cannot be parsed keep their coarse order. Command: "
        "`python benchmarks/rerank_quality.py`."
    )
    return section("Reranking: quality", note, head, rows, lines)


ABLATED = ("all", "no visual", "no entropy", "neither")


def rerank_ablation() -> str:
    lines = newest("rerank_ablation", "recipe", "queries", "top", "way", "form", "row")
    grouped: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in lines:
        key = tuple(line[name] for name in ("recipe", "queries", "top", "way", "form"))
        grouped.setdefault(key, {})[line["row"]] = line
    rows = [
        [
            f"{way}, {queries} queries, top {top}",
            form,
            f"{100 * next(iter(found.values()))['moved']:.0f}%",
            *(f"{found[name]['hit_rate@1']:.1f}" if name in found else "" for name in ABLATED),
        ]
        for (_, queries, top, way, form), found in grouped.items()
    ]
    head = ["coarse stage", "form", "pairs it moves", *ABLATED]
    note = (
        "Looking again: hit rate@1 in % on the shipped model with visual enhancement and the tie-break by "
        "entropy, and without one or both. Command: `python benchmarks/rerank_ablation.py`."
    )
    return section("Reranking: looking again", note, head, rows, lines)


def mine_quality() -> str:
    lines = newest("mine_quality", "sizes")
    # A later line's row takes the place of an earlier one's; the first lines had one seed and no repair.
    found_in: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in lines:
        for row in line["rows"]:
            key = (line["sizes"]["model"], row.get("repair", "base"), row["strategy"], row["pool"])
            found_in[(*key, row.get("seed", 0))] = row["quality"]
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for (*key, _), quality in sorted(found_in.items()):
        grouped.setdefault(tuple(key), []).append(quality)
    rows = [
        [
            model,
            "none" if repair == "base" else repair,
            strategy + (f", pool {pool}" if strategy.startswith("saha") else ""),
            *(_over_seeds([100 * one[name] for one in found]) for name in ("false_negatives", "false_pairs")),
            _over_seeds([100 * one["left_over"] / (one["left_over"] + one["in_clusters"]) for one in found]),
            f"{_mean([one['mean_size'] for one in found]):.1f}",
        ]
        for (model, repair, strategy, pool), found in grouped.items()
    ]
    head = ["model", "repair", "strategy", "false negatives %", "false pairs %", "left over %", "mean size"]
    note = (
        "Clusters where the truth is known: 500 scenes, each drawn and described three times, the labels "
        "knowing only each caption's own picture. False negatives: of an anchor's negatives the share that "
        "is right; false pairs: the same over all pairs of a cluster. Mean over seeds (least-greatest). "
        "Command: `python benchmarks/mine_quality.py --repairs base,realign`."
    )
    return section("Mining: quality", note, head, rows, lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _over_seeds(values: list[float]) -> str:
    spread_of = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
    return f"{_mean(values):.1f}{spread_of}"


def train_quality() -> str:
    lines = newest("train_quality", "settings", "section", "row")
    # The long form's rows where there are any.
    lines = [one for one in lines if not one["settings"]["short"]] or lines
    rows = [
        [
            line["section"],
            line["row"],
            *(
                f"{line[way][0]:.1f} ({line[way][1]:.1f}-{line[way][2]:.1f})"
                for way in ("i2t", "t2i", "composed")
            ),
            f"{line['captions']['consistent']:.1f}" if "captions" in line else "",
            f"{line['steps']:.0f}" if "steps" in line else "",
            " / ".join(f"{line[name]:.3g}" for name in ("mine_seconds", "train_seconds") if name in line),
        ]
        for line in lines
    ]
    head = [
        "section",
        "row",
        "image to text",
        "text to image",
        "composed",
        "captions consistent %",
        "steps",
        "CPU s to mine / train",
    ]
    note = (
        "Hit rate@1 in % of the shipped model on the world's held-out scenes, after LoRA on spare ones; "
        "bootstrap intervals over queries of the mean over seeds. "
        "Command: `python benchmarks/train_quality.py`."
    )
    return section("Training: quality", note, head, rows, lines)
