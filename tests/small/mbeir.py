"""A small M-BEIR in the release's files and in its parquet mirror, with the oddities of both.

In every set, query i looks for candidate i; query 1 has a second positive (candidate n + 1), and the last
query has none. Oddities: columns that are null in every row, two candidates of one content (the last two), a
line that repeats another whole, a positive of another data set's pool (OVEN, InfoSeek), grades
of 0, pools and relevance of two splits, MSCOCO's pool a split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clearsight.data.benchmarks.mbeir_sets import BASES, DATASET_IDS, WITH_REFERENCE, MbeirSet
from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption
from clearsight.data.world import scenes

WORDS = {"text": "text", "image": "image", "image+text": "image,text"}
INSTRUCTIONS = 4


def write_mbeir(folder: Path, sets: Iterable[str] = BASES, *, n: int = 6, seed: int = 0) -> Path:
    """The release's layout: n queries and n + 3 candidates for each set (names without suffix) and split."""
    texts, images = _material(folder, n + 3, seed)
    union: dict[str, list[dict]] = {"test": [], "val": []}
    for base in sets:
        one = MbeirSet(base)
        pools = {split: _pool(one, split, n, texts, images) for split in ("test", "val")}
        if one.dataset == "mscoco":
            for split, pool in pools.items():
                _lines(folder / f"cand_pool/local/mbeir_{base}_{split}_cand_pool.jsonl", pool)
        else:
            _lines(folder / f"cand_pool/local/mbeir_{base}_cand_pool.jsonl", pools["test"])
            pools["val"] = pools["test"]
        for split, pool in pools.items():
            union[split] += pool
            queries = _queries(one, split, n, pool, texts, images)
            _lines(folder / f"query/{split}/mbeir_{base}_{split}.jsonl", queries)
            _write(folder / f"qrels/{split}/mbeir_{base}_{split}_qrels.txt", _qrels(one, queries, pool))
    for split, pool in union.items():
        _lines(folder / f"cand_pool/global/mbeir_union_{split}_cand_pool.jsonl", pool)
    _write(folder / "instructions/query_instructions.tsv", _instructions())
    return folder


def write_mbeir_mirror(folder: Path, release: Path, base: str) -> Path:
    """The parquet mirror of a set of `write_mbeir`, in `folder`/mbeir_<set>; the pool in two shards."""
    place = folder / f"mbeir_{base}"
    place.mkdir(parents=True)
    local = release / "cand_pool" / "local"
    pool = next(
        path
        for name in (f"mbeir_{base}_test_cand_pool.jsonl", f"mbeir_{base}_cand_pool.jsonl")
        if (path := local / name).exists()
    )
    queries = _read(release / f"query/test/mbeir_{base}_test.jsonl")
    candidates = list({row["did"]: row for row in _read(pool)}.values())
    half = len(candidates) // 2
    prefix = {"id": "qid", "modality": "query_modality", "text": "query_txt", "image": "query_img_path"}
    plain = {"id": "did", "modality": "modality", "text": "txt", "image": "img_path"}
    _parquet(place / "query-00000-of-00001.parquet", queries, prefix, release)
    _parquet(place / "corpus-00000-of-00002.parquet", candidates[:half], plain, release)
    _parquet(place / "corpus-00001-of-00002.parquet", candidates[half:], plain, release)
    lines = (release / f"qrels/test/mbeir_{base}_test_qrels.txt").read_text().split("\n")
    cells = [line.split() for line in lines if line]
    table = {
        "query-id": [line[0] for line in cells],
        "Q0": [line[1] for line in cells],
        "corpus-id": [line[2] for line in cells],
        "score": pa.array([int(line[3]) for line in cells], pa.int8()),
    }
    pq.write_table(pa.table(table), place / "qrels-00000-of-00001.parquet")
    _write(place / "README.md", _card())
    return place


def _card() -> str:
    """What tells the `datasets` library the mirror's configurations and splits."""
    lines = ["---", "configs:"]
    for part, split in (("qrels", "test"), ("corpus", "corpus"), ("query", "test")):
        lines += [f"- config_name: {part}", "  data_files:", f"  - split: {split}", f"    path: {part}-*"]
    return "\n".join([*lines, "---", ""])


