"""MMEB-eval: 36 sets, each query with a pool of its own, its first target the relevant one.

| column | holds |
|---|---|
| qry_text, qry_img_path | the query; an empty string is none |
| tgt_text[], tgt_img_path[] | its pool, element by element; **index 0 is the positive** |
| qry_inst, tgt_inst | V2 only: the instructions, which V1 has in the texts |

Targets of the same words, image and instruction are one candidate, across queries and within a pool: a
positive that stands among its own negatives again is one candidate. Of the image token only its absence is
left: the prompt places the image (in MMEB-eval the token always stands first; see `mmeb_sets.image_place`).

The measure is Precision@1, which with one positive is `hit_rate@1`. An evaluation that sorts scores and looks
for the positive at index 0 calls every tie a hit: an encoder that gives all items one vector reaches 100%.
Here the score is the expected value under ties, chance for that encoder; `Score.optimistic` is the naive
value, to be shown beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, need_own_columns, not_this
from clearsight.data.benchmarks.mmeb_sets import GROUPS, SETS, MmebSet, known_as, make_item
from clearsight.data.benchmarks.on_disk import image_folder, missing_images
from clearsight.data.hub import Hub, data_of
from clearsight.data.parquet import columns_of, has_columns, need_shards
from clearsight.data.tables import Faults, Row, read_rows
from clearsight.errors import DataError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

MEASURES = ("hit_rate@1", "mrr")

_V1 = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
_V2 = ("qry_inst", "qry_text", "qry_img_path", "tgt_text")  # sets of text targets leave out their images
_IMAGES = ("images", "eval_images", "image-tasks", "MMEB")


@dataclass(slots=True)
class _Pools:
    """Rows on their way to a task: images still as the data names them, relative."""

    facts: MmebSet
    queries: dict[str, Item] = field(default_factory=dict)
    pools: dict[str, tuple[int, ...]] = field(default_factory=dict)
    targets: dict[tuple[str | None, ...], int] = field(default_factory=dict)
    candidates: list[Item] = field(default_factory=list)
    _seen: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(self, number: int, row: Row, faults: Faults) -> None:
        """Take in one row.

        Raises:
            DataError: the row is broken, its query or its positive is empty.
        """
        values = row.values
        if row.fault is not None:
            raise DataError(row.fault, where=row.where, do="Fetch the file again.")
        query = make_item(
            f"q{number}",
            values["qry_text"],
            values["qry_img_path"] or None,
            self.facts.query,
            instruction=values.get("qry_inst"),
        )
        pool = []
        for place, target in enumerate(_targets(row)):
            try:
                pool.append(self._target(*target))
            except DataError as fault:
                named = DataError(fault.what, where=f"{row.where}, target {place}", do=fault.do)
                if place == 0:
                    raise named from None
                faults.meet(named)
        self.queries[query.id] = query
        self.pools[query.id] = tuple(dict.fromkeys(pool))

    def _target(self, text: str | None, image: str | None, instruction: str | None) -> int:
        known = self._seen.get((text, image, instruction))
        if known is None:
            name = f"t{len(self.candidates)}"
            item = make_item(name, text, image or None, self.facts.candidate, instruction=instruction)
            key = (item.text, image or None, item.instruction)
            known = self.targets.setdefault(key, len(self.candidates))
            if known == len(self.candidates):
                self.candidates.append(item)
            self._seen[text, image, instruction] = known
        return known


def _targets(row: Row) -> Iterator[tuple[str | None, str | None, str | None]]:
    """(text, image, instruction) of each target.

    Raises:
        DataError: there is none, or the lists differ in length.
    """
    lists = {name: row.values.get(name) or [] for name in ("tgt_text", "tgt_img_path")}
    size = max(map(len, lists.values()))
    if not size or any(len(members) not in (0, size) for members in lists.values()):
        raise DataError(
            f"tgt_text has {len(lists['tgt_text'])} elements, tgt_img_path {len(lists['tgt_img_path'])}.",
            where=row.where,
            do="Element i of both is one target, the first the positive.",
        )
    texts, images = (members or [None] * size for members in lists.values())
    instruction = row.values.get("tgt_inst")
    each = instruction if isinstance(instruction, list) and instruction else [instruction or None] * size
    if len(each) != size:
        raise DataError(
            f"tgt_inst has {len(each)} elements for {size} targets.", where=row.where, do="Give one for each."
        )
    return zip(texts, images, each, strict=True)


def mmeb_task(name: str, options: TaskOptions) -> Task:
    """One set of MMEB-eval.

    Args:
        name: of the set, as in `mmeb_sets.SETS`.
        options: `data` the benchmark's folder (tables `<set>/test-*.parquet`; images in it or in a folder of
            it such as images/), the set's own folder, or a dataset of the hub; `n` the first n queries.

    Raises:
        UsageError: no data. DataError: files missing or broken, bad rows, images that are not there.
    """
    source = data_of(options, f"mmeb/{name}")
    rows, home = _open(name, source, options.n)
    read = _Pools(SETS[name])
    for number, row in enumerate(islice(rows, options.n)):
        try:
            read.add(number, row, options.faults)
        except DataError as fault:
            options.faults.meet(fault)
    if not read.queries:
        raise DataError("The set has no usable row.", where=f"mmeb/{name}", do="Fetch its table again.")
    return _task(f"mmeb/{name}", read, home, options.faults)


def _task(name: str, read: _Pools, home: Path | Hub, faults: Faults) -> Task:
    """The task; items whose image is missing are left out, where bad rows are skipped."""
    used = [*read.queries.values(), *read.candidates]
    names = [str(item.image) for item in used if item.image is not None]
    folder = home.unpacked("images.zip") if isinstance(home, Hub) and names else home
    if isinstance(folder, Hub):
        folder = Path()
    folder = image_folder(folder, names, _IMAGES)
    missing = missing_images(names, folder, faults)

    def placed(item: Item) -> Item:
        return item if item.image is None else replace(item, image=str(folder / str(item.image)))

    kept = [item.image is None or str(item.image) not in missing for item in read.candidates]
    queries = [q for q in read.queries.values() if q.image is None or str(q.image) not in missing]
    pools = {q.id: [read.candidates[t].id for t in read.pools[q.id] if kept[t]] for q in queries}
    positive = {q.id: read.pools[q.id][0] for q in queries}
    return Task(
        name,
        tuple(map(placed, queries)),
        tuple(placed(item) for item, keep in zip(read.candidates, kept, strict=True) if keep),
        {query: {read.candidates[t].id: 1.0} for query, t in positive.items() if kept[t]},
        pools=pools,
        measures=MEASURES,
        candidate_role=read.facts.candidate_role,
    )


def _open(name: str, source: Path | Hub, n: int | None) -> tuple[Iterator[Row], Path | Hub]:
    """The rows of a set, and where its images are."""
    if isinstance(source, Hub):
        return source.rows(name, "test", n), source
    paths = _files(source, name)
    if not paths:
        raise not_this("mmeb", source, f"the table of {name} ({name}/test-*.parquet)")
    if source.is_dir():
        need_shards(paths)
    for path in paths:
        need_own_columns("mmeb", source, path, _V2 if "qry_inst" in columns_of(path) else _V1)
    own = source.name == name or source.is_file()
    return (row for path in paths for row in read_rows(path)), source.parent if own else source


def _files(folder: Path, name: str) -> list[Path]:
    if folder.is_file():
        return [folder]
    places = (folder / name, folder / "data" / name, *((folder,) if folder.name == name else ()))
    for place in places:
        for pattern in ("test-*.parquet", "test/*.parquet", "*.parquet"):
            if paths := sorted(place.glob(pattern)):
                return paths
    return []


def _looks(folder: Path) -> bool:
    first = next((paths[0] for name in SETS if (paths := _files(folder, name))), None)
    return first is not None and has_columns(first, _V1[:3])


def _found(folder: Path) -> tuple[str, ...]:
    found = [(name, paths) for name in SETS if (paths := _files(folder, name))]
    return tuple(name for name, paths in found if has_columns(paths[0], _V1[:3]))


BENCHMARKS.add(
    "mmeb",
    Benchmark(
        name="mmeb",
        title="MMEB-eval",
        sets=tuple(SETS),
        load=mmeb_task,
        looks=_looks,
        found=_found,
        layout="<set>/test-*.parquet with qry_text, qry_img_path, tgt_text[] and tgt_img_path[]; images.zip "
        "of the data set unpacked beside them, into the folder or into images/.",
        source="hub:TIGER-Lab/MMEB-eval (V1), hub:ziyjiang/MMEB_Test_Instruct (V2)",
        licence="Apache-2.0",
        size="unknown",
        measures=MEASURES,
        groups=GROUPS,
        citation="Jiang et al. 2025, VLM2Vec (ICLR)",
        known_as=known_as,
    ),
)
