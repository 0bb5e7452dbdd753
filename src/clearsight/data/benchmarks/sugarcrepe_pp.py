"""SugarCrepe++: an image, two captions that say the same of it, and one that does not.

Five JSON files, each a list of {id, filename, caption, caption2, negative_caption}. Two tasks a file:

* `<file>_itt`, image to text: both captions must score above the negative one for the image. The image ranks
  its three captions; the measure is `all_recall@2`, chance 1/3.
* `<file>_tot`, text only: s(caption, caption2) must exceed s(caption, negative) and s(caption2, negative).
  Each caption is a query that ranks the other one and the negative (`hit_rate@1`); the two are a group, which
  counts only as a whole. Ties of the two are taken as independent: chance 1/4. A text must have one vector
  whichever side it is on: candidates are worded as queries.

By the benchmark's own rule a tie is no win: `Score.pessimistic`. The file swap_obj holds two rows whose
negative caption is also one of the positives: they tie for every encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, not_this
from clearsight.data.benchmarks.sugarcrepe import (
    found_files,
    json_file,
    read_rows,
    with_images,
)
from clearsight.errors import DataError
from clearsight.types import Item, Task

if TYPE_CHECKING:
    from clearsight.data.sources import TaskOptions
    from clearsight.data.tables import Row

FILES = ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel")
KINDS = ("itt", "tot")
SETS = tuple(f"{name}_{kind}" for kind in KINDS for name in FILES)

_CAPTIONS = ("caption", "caption2", "negative_caption")
_COLUMNS = ("filename", *_CAPTIONS)
_WORDS = {"object": "obj", "attribute": "att", "relation": "rel"}


def sugarcrepe_pp_task(name: str, options: TaskOptions) -> Task:
    """One file of SugarCrepe++ as one of its two tasks.

    Args:
        name: of the set, such as "swap_obj_itt".
        options: `data` the folder with the files, or with data/, and (for ITT) COCO's val2017/; `n` the first
            n rows.

    Raises:
        UsageError: no data. DataError: a file is missing, broken or SugarCrepe's, bad rows, missing images.
    """
    stem, _, kind = name.rpartition("_")
    data = options.need_data(f"sugarcrepe_pp/{name}")
    path = json_file(data, stem, "sugarcrepe_pp")
    if _of_the_first(path):
        raise not_this("sugarcrepe_pp", path.parent, f"rows with caption2 in {path.name}")
    rows = read_rows("sugarcrepe_pp", path, _COLUMNS, options.n, options.faults)
    if kind == "tot":
        return _text_only(name, stem, rows)
    pairs = list(with_images(rows, data, options.faults))
    return _image_to_text(name, stem, [row for row, _ in pairs], [image for _, image in pairs])


def _image_to_text(name: str, stem: str, rows: list[Row], images: list[str]) -> Task:
    texts = {row.values["id"]: _captions(stem, row) for row in rows}
    queries = tuple(
        Item(f"{stem}/{row.values['id']}", image=image) for row, image in zip(rows, images, strict=True)
    )
    own = {query.id: members for query, members in zip(queries, texts.values(), strict=True)}
    return Task(
        f"sugarcrepe_pp/{name}",
        queries,
        tuple(item for members in texts.values() for item in members),
        {query: {first.id: 1.0, second.id: 1.0} for query, (first, second, _) in own.items()},
        pools={query: tuple(item.id for item in members) for query, members in own.items()},
        measures=("all_recall@2",),
    )


def _text_only(name: str, stem: str, rows: list[Row]) -> Task:
    if not rows:
        raise DataError("No usable row is left.", where=f"sugarcrepe_pp/{name}", do="Fetch the file again.")
    queries: list[Item] = []
    candidates: list[Item] = []
    relevance: dict[str, dict[str, float]] = {}
    pools: dict[str, tuple[str, str]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        first, second, negative = _captions(stem, row)
        candidates += [first, second, negative]
        for query, other in ((first, second), (second, first)):
            queries.append(query)
            relevance[query.id] = {other.id: 1.0}
            pools[query.id] = (other.id, negative.id)
            groups[query.id] = f"{stem}/{row.values['id']}"
    return Task(
        f"sugarcrepe_pp/{name}",
        tuple(queries),
        tuple(candidates),
        relevance,
        pools=pools,
        groups=groups,
        measures=("hit_rate@1",),
        candidate_role="query",
    )


def _captions(stem: str, row: Row) -> tuple[Item, Item, Item]:
    first, second, negative = (
        Item(f"{stem}/{row.values['id']}{mark}", row.values[column])
        for mark, column in zip(("+1", "+2", "-"), _CAPTIONS, strict=True)
    )
    return first, second, negative


def _of_the_first(path: Path) -> bool:
    """Whether a file is SugarCrepe's: the same name, one positive caption."""
    return bool(found_files(path.parent, (path.stem,), ("caption", "negative_caption"), lacks="caption2"))


def _found(folder: Path) -> tuple[str, ...]:
    files = found_files(folder, FILES, _COLUMNS, lacks="")
    return tuple(f"{name}_{kind}" for kind in KINDS for name in files)


def _known_as(name: str) -> str | None:
    """`itt/swap_object`, `swap-object-ITT` and the like."""
    words = name.lower().replace("-", "_").replace("/", "_").split("_")
    kind = next((word for word in words if word in KINDS), None)
    stem = "_".join(_WORDS.get(word, word) for word in words if word != kind)
    return f"{stem}_{kind}" if stem in FILES and kind else None


BENCHMARKS.add(
    "sugarcrepe_pp",
    Benchmark(
        name="sugarcrepe_pp",
        title="SugarCrepe++",
        sets=SETS,
        load=sugarcrepe_pp_task,
        looks=lambda folder: bool(_found(folder)),
        found=_found,
        layout="<file>.json, a list of {id, filename, caption, caption2, negative_caption}, in the folder or "
        "in data/; the images of COCO val2017 in val2017/ (for ITT).",
        source="https://github.com/Sri-Harsha/scpp (hub: Aman-J/SugarCrepe_pp); images: http://images.cocodataset.org/zips/val2017.zip",
        licence="CC BY 4.0; images: terms of use of Flickr",
        size="1.3 MB, and 1 GB of images",
        measures=("all_recall@2", "hit_rate@1"),
        groups={kind: tuple(f"{name}_{kind}" for name in FILES) for kind in KINDS},
        citation="Dumpala et al. 2024, SugarCrepe++ (NeurIPS)",
        known_as=_known_as,
    ),
)