def _material(folder: Path, count: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    place = folder / "mbeir_images" / "world_images"
    place.mkdir(parents=True, exist_ok=True)
    texts, images = [], []
    for number, scene in enumerate(scenes(count, seed)):
        texts.append(caption(scene, rng))
        draw(scene, rng).save(place / f"{number}.jpg", quality=90)
        images.append(f"mbeir_images/world_images/{number}.jpg")
    return texts, images


def _pool(one: MbeirSet, split: str, n: int, texts: list[str], images: list[str]) -> list[dict]:
    modality = WORDS[one.kind.candidate]
    number = DATASET_IDS[one.dataset]
    first = one.kind.release * 1000 + (500 if split == "val" and one.dataset == "mscoco" else 0)
    rows = [
        {
            "txt": texts[min(i, n + 1)] if "text" in modality else None,
            "img_path": images[min(i, n + 1)] if "image" in modality else None,
            "modality": modality,
            "did": f"{number}:{first + i}",
            "src_content": json.dumps({"id": str(i)}),
        }
        for i in range(n + 3)
    ]
    return [*rows, rows[2]]


def _queries(
    one: MbeirSet, split: str, n: int, pool: list[dict], texts: list[str], images: list[str]
) -> list[dict]:
    modality = WORDS[one.kind.query]
    number = DATASET_IDS[one.dataset]
    first = one.kind.release * 1000 + (500 if split == "val" else 0)
    queries = []
    for i in range(n):
        image = images[(i + 1) % n] if one.base in WITH_REFERENCE else images[i]
        positives = [pool[i]["did"], pool[n + 1]["did"]] if i == 1 else [pool[i]["did"]]
        queries.append(
            {
                "qid": f"{number}:{first + i}",
                "query_txt": texts[i] if "text" in modality else None,
                "query_img_path": image if "image" in modality else None,
                "query_modality": modality,
                "query_src_content": None,
                "pos_cand_list": positives if i < n - 1 else [],
                "neg_cand_list": [],
            }
        )
    return queries


def _qrels(one: MbeirSet, queries: list[dict], pool: list[dict]) -> str:
    task = one.kind.release
    lines = [f"{row['qid']} 0 {did} 1 {task}" for row in queries for did in row["pos_cand_list"]]
    lines.append(f"{queries[0]['qid']} 0 {pool[3]['did']} 0 {task}")
    if one.dataset in ("oven", "infoseek"):
        other = DATASET_IDS["infoseek" if one.dataset == "oven" else "oven"]
        lines.append(f"{queries[0]['qid']} 0 {other}:{task * 1000} 1 {task}")
    return "\n".join(lines) + "\n"


def _instructions() -> str:
    head = ["query_modality", "cand_modality", "dataset_name", "dataset_id"]
    lines = [[*head, *(f"prompt_{i + 1}" for i in range(INSTRUCTIONS))]]
    for base in BASES:
        one = MbeirSet(base)
        words = [f"{one.dataset} instruction {i}, {one.kind.short}." for i in range(INSTRUCTIONS)]
        if base == "edis_task2":
            words[3] = ""
        modalities = [WORDS[one.kind.query], WORDS[one.kind.candidate]]
        lines.append([*modalities, one.dataset, str(DATASET_IDS[one.dataset]), *words])
    return "\n".join("\t".join(cells) for cells in lines) + "\n"


def _parquet(path: Path, rows: list[dict], names: dict[str, str], release: Path) -> None:
    columns = {ours: [row[theirs] for row in rows] for ours, theirs in names.items()}
    columns["image"] = [
        None if name is None else {"bytes": (release / name).read_bytes(), "path": Path(name).name}
        for name in columns["image"]
    ]
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({**columns, "image": pa.array(columns["image"], image)})
    pq.write_table(table, path, row_group_size=3)


def _lines(path: Path, rows: list[dict]) -> None:
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
