"""docs/benchmarks.md from the newest result of every workload in results/*.jsonl."""

from __future__ import annotations

from typing import Any

from tables_quality import mine_quality, rerank_ablation, rerank_quality, train_quality
from told import HERE, newest, seconds, section, spread

PAGE = HERE.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Made from `benchmarks/results/*.jsonl` by `make bench` (`benchmarks/tables.py`); do not edit by hand.
Ours and the peer take turns in one process; ratios are taken round by round, and the median is shown with the
least and the greatest. The floor is the work that no implementation can leave out, run on the same machine in
the same rounds. Machines drift: only ratios mean something.
"""


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
    "floor": "one product with all rows in memory, and numpy's choice of the best",
}


def search() -> str:
    lines = newest("search", "space", "sizes")
    rows = []
    for line in lines:
        for name, one in line["found"].items():
            built = (one["build"] or {}).get("seconds", {})
            cpu = f" ({one['build']['cpu']:,.0f})" if "cpu" in (one["build"] or {}) else ""
            if name.startswith("ours"):
                built = {key: value for key, value in built.items() if key in ("rows", line["space"])}
                cpu = ""  # of both spaces together
            rows.append(
                [
                    "{rows:,} x {width:,}".format(**line["sizes"]),
                    WAYS[name],
                    f"{one['recall']:.3f}",
                    f"{one['p50']:.3g} / {one['p95']:.3g}",
                    f"{one['cpu']:.3g}",
                    f"{one['batch_p50']:.3g}",
                    f"{one['cold']:.1f}",
                    f"{sum(built.values()):,.0f}{cpu}" if built else "",
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
        "build s (CPU)",
        "disk MiB",
        "memory MiB",
    ]
    note = (
        "The ten best of one query. Ways with an effort have the least that reaches the wanted recall; build "
        "is writing the rows and the index of the space. Our one store holds both spaces, texts and files "
        "on disk, synced at every commit; a peer holds ids and one space. Cold is a fresh process up to its "
        "first answer. faiss and the product hold all rows in memory. "
        "Command: `python benchmarks/bench_search.py`."
    )
    return section("Search", note, head, rows, lines)


def serve() -> str:
    lines = newest("serve", "model", "clients")
    rows = []
    for line in lines:
        for what in ("embeddings", "search"):
            both = line[what]
            rows.append(
                [
                    f"{what}, {line['clients']} clients",
                    *(f"{both[way]['per_s']:.0f}" for way in ("batched", "one_by_one")),
                    f"**x{both['times_the_rate']:.2f}**",
                    f"{line['floor_texts_per_s']:.0f}",
                    *(
                        f"{both[way]['p50_ms']:.0f} / {both[way]['p95_ms']:.0f}"
                        for way in ("batched", "one_by_one")
                    ),
                ]
            )
        alone = "{p50_ms:.0f} / {p95_ms:.0f}".format(**line["alone_ms"])
        rows.append(["embeddings, 1 client", "", "", "", "", alone, ""])
    head = [
        "requests",
        "batched /s",
        "one by one /s",
        "batching brings",
        "floor /s",
        "batched p50 / p95 ms",
        "one by one p50 / p95 ms",
    ]
    note = (
        "The shipped model over 400 items, each connection asking again as soon as it is answered; clients, "
        "sockets and JSON share the two cores with the server, whose model has one thread. The floor is the "
        "same texts through the encoder, 64 at a time, without a server. "
        "Command: `python benchmarks/bench_serve.py`."
    )
    return section("Server", note, head, rows, lines)


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
        serve(),
        start(),
    ]
    PAGE.write_text("\n".join(part for part in parts if part))


if __name__ == "__main__":
    main()
