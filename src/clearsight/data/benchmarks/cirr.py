"""CIRR (Liu et al. 2021, arXiv:2108.04024): an image and an edit in words look for the edited image.

| file | holds |
|---|---|
| captions/cap.<version>.<split>.json | a list of {pairid, reference, target_hard, caption, img_set} |
| image_splits/split.<version>.<split>.json | image name -> path ("./dev/dev-244-0-img0.png") |
| images | at those paths, in the folder itself or in img_raw/ or images/ in it |

Splits are `val` and `test1`. The pool is every image of the split; the query's own reference is left out of
it, as in the paper (`+reference`: it stays in). In the sets ending in `_subset` a query ranks the members of
its `img_set` less the reference: five images much alike. Relevant is `target_hard` alone, as in the paper;
test1 has none, and its rankings are scored by the owners' server (`server_file`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, not_this
from clearsight.data.benchmarks.on_disk import image_folder, missing_images, read_json
from clearsight.data.tables import Faults, need_columns
from clearsight.errors import DataError, UsageError
from clearsight.types import Item, Ranking, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions

SPLITS = ("val", "test1")
SETS = tuple(
    f"{split}{subset}{end}" for split in SPLITS for subset in ("", "_subset") for end in ("", "+reference")
)

_FIELDS = ("pairid", "reference", "caption", "img_set")
_IMAGE_FOLDERS = ("img_raw", "images")
_MEASURES = ("hit_rate@1", "hit_rate@5", "hit_rate@10", "hit_rate@50", "mrr", "ndcg@10")
_SUBSET_MEASURES = ("hit_rate@1", "hit_rate@2", "hit_rate@3", "mrr")

Metric = Literal["recall", "recall_subset"]
KEPT: Mapping[Metric, int] = {"recall": 50, "recall_subset": 3}
"""How many candidates of a query the server takes."""


class _Query(NamedTuple):
    item: Item
    reference: str
    target: str | None
    members: tuple[str, ...]


def load(name: str, options: TaskOptions) -> Task:
    """The task of a set. Query ids are pairids, candidate ids image names.

    A query with an empty caption (test1 has one) is its image alone: the server expects every pairid.

    Raises:
        UsageError: no set has that name. DataError: files are missing or broken, an image is missing, an
            annotation lacks a field or names an image that is not of the split.
    """
    if name not in SETS:
        raise UsageError(f"CIRR has no set '{name}'.", do=f"There are: {', '.join(SETS)}.")
    split, subset, within = _parts(name)
    folder = options.need_data(f"cirr/{name}")
    faults = options.faults
    names = _read_json(_the_file(folder, "image_splits", split), dict)
    paths = {image: str(path).removeprefix("./") for image, path in names.items()}
    root = image_folder(folder, paths.values(), _IMAGE_FOLDERS)
    missing = missing_images(paths.values(), root, faults)
    images = {image: str(root / path) for image, path in paths.items() if path not in missing}
    queries = list(_queries(_the_file(folder, "captions", split), split, images, subset, faults))[: options.n]
    left_out = {} if within else {query.item.id: [query.reference] for query in queries}
    pools = {}
    if subset:
        pools = {
            query.item.id: [m for m in query.members if within or m != query.reference] for query in queries
        }
    return Task(
        f"cirr/{name}",
        tuple(query.item for query in queries),
        tuple(Item(image, image=path) for image, path in images.items()),
        {query.item.id: {query.target: 1.0} for query in queries if query.target is not None},
        pools=pools,
        excluded={} if subset else left_out,
        measures=_SUBSET_MEASURES if subset else _MEASURES,
    )


def submission(ranking: Ranking, metric: Metric, *, version: str = "rc2") -> dict[str, Any]:
    """What the owners' server takes: the version, the metric, and for each pairid the best images.

    Args:
        ranking: of `cirr/test1` for "recall" (50 ranks or more), of `cirr/test1_subset` for "recall_subset".
        version: of the annotations; the part of their files' names before the split.

    Raises:
        UsageError: an unknown metric. DataError: a query ranks fewer than 50 (3) candidates.
    """
    if metric not in KEPT:
        raise UsageError(f"The metric is '{metric}'.", do=f"Allowed are {', '.join(KEPT)}.")
    kept = KEPT[metric]
    best: dict[str, Any] = {"version": version, "metric": metric}
    for query, rows_K in zip(ranking.query_ids, ranking.rows_QK[:, :kept].tolist(), strict=True):
        if len(rows_K) < kept or min(rows_K) < 0:
            raise DataError(
                f"The query ranks fewer than the {kept} candidates the server takes.",
                where=query,
                do=f"Rank the whole pool of its set with k={kept} or more.",
            )
        best[query] = [ranking.candidate_ids[row] for row in rows_K]
    return best


def server_file(name: str, ranking: Ranking) -> bytes | None:
    """`submission` for a set of test1 as the JSON to upload, without white space: the server takes 5 MB.

    Raises:
        DataError: as `submission`.
    """
    if not name.startswith("test1"):
        return None
    metric: Metric = "recall_subset" if "_subset" in name else "recall"
    return json.dumps(submission(ranking, metric), separators=(",", ":")).encode()


def looks(folder: Path) -> bool:
    """Whether the folder holds CIRR's annotations."""
    return any(folder.glob("captions/cap.*.json")) and any(folder.glob("image_splits/split.*.json"))


