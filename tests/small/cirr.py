"""A small CIRR in its own files: splits val and test1, with soft targets, ranks, and an empty caption.

Query i of a split starts from image i and looks for image i + 1; its img_set holds images i to i + 5 (all
modulo the number of images), in an order of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption
from clearsight.data.world import scenes

FOLDERS = {"val": "dev", "test1": "test1"}


def write_cirr(
    folder: Path, *, images: int = 12, test_images: int = 54, queries: int = 8, img_raw: bool = True
) -> Path:
    """Annotations and images; `img_raw`: the images lie in that folder, else beside the annotations."""
    root = folder / "img_raw" if img_raw else folder
    for split, count in (("val", images), ("test1", test_images)):
        rng = np.random.default_rng(len(split))
        names, texts, paths = [], [], {}
        for i, scene in enumerate(scenes(count, seed=len(split))):
            name = f"{FOLDERS[split]}-{i}-0-img{i % 2}"
            path = f"./{FOLDERS[split]}/{name}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            draw(scene, rng).save(root / path)
            names.append(name)
            texts.append(caption(scene, rng))
            paths[name] = path
        entries = [_entry(i, names, texts, split, rng) for i in range(queries)]
        _write(folder / "captions" / f"cap.rc2.{split}.json", entries)
        _write(folder / "image_splits" / f"split.rc2.{split}.json", paths)
    return folder


def _entry(i: int, names: list[str], texts: list[str], split: str, rng: np.random.Generator) -> dict:
    members = [names[(i + step) % len(names)] for step in rng.permutation(6)]
    reference, target = names[i], names[(i + 1) % len(names)]
    start = 12060 if split == "val" else 13000
    entry = {"pairid": start + 2 * i, "reference": reference}
    if split == "val":
        soft = {target: 1.0} if i % 2 else {target: 1.0, members[0]: -1.0, reference: 0.5}
        entry |= {"target_hard": target, "target_soft": soft}
    entry["caption"] = "" if split == "test1" and i == 2 else texts[(i + 1) % len(names)]
    ranks = {"reference_rank": members.index(reference)}
    if split == "val":
        ranks["target_rank"] = members.index(target)
    entry["img_set"] = {"id": i, "members": members, **ranks}
    return entry


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
