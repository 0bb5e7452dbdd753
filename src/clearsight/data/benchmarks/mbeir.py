"""M-BEIR (Wei et al. 2023, arXiv:2311.17136), in the release's own files and in its parquet mirror.

Release (huggingface.co/datasets/TIGER-Lab/M-BEIR), for a set `cirr_task7` and the split `test`:

| file | holds |
|---|---|
| query/test/mbeir_cirr_task7_test.jsonl | qid, query_txt, query_img_path, query_modality |
| cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl | did, txt, img_path, modality (MSCOCO: a pool a split) |
| cand_pool/global/mbeir_union_test_cand_pool.jsonl | the same of all sets |
| qrels/test/mbeir_cirr_task7_test_qrels.txt | `qid 0 did 1 task`, separated by spaces |
| instructions/query_instructions.tsv | up to four instructions for each data set and pair of modalities |
| mbeir_images/ | the images; paths start at the folder that holds this one |

Names of sets, tasks and both numberings: `mbeir_sets`. The mirror: `mbeir_parquet`.

Texts are taken as they stand (the release, when it embeds, makes the first letter a capital and adds a full
stop). Its "Recall@k" is a hit rate: any positive among the first k.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, not_this
from clearsight.data.benchmarks.mbeir_parquet import (
    is_mirror,
    mirror_folder,
    mirror_sets,
    open_folder,
    open_hub,
    read_mirror,
)
from clearsight.data.benchmarks.mbeir_relevance import (
    draw_instructions,
    make_task,
    pairs_of_references,
    read_qrels,
)
from clearsight.data.benchmarks.mbeir_sets import GLOBAL, LOCAL, MbeirSet, averages, find_set
from clearsight.data.benchmarks.mbeir_tables import CANDIDATE, QUERY, item_table, release_rows
from clearsight.data.hub import Hub, data_of
from clearsight.data.item_table import ItemTable
from clearsight.errors import DataError, UsageError
from clearsight.types import Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

_LOOKED_AT = 16  # images whose files are looked for before anything is embedded


def load(name: str, options: TaskOptions) -> Task:
    """The task of a set, under any of its names.

    Queries and candidates are Arrow tables; images are opened when an item is embedded, and a missing one is
    that item's fault. A query without a positive stays, and is not judged. `Item.instruction` of a query is
    one of the set's instructions, drawn with the task's seed and kept for any `n` and either pool; so the
    seed and the release's file say which it was.

    Args:
        options: `n` keeps the first n queries; the pool is always whole.

    Raises:
        UsageError: no set has that name. DataError: files are missing or broken, rows are bad, none of the
            first images is there.
    """
    one = find_set(name)
    if one is None:
        known = [row.name for row in (*LOCAL, *GLOBAL)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        raise UsageError(f"M-BEIR has no set '{name}'.", do=f"Nearest: {', '.join(near or known)}.")
    folder = data_of(options, f"mbeir/{one.name}")
    if isinstance(folder, Hub):
        return read_mirror(open_hub(folder, one), one, options)
    if (mirror := mirror_folder(folder, one)) is not None:
        return read_mirror(open_folder(mirror), one, options)
    return _read_release(folder, one, options)


def looks(folder: Path) -> bool:
    """Whether the folder holds M-BEIR's release or (one or more sets of) its mirror."""
    release = (folder / "cand_pool").is_dir() and (folder / "query").is_dir()
    return release or is_mirror(folder) or bool(mirror_sets(folder))


def found(folder: Path) -> tuple[str, ...]:
    """The sets whose queries, pool and relevance are there."""
    mirrored = mirror_sets(folder)
    return tuple(
        one.name
        for one in (*LOCAL, *GLOBAL)
        if (one.base in mirrored and not one.union) or all(path.is_file() for path in _files(folder, one)[:3])
    )