def found(folder: Path) -> tuple[str, ...]:
    """The sets whose captions and list of images are there."""
    return tuple(
        name
        for name in SETS
        if any(folder.glob(f"captions/cap.*.{_parts(name)[0]}.json"))
        and any(folder.glob(f"image_splits/split.*.{_parts(name)[0]}.json"))
    )


def _parts(name: str) -> tuple[str, bool, bool]:
    """ "val_subset+reference" -> split, whether of subsets, whether the reference stays."""
    rest = name.removesuffix("+reference")
    split = rest.removesuffix("_subset")
    return split, split != rest, rest != name


def _queries(
    path: Path, split: str, images: Mapping[str, str], subset: bool, faults: Faults
) -> Iterator[_Query]:
    fields = (*_FIELDS, "target_hard") if split == "val" else _FIELDS
    seen: set[str] = set()
    for number, entry in enumerate(_read_json(path, list), 1):
        where = f"{path.name} entry {number}"
        if number == 1:
            need_columns(entry, fields, path.name)
        try:
            query = _query(entry, fields, images, where)
            needed = [query.reference, query.target, *(query.members if subset else ())]
            gone = [name for name in needed if name is not None and name not in images]
            if gone:
                raise DataError(
                    f"The image '{gone[0]}' is not among those of {split}.",
                    where=f"{where}, pairid {query.item.id}",
                    do="Fetch captions, image_splits and images of one version.",
                )
            if query.item.id in seen:
                raise DataError(f"The pairid {query.item.id} appears twice.", where=where)
        except DataError as fault:
            faults.meet(fault)
            continue
        seen.add(query.item.id)
        yield query


def _query(entry: Any, fields: tuple[str, ...], images: Mapping[str, str], where: str) -> _Query:
    if not isinstance(entry, dict) or not isinstance(entry.get("img_set"), dict):
        raise DataError("The entry, or its img_set, is no object.", where=where, do="Fetch the file again.")
    need_columns(entry, fields, where)
    need_columns(entry["img_set"], ("members",), f"{where}, img_set")
    reference, caption = str(entry["reference"]), str(entry["caption"]).strip()
    item = Item(str(entry["pairid"]), caption or None, images.get(reference, reference))
    target = str(entry["target_hard"]) if "target_hard" in fields else None
    return _Query(item, reference, target, tuple(entry["img_set"]["members"]))


def _the_file(folder: Path, kind: str, split: str) -> Path:
    pattern = f"{kind}/{'cap' if kind == 'captions' else 'split'}.*.{split}.json"
    files = sorted(folder.glob(pattern))
    if not files:
        raise not_this("cirr", folder, pattern)
    if len(files) > 1:
        raise DataError(
            f"The folder holds several versions: {', '.join(path.name for path in files)}.",
            where=str(folder),
            do="Keep one.",
        )
    return files[0]


def _read_json(path: Path, kind: type) -> Any:
    value = read_json(path)
    if not isinstance(value, kind):
        raise DataError(
            f"The file holds a {type(value).__name__}, not a {kind.__name__}.",
            where=str(path),
            do="Fetch it again.",
        )
    return value


BENCHMARKS.add(
    "cirr",
    Benchmark(
        name="cirr",
        title="CIRR",
        sets=SETS,
        load=load,
        looks=looks,
        found=found,
        layout="captions/cap.rc2.<split>.json, image_splits/split.rc2.<split>.json, and the images that the "
        "latter names, in the folder or in img_raw/.",
        source="https://github.com/Cuberick-Orion/CIRR (branch cirr_dataset; images: NLVR2)",
        licence="annotations MIT; images as NLVR2 says",
        size="14 MB of annotations; images of val and test1 a few GB, on request from NLVR2",
        measures=_MEASURES,
        citation="Liu et al. 2021, arXiv:2108.04024",
        submission=server_file,
        known_as=lambda name: known if (known := name.removesuffix("-reference")) in SETS else None,
    ),
)
