"""docs/benchmarks.md from the newest result of every workload in results/*.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
Line = dict[str, Any]

HEAD = """# Benchmarks

Made from `benchmarks/results/*.jsonl` by `make bench` (`benchmarks/tables.py`); do not edit by hand.
Ours and the peer take turns in one process; ratios are taken round by round, and the median is shown with the
least and the greatest. The floor is the work that no implementation can leave out, run on the same machine in
the same rounds. Machines drift: only ratios mean something.
"""


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


def embed() -> str:
    lines = newest("embed", "model", "workload")
    rows = [
        [
            f"{line['model']} ({line['parameters'] / 1e6:.0f} M)",
            line["workload"],
            str(line["items"]),
            seconds(line, "clearsight"),
            seconds(line, "sentence-transformers"),
            spread(line["speedup"]),
            spread(line["over_floor"]),
            f"{line['difference']:.0e}",
        ]
        for line in lines
    ]
    head = [
        "model",
        "workload",
        "items",
        "ours s",
        "sentence-transformers s",
        "faster by",
        "over the floor",
        "difference",
    ]
    note = (
        "Same model folder, same items, vectors equal to the share of the largest value shown. The floor is "
        "the forward passes of our own batches with nothing around them. "
        "Command: `python benchmarks/bench_embed.py`."
    )
    return section("Embedding beside sentence-transformers", note, head, rows, lines)


def rank() -> str:
    lines = newest("rank", "sizes")
    rows = [
        [
            "{queries:,} x {candidates:,} x {width:,}, top {k}".format(**line["sizes"]),
            seconds(line, "rank"),
            seconds(line, "faiss"),
            spread(line["ratio"]),
            spread(line["ratio_counted"]),
            spread(line["ratio_to_floor"]),
            " / ".join(f"{line['extra_bytes'][name] / 2**20:.0f}" for name in ("rank", "faiss")),
        ]
        for line in lines
    ]
    head = [
        "size",
        "ours s",
        "faiss s",
        "ours / faiss",
        "with relevance counted / faiss",
        "ours / floor",
        "extra MiB",
    ]
    note = (
        "Exact cosine ranking. Ours includes lengths, ties to the bit and their counts. The floor is the "
        "matrix product alone, in float32. Command: `python benchmarks/bench_rank.py`."
    )
    return section("Ranking beside faiss-cpu IndexFlatIP", note, head, rows, lines)


SCALES = {
    "metadata": ("jsonl to a checked task, first time", "x the parser alone", "pyarrow"),
    "ranking": ("ranked and scored from the store", "x the matrix product alone", "sgemm"),
    "measures": ("seven measures of a ranking", "x pytrec_eval", "pytrec_eval"),
}


def scale() -> str:
    lines = newest("scale", "mode", "sizes")
    rows = []
    for line in lines:
        what, unit, below = SCALES[line["mode"]]
        size = {
            "metadata": "{candidates:,}",
            "ranking": "{queries:,} x {candidates:,} x {width:,}",
            "measures": "{queries:,} queries",
        }[line["mode"]].format(**line["sizes"])
        own, *others = line["seconds"]
        told = ", ".join(f"{name} {seconds(line, name)}" for name in others)
        held = " / ".join(f"{size / 2**20:.0f}" for size in line["peak_bytes"].values())
        rows.append([what, size, seconds(line, own), told, f"{spread(line['ratio'][below])} {unit}", held])
    head = ["what", "size", "ours s", "others s", "ours", "most MiB held (ours / others)"]
    note = (
        "Each contender in a process of its own; seconds without imports, memory with them. `again` reads "
        "the table that the first time left parsed; `read` reads the vectors' bytes and nothing else. "
        "Command: `python benchmarks/bench_scale.py metadata`, `... ranking`, `... measures`."
    )
    return section("Pools of a million", note, head, rows, lines)


def realign() -> str:
    lines = newest("realign", "n", "d")
    rows = [
        [
            f"{line['n']:,} x {line['d']:,}",
            seconds(line, "clearsight"),
            seconds(line, "textbook"),
            spread(line["speedup"]),
            spread(line["over_floor"]),
            f"{line['peak_extra_bytes'] / 2**20:.0f}",
        ]
        for line in lines
    ]
    head = ["size", "ours s", "textbook float64 SVD s", "faster by", "over the floor", "extra MiB"]
    note = (
        "ReAlign, fit and transform. The floor is two passes of matrix products over the data (statistics in "
        "float64) and one symmetric eigendecomposition. Command: `python benchmarks/bench_realign.py`."
    )
    return section("ReAlign", note, head, rows, lines)


STEPS = {
    "fused": "ours (tangent, clipping where needed)",
    "fused_clipped": "ours, every step clipped",
    "fused_release": "ours, release preset",
    "reference": "ours, reference (autograd)",
    "overcomplete": "overcomplete, MSE",
    "overcomplete+aux": "overcomplete, its AuxK loss",
    "sparsify": "sparsify (Adam)",
    "saelens": "SAELens, dense",
    "saelens_sparse": "SAELens, sparse activations",
    "dictionary_learning": "dictionary_learning",
}


def sae() -> str:
    lines = newest("sae", "shape")
    rows = []
    for line in lines:
        shape = "d {width:,}, c {concepts:,}, k {k}, B {batch:,}".format(**line["shape"])
        floor = sum(line["floor"][name] for name in ("sgemm", "gathers", "adam"))
        for name, label in STEPS.items():
            if name in line["milliseconds"]:
                took = line["milliseconds"][name]
                slower = spread(line["faster"][name]) if name in line["faster"] else ""
                rows.append(
                    [shape, label, f"{took:.0f}", f"{line['over_sgemm'][name]:.2f}", f"{floor:.0f}", slower]
                )
    head = ["shape", "step", "ms", "over the encoder product", "floor ms", "ours is faster by"]
    note = (
        "One training step of a top-k autoencoder, float32, Adam. The floor is one encoder product, the "
        "gathers of active latents and Adam's traffic, each from its fastest measurement. What each peer's "
        "step contains is told in `benchmarks/sae_peers_worker.py`. "
        "Command: `python benchmarks/bench_sae.py`."
    )
    return section("Training step of an autoencoder", note, head, rows, lines)


def concepts() -> str:
    large, beside = newest("concepts_large", "sizes"), newest("concepts_beside", "sizes")
    size = "{concepts:,} concepts, {width:,} wide, {pairs:,} pairs, k {k}"
    rows = [
        [
            size.format(**line["sizes"]),
            part,
            f"{took['seconds']:.3g}",
            f"{line['gram_floor_seconds']:.3g}" if part == "bridge" else "",
            "does not fit",
            f"{took['extra_bytes'] / 2**20:.0f}",
        ]
        for line in large
        for part, took in line["parts"].items()
    ]
    rows += [
        [
            size.format(**line["sizes"]),
            "everything",
            seconds(line, "ours"),
            "",
            f"{seconds(line, 'dense')} s, {spread(line['ratio'])}",
            f"{line['extra_bytes']['ours'] / 2**20:.0f} / {line['extra_bytes']['dense'] / 2**20:.0f}",
        ]
        for line in beside
    ]
    head = ["size", "part", "s", "floor s", "the dense formula, faster by", "extra MiB (ours / dense)"]
    note = (
        "Concept profile: energy and modality, attribution, all four reductions of the bridge. The floor of "
        "the bridge is the product D D^T alone. Commands: `python benchmarks/bench_concepts.py large`, "
        "`... beside`."
    )
    return section("Concept profile", note, head, rows, [*large, *beside])


def rerank() -> str:
    lines = newest("rerank", "model", "scorer", "way", "top")
    rows = [
        [
            f"{line['scorer']}, {line['way']}, top {line['top']}",
            f"{line['pairs_per_second']['clearsight']:.0f}",
            spread(line["over_plain"]),
            spread(line["over_peer"]) if line["over_peer"] else "",
            spread(line["over_floor"]),
        ]
        for line in lines
    ]
    head = [
        "scorer",
        "pairs/s",
        "over one plain forward a pair",
        "over CrossEncoder",
        "seconds over the floor",
    ]
    note = (
        "Equal scores to 1e-4. Plain: one transformers forward for each pair, batch 1. The floor is the "
        "forward passes of our own batches with nothing around them. Command: "
        "`python benchmarks/bench_rerank.py`."
    )
    return section("Reranking", note, head, rows, lines)


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


def mine() -> str:
    # Lines from before there was a floor are left out.
    lines = [line for line in newest("mine", "sizes") if "search" in line["sizes"]]
    rows = [
        [
            line["sizes"]["search"],
            f"{row['pairs']:,} x {line['sizes']['width']:,}",
            f"{row['seconds']:.3g}",
            f"{row['searched']:,} for {row['clusters']:,}",
            f"{row['over_floor']:.2f}",
            f"**x{row['ratio']['straight']:.1f}**",
            f"x{row['ratio_of_the_floor']:.1f}",
            f"x{row['ratio']['search_of_the_release']:.1f}",
            _same(row["search"]),
            f"{row['extra_bytes'] / 2**20:.0f}",
        ]
        for line in lines
        for row in line["rows"]
    ]
    head = [
        "search",
        "pairs",
        "s",
        "searched for clusters",
        "over the floor",
        "over the straight way",
        "the floor over it",
        "over the release's search",
        "same as exact",
        "extra MiB",
    ]
    note = (
        "SaHa, 7 negatives, pool 4. The straight way scores and sorts all candidates for one anchor at a "
        "time; it and the release's search are measured on a sample between our blocks. The floor is the "
        "float32 product of every anchor that has to be searched with all candidates. "
        "Command: `python benchmarks/bench_mine.py`."
    )
    return section("Mining", note, head, rows, lines)


def _same(search: dict[str, Any]) -> str:
    if "same_clusters" not in search:
        return ""
    return f"recall@10 {search['recall@10']:.3f}, {100 * search['same_clusters']:.0f}% of clusters"


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


WAYS = {
    "ours": "Clearsight, ids",
    "ours_hits": "Clearsight, ids and what a hit shows",
    "ours_exact": "Clearsight, exact",
    "lancedb_tuned": "LanceDB, the same kind of index, refined",
    "lancedb_default": "LanceDB, default index",
    "lancedb_flat": "LanceDB, no index",
    "faiss_ivf": "faiss IVF",
    "faiss_hnsw": "faiss HNSW",
    "faiss_flat": "faiss, exact",
    "floor": "one pass of the product in memory",
}


def search() -> str:
    lines = newest("search", "space", "sizes")
    rows = []
    for line in lines:
        for name, one in line["found"].items():
            built = (one["build"] or {}).get("seconds", {})
            if name.startswith("ours"):
                built = {key: value for key, value in built.items() if key in ("rows", line["space"])}
            rows.append(
                [
                    "{rows:,} x {width:,}".format(**line["sizes"]),
                    WAYS[name],
                    f"{one['recall']:.3f}",
                    f"{one['p50']:.3g} / {one['p95']:.3g}",
                    f"{one['cpu']:.3g}",
                    f"{one['batch_p50']:.3g}",
                    f"{one['cold']:.1f}",
                    f"{sum(built.values()):,.0f}" if built else "",
                    f"{one['disk'] / 2**20:,.0f}" if one["disk"] else "",
                    f"{one['bytes'] / 2**20:,.0f}",
                ]
            )
    head = [
        "rows",
        "way",
        "recall@10",
        "p50 / p95 ms",
        "CPU ms",
        "ms each of 32",
        "cold s",
        "build s",
        "disk MiB",
        "memory MiB",
    ]
    note = (
        "The ten best of one query. Ways with an effort have the least that reaches the wanted recall; build "
        "is writing the rows and the index of the space. Our one store holds both spaces, texts and files "
        "on disk, synced at every commit; a peer holds ids and one space. Cold is a fresh process up to its "
        "first answer. faiss and the floor hold all rows in memory. "
        "Command: `python benchmarks/bench_search.py`."
    )
    return section("Search", note, head, rows, lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _over_seeds(values: list[float]) -> str:
    spread_of = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
    return f"{_mean(values):.1f}{spread_of}"


def start() -> str:
    lines = newest("help")
    rows = [
        [
            "clearsight --help",
            seconds(line, "help"),
            seconds(line, "bare"),
            f"{line['over_bare_seconds']['median']:.3f} ({line['over_bare_seconds']['min']:.3f}-"
            f"{line['over_bare_seconds']['max']:.3f})",
        ]
        for line in lines
    ]
    note = "Whole processes. Command: `python benchmarks/bench_help.py`."
    return section(
        "Start of the command line",
        note,
        ["command", "s", "bare Python s", "over bare Python s"],
        rows,
        lines,
    )


def section(title: str, note: str, head: list[str], rows: list[list[str]], lines: list[Line]) -> str:
    if not lines:
        return ""
    origins = "\n".join(f"* {text}" for text in dict.fromkeys(map(origin, lines)))
    return f"## {title}\n\n{note}\n\n{table(head, rows)}\n\n{origins}\n"


def main() -> None:
    parts = [
        HEAD,
        embed(),
        rank(),
        scale(),
        realign(),
        sae(),
        concepts(),
        rerank(),
        rerank_quality(),
        rerank_ablation(),
        mine(),
        mine_quality(),
        train_quality(),
        search(),
        start(),
    ]
    PAGE.write_text("\n".join(part for part in parts if part))


if __name__ == "__main__":
    main()