def _files(folder: Path, one: MbeirSet) -> tuple[Path, Path, Path, Path]:
    """Queries, pool, relevance and instructions of a set in the release."""
    stem = f"mbeir_{one.base}"
    pools = folder / "cand_pool"
    pool = pools / "local" / f"{stem}_cand_pool.jsonl"
    if one.union:
        pool = pools / "global" / f"mbeir_union_{one.split}_cand_pool.jsonl"
    elif (of_split := pools / "local" / f"{stem}_{one.split}_cand_pool.jsonl").is_file():
        pool = of_split
    return (
        folder / "query" / one.split / f"{stem}_{one.split}.jsonl",
        pool,
        folder / "qrels" / one.split / f"{stem}_{one.split}_qrels.txt",
        folder / "instructions" / "query_instructions.tsv",
    )


def _read_release(folder: Path, one: MbeirSet, options: TaskOptions) -> Task:
    files = _files(folder, one)
    for path in files:
        if not path.is_file():
            raise not_this("mbeir", folder, path.relative_to(folder).as_posix())
    query_file, pool_file, qrels_file, instruction_file = files
    queries = _items(query_file, QUERY, options)
    pool = _items(pool_file, CANDIDATE, options)
    query_ids = queries["id"].to_pylist()
    relevance = read_qrels(
        qrels_file, candidate_ids=pool["id"], query_ids=set(query_ids), faults=options.faults
    )
    excluded = {} if one.reference else _references(queries, pool, pool_file)
    drawn = draw_instructions(instruction_file, one, len(queries), options.seed)
    queries = queries.append_column("instruction", drawn).slice(0, options.n)
    for path, table in ((query_file, queries), (pool_file, pool)):
        _need_images(table, folder, path)
    return make_task(
        one,
        ItemTable(queries, images=folder),
        ItemTable(pool, images=folder),
        query_ids[: options.n],
        relevance,
        excluded,
    )


def _items(path: Path, columns: Mapping[str, str], options: TaskOptions) -> pa.Table:
    rows = release_rows(path, columns, options.faults)
    return item_table(rows, where=path.name, faults=options.faults)


def _references(queries: pa.Table, pool: pa.Table, where: Path) -> dict[str, list[str]]:
    """The release names a query's image by the path it has in the pool; there it stands without a text."""
    same = pc.is_in(pool["image"], pc.drop_null(queries["image"]).unique())
    shown = pool.filter(pc.and_(same, pc.is_null(pool["text"])))
    asked, held = (
        zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True) for table in (queries, shown)
    )
    return pairs_of_references(asked, held, str(where))


def _need_images(table: pa.Table, folder: Path, where: Path) -> None:
    """Images are opened late; that none was unpacked is worth knowing early."""
    paths = pc.drop_null(table["image"]).slice(0, _LOOKED_AT).to_pylist()
    if paths and not any((folder / path).is_file() for path in paths):
        raise DataError(
            f"None of the first {len(paths)} images of {where.name} is there (such as '{paths[0]}').",
            where=str(folder),
            do="Join and unpack mbeir_images.tar.gz.part-* in this folder.",
        )


BENCHMARKS.add(
    "mbeir",
    Benchmark(
        name="mbeir",
        title="M-BEIR",
        sets=tuple(one.name for one in (*LOCAL, *GLOBAL)),
        load=load,
        looks=looks,
        found=found,
        layout="query/test/mbeir_<set>_test.jsonl, cand_pool/local/mbeir_<set>_cand_pool.jsonl, "
        "cand_pool/global/mbeir_union_test_cand_pool.jsonl, qrels/test/mbeir_<set>_test_qrels.txt, "
        "instructions/query_instructions.tsv, mbeir_images/; or the mirror's query-*.parquet, "
        "corpus-*.parquet and qrels-*.parquet in a folder mbeir_<set>.",
        source="TIGER-Lab/M-BEIR (release), hub:MRBench/mbeir_<set> (mirror)",
        licence="MIT; images as their own data sets say",
        size="170 GB with images; the mirror's sets from 0.1 GB",
        measures=("hit_rate@5", "hit_rate@10"),
        groups=averages(),
        citation="Wei et al. 2023, UniIR, arXiv:2311.17136",
        known_as=lambda name: None if (one := find_set(name)) is None else one.name,
    ),
)
