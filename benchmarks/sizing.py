"""How large an index of 1e6 to 1e9 items is, what it costs, how long it takes: from measured rates.

`--measure` takes the rates on this machine (bytes a row of a real table, items a second of the shipped
model, the plain loop beside Ray) and, with `--save`, keeps them in results/sizing.jsonl. Without it the
tables are computed from what was kept; `--write` puts them into docs/scale.md. What was not measured is a
flag: items a second of one's own model, bytes of one's own images, dollars.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from harness import RESULTS, line, report
from PIL import Image
from told import table

from clearsight.store.keys import KeyIndex, digests
from clearsight.store.lance_index import ROWS_A_PARTITION

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- computed by benchmarks/sizing.py -->", "<!-- end -->"
SIZES = (10**6, 10**7, 10**8, 10**9)
TRAINED_ON = 256
"""Rows of a sample, for each partition, that Lance finds the centroids from."""


def photo(rng: np.random.Generator, side: int = 256) -> bytes:
    """A JPEG of noise whose spectrum falls as 1/f, as that of photographs does; little of it is colour."""
    at = np.fft.fftfreq(side)
    falling = 1 / np.maximum(np.hypot(at[:, None], at[None]), 1 / side)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((4, side, side))) * falling).real
    noise /= noise.std(axis=(1, 2), keepdims=True)
    values = 128 + 50 * noise[3] + 10 * noise[:3]
    file = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=90)
    return file.getvalue()


def rows_of(count: int, width: int, thumbnails: bool) -> pa.Table:
    """Rows as an index keeps them, of random vectors."""
    from clearsight.index.making import fixed
    from clearsight.index.pictures import thumbnail_of

    rng = np.random.default_rng(0)
    small = [thumbnail_of(photo(rng), item_id="photo") if thumbnails else None for _ in range(count)]
    vectors = rng.standard_normal((2, count, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return pa.table(
        {
            "id": [f"2024/05/01/IMG_{n:08d}.jpg" for n in range(count)],
            "key": [rng.bytes(32).hex() for _ in range(count)],
            "source": [f"2024/05/01/IMG_{n:08d}.jpg" for n in range(count)],
            "stamp": [f"{rng.integers(10**6, 10**7)}:17145600{n:011d}" for n in range(count)],
            "modality": ["image"] * count,
            "text": pa.nulls(count, pa.string()),
            "thumbnail": pa.array(small, pa.binary()),
            "raw": fixed(vectors[0]),
            "vector": fixed(vectors[1]),
        }
    )


def measure_rows(width: int, thumbnails: bool) -> dict[str, Any]:
    """Bytes a row of a table."""
    from clearsight.store.lance import LanceStore

    count = 512 if thumbnails else 4096
    rows = rows_of(count, width, thumbnails)
    with tempfile.TemporaryDirectory() as folder:
        store = LanceStore.open(f"{folder}/items.lance", width, create=True)
        store.add(rows)
        held = store.place.bytes() or 0
    small = [len(one) for one in rows["thumbnail"].to_pylist() if one is not None]
    return {
        "what": "row",
        "width": width,
        "repaired": width,
        "thumbnails": thumbnails,
        "rows": count,
        "bytes": round(held / count, 1),
        "thumbnail_bytes": round(float(np.mean(small)), 1) if small else 0,
    }


def measure_index(width: int, counts: tuple[int, int] = (2048, 6144)) -> dict[str, Any]:
    """Bytes that a row adds to the approximate indexes of both vectors, and to those of ids and content keys:
    between two tables of one partition each, so that what does not grow with the rows drops out."""
    from clearsight.store.lance import LanceStore
    from clearsight.store.lance_index import NAMES

    held: dict[str, list[int]] = {"vectors": [], "names": []}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            store = LanceStore.open(f"{folder}/items.lance", width, create=True)
            store.add(rows_of(count, width, thumbnails=False))
            store.build(force=True)
            sizes = {"vectors": 0, "names": 0}
            for index in store.view().dataset.describe_indices():
                kind = "names" if index.field_names[0] in NAMES else "vectors"
                for part in index.segments:
                    files = Path(folder).rglob(f"_indices/{part.uuid}/**/*")
                    sizes[kind] += sum(path.stat().st_size for path in files if path.is_file())
            for kind, size in sizes.items():
                held[kind].append(size)
    grows = {kind: round((two - one) / (counts[1] - counts[0]), 1) for kind, (one, two) in held.items()}
    return {
        "what": "index",
        "width": width,
        "rows": list(counts),
        "held": held,
        "bytes": grows["vectors"],
        "name_bytes": grows["names"],
    }


def measure_embedding(kind: str, count: int, rounds: int) -> dict[str, Any]:
    """Items a second of one core and the shipped model through `EmbedBatch`: read, embedded, repaired, made
    small. Seconds of the core, not of the clock: other work on the machine does not count."""
    from clearsight.data import world
    from clearsight.index import Index
    from clearsight.index.batch import BatchSettings, EmbedBatch, items_table
    from clearsight.index.folder import Entry

    entries = []
    if kind == "images":
        for n, item in enumerate(world.unlabelled_images(count, seed=1)):
            file = io.BytesIO()
            item.image.save(file, "PNG")
            entries.append(Entry(str(n), None, None, image=file.getvalue()))
    else:
        entries = [Entry(item.id, None, None, text=item.text) for item in world.texts(count, seed=1)]
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(folder + "/index", address="memory:")
        embed = EmbedBatch(BatchSettings(index.settings), index.encoder)
        items = items_table(entries, {})
        embed(items.slice(0, 16))
        seconds = []
        for _ in range(rounds):
            began = time.process_time()
            for first in range(0, count, 64):
                embed(items.slice(first, 64))
            seconds.append(round(time.process_time() - began, 2))
    rate = round(count / median(seconds), 1)
    return {
        "what": "embedding",
        "model": "tiny",
        "items": kind,
        "count": count,
        "core_seconds": seconds,
        "rate": rate,
    }


def measure_engines(count: int) -> dict[str, Any]:
    """The plain loop and Ray over one folder on this machine, from a loaded model to the last commit."""
    from clearsight.data import world
    from clearsight.index import Index
    from clearsight.index.scale import Cluster, sync_on_ray

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        for n, item in enumerate(world.unlabelled_images(count, seed=2)):
            item.image.save(folder / f"{n}.png")
        plain = Index.create(Path(name) / "plain", repair="none")
        began = time.perf_counter()
        plain.sync(folder)
        loop = time.perf_counter() - began
        ray = Index.create(Path(name) / "ray", plain.encoder, repair="none")
        began = time.perf_counter()
        sync_on_ray(ray, folder, cluster=Cluster(storage=200 << 20))
        return {
            "what": "engines",
            "model": "tiny",
            "count": count,
            "seconds": {"loop": round(loop, 2), "ray": round(time.perf_counter() - began, 2)},
        }


def measure_ids(count: int = 500_000) -> dict[str, Any]:
    """What an id costs the one machine that plans: bytes and seconds."""
    known = KeyIndex()
    began = time.process_time()
    for first in range(0, count, 65_536):
        known.add(
            digests([f"2024/05/01/IMG_{n:08d}.jpg" for n in range(first, min(first + 65_536, count))]), first
        )
    seconds = time.process_time() - began
    return {"what": "ids", "count": count, "bytes": 24, "microseconds": round(seconds / count * 1e6, 2)}


def kept() -> list[dict[str, Any]]:
    """The newest line of each rate."""
    path = RESULTS / "sizing.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    named = {(one["what"], one.get("width"), one.get("thumbnails"), one.get("items")): one for one in lines}
    return list(named.values())


def searches() -> dict[str, Any] | None:
    """The newest measured search of the wanted store over raw vectors, if there is one."""
    path = RESULTS / "search.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    raw = [one for one in lines if one["space"] == "raw"]
    return max(raw, key=lambda one: one["sizes"]["rows"]) if raw else None


def human(count: float, units: str = "B kB MB GB TB PB", step: float = 1000) -> str:
    names = units.split()
    place = min(len(names) - 1, max(0, int(math.log(max(count, 1), step))))
    value = count / step**place
    return f"{value:.0f} {names[place]}" if value >= 10 or place == 0 else f"{value:.1f} {names[place]}"


def duration(seconds: float) -> str:
    for size, name in ((365 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (name == "h" and seconds >= size):
            return f"{seconds / size:,.0f} {name}" if seconds >= 10 * size else f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def storage(lines: list[dict[str, Any]]) -> str:
    """Bytes by size, for each measured kind of row."""
    rows = sorted(
        (one for one in lines if one["what"] == "row"), key=lambda one: (one["width"], one["thumbnails"])
    )
    index = {one["width"]: one["bytes"] + one["name_bytes"] for one in lines if one["what"] == "index"}
    head = ["row", "bytes a row", "its indexes", *(f"{size:.0e}".replace("e+0", "e") for size in SIZES)]
    cells = []
    for one in rows:
        small = f"thumbnails of {human(one['thumbnail_bytes'])}" if one["thumbnails"] else "no thumbnails"
        whole = one["bytes"] + index[one["width"]]
        cells.append(
            [
                f"D = E = {one['width']}, {small}",
                f"{one['bytes']:,.0f}",
                f"{index[one['width']]:,.0f}",
                *(human(whole * size) for size in SIZES),
            ]
        )
    return table(head, cells)


def work(lines: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """What embedding, planning and indexing take by size."""
    ids = next(one for one in lines if one["what"] == "ids")
    codes = next(one for one in lines if one["what"] == "index" and one["width"] == options.width)
    found = searches()
    head = ["", *(f"{size:.0e}".replace("e+0", "e") for size in SIZES)]
    hours = [size / options.rate / 3600 for size in SIZES]
    rows = [
        ["images read", *(human(size * options.image_bytes) for size in SIZES)],
        ["GPU hours", *(f"{one:,.0f}" for one in hours)],
        [f"on {options.gpus} GPUs", *(duration(one * 3600 / options.gpus) for one in hours)],
        ["dollars", *(f"{one * options.dollars:,.0f}" for one in hours)],
        ["files of the table", *(f"{math.ceil(size / options.file_rows):,}" for size in SIZES)],
        [
            "ids where it is planned (known + seen)",
            *(
                f"{human(2 * ids['bytes'] * size)}, {duration(2 * ids['microseconds'] * size / 1e6)}"
                for size in SIZES
            ),
        ],
        ["partitions of the index", *(f"{size // ROWS_A_PARTITION:,}" for size in SIZES)],
        [
            "sample that its centroids are found from, one machine",
            *(human(size // ROWS_A_PARTITION * TRAINED_ON * 4 * options.width) for size in SIZES),
        ],
        ["codes read by searches (one space)", *(human(codes["bytes"] / 2 * size) for size in SIZES)],
        ["vectors of one space", *(human(4 * options.width * size) for size in SIZES)],
    ]
    if found is not None and found["found"].get("ours", {}).get("build"):
        ours, measured = found["found"]["ours"], found["sizes"]["rows"]
        whole = sum(ours["build"]["seconds"].values())
        rows.append(
            [
                f"writing and index on one machine (measured at {measured:,} rows)",
                *(duration(whole * size / measured) for size in SIZES),
            ]
        )
    else:
        rows.append(["writing and index on one machine", "after `bench_search.py --save`", "", "", ""])
    return table(head, rows)


def search_said() -> str:
    """Search as it was measured; it is not scaled: what it reads is in the table."""
    found = searches()
    if found is None:
        return "Search: `python benchmarks/bench_search.py --save` measures it, docs/benchmarks.md shows it."
    ours, sizes = found["found"]["ours"], found["sizes"]
    return (
        f"Search, measured at {sizes['rows']:,} rows of width {sizes['width']:,}: {ours['p50']:.0f} ms a "
        f"query (median), recall@10 {ours['recall']:.3f}, {human(ours['bytes'])} of memory."
    )


def rates(lines: list[dict[str, Any]]) -> str:
    said = []
    for one in lines:
        if one["what"] == "embedding":
            said.append(f"one core embeds {one['rate']:,.0f} {one['items']} a second with the shipped model")
        if one["what"] == "engines":
            loop, ray = one["seconds"]["loop"], one["seconds"]["ray"]
            said.append(f"{one['count']} pictures take the plain loop {loop:.1f} s and Ray {ray:.1f} s")
    origin = lines[0]["origin"]
    return f"Measured ({lines[0]['date']}, {origin['cpu']}, {origin['cores']} cores): {'; '.join(said)}."


def page(options: argparse.Namespace) -> str:
    lines = kept()
    assumed = (
        f"Assumed, not measured: {options.rate:g} items/s for each GPU, {human(options.image_bytes)} an "
        f"image, {options.gpus} GPUs, ${options.dollars:g} a GPU-hour; chosen: files of "
        f"{options.file_rows:,} rows, D = E = {options.width}. Yours: "
        "`python benchmarks/sizing.py --rate R --image-bytes B --gpus G --dollars C`."
    )
    return "\n\n".join([rates(lines), storage(lines), assumed, work(lines, options), search_said()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="take the rates on this machine")
    parser.add_argument("--only", nargs="*", default=["row", "index", "embedding", "engines", "ids"])
    parser.add_argument("--save", action="store_true", help="append them to results/sizing.jsonl")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    parser.add_argument("--rate", type=float, default=50.0, help="items a second that one GPU embeds")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--dollars", type=float, default=2.0, help="of a GPU-hour")
    parser.add_argument("--image-bytes", type=float, default=200e3, help="of one encoded image")
    parser.add_argument("--file-rows", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=1024, choices=(1024, 1536))
    options = parser.parse_args()
    if options.measure:
        found: list[dict[str, Any]] = []
        if "row" in options.only:
            found += [measure_rows(width, small) for width in (1024, 1536) for small in (False, True)]
        if "index" in options.only:
            found += [measure_index(width) for width in (1024, 1536)]
        if "embedding" in options.only:
            found += [measure_embedding(kind, 256, 3) for kind in ("images", "texts")]
        if "engines" in options.only:
            found.append(measure_engines(256))
        if "ids" in options.only:
            found.append(measure_ids())
        for one in found:
            report(line("sizing", peers=("pylance",), **one), save=options.save)
        return
    text = page(options)
    if not options.write:
        print(text)
        return
    before = PAGE.read_text(encoding="utf-8")
    head, rest = before.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
