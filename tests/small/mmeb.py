"""A small MMEB: evaluation sets in the columns of V1 or V2, and training sets in both splits.

Oddities: empty strings and nulls for what is not there; the positive of query 1 stands among its negatives
again; targets shared by queries; EDIS and WebQA queries carry an image token without an image; the training
sets of classification have no negatives, and one query with two positives.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clearsight.data.benchmarks.mmeb_sets import IMAGE_TOKEN, SETS, TRAIN_SETS
from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption, question
from clearsight.data.world import scenes

ONE_OF_EACH = ("VOC2007", "OK-VQA", "MSCOCO_t2i", "EDIS", "RefCOCO-Matching")
TEXT_QUERIES = ("VisDial", "VisualNews_t2i", "MSCOCO_t2i", "WebQA", "Wiki-SS-NQ", "EDIS")
TOKEN_WITHOUT_IMAGE = ("EDIS", "WebQA")
TARGETS_WITH_BOTH = ("WebQA", "OVEN", "EDIS", "RefCOCO-Matching")

_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
V1 = pa.schema([("qry_text", _TEXT), ("qry_img_path", _TEXT), ("tgt_text", _TEXTS), ("tgt_img_path", _TEXTS)])
V2 = pa.schema([("qry_inst", _TEXT), *V1, ("tgt_inst", _TEXT)])
TRAIN = pa.schema(
    [(name, _TEXT) for name in ("qry", "qry_image_path", "pos_text", "pos_image_path")]
    + [(name, _TEXT) for name in ("neg_text", "neg_image_path")]
)


def has_query_words(name: str) -> bool:
    only_image = ("NIGHTS", "MSCOCO_i2t", "VisualNews_i2t")
    return name == "N24News" or (SETS[name].kind != "classification" and name not in only_image)


def instruction_of(name: str) -> str:
    """As V1 writes it: a colon before words (a full stop in RefCOCO), nothing after a classification."""
    if name == "RefCOCO":
        return SETS[name].query[0] + "."
    if name in ("MSCOCO", "Visual7W-Pointing"):
        return SETS[name].query[0]
    if has_query_words(name):
        return SETS[name].query[0] + ":"
    return SETS[name].query[0] + ("" if SETS[name].kind == "classification" else ".")


def target_instruction(name: str) -> str:
    if not SETS[name].candidate:
        return ""
    return SETS[name].candidate[0] + (":" if name in TARGETS_WITH_BOTH else ".")


def write_mmeb(
    folder: Path,
    sets: Iterable[str] = ONE_OF_EACH,
    *,
    n: int = 6,
    pool: int = 4,
    version: int = 1,
    seed: int = 0,
) -> Path:
    """n queries a set, each with a pool of `pool` targets; images in images/."""
    for name in sets:
        rows = mmeb_rows(folder, name, n=n, pool=pool, version=version, seed=seed)
        (folder / name).mkdir(parents=True, exist_ok=True)
        schema = V1 if version == 1 else V2
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / name / "test-00000-of-00001.parquet")
    return folder


def mmeb_rows(folder: Path, name: str, *, n: int, pool: int, version: int, seed: int) -> list[dict[str, Any]]:
    material = [_Material(folder, name, number, scene) for number, scene in enumerate(scenes(n, seed))]
    rows = []
    for number, own in enumerate(material):
        targets = [material[(number + step) % n] for step in range(min(pool, n))]
        if number == 1:
            targets.append(own)
        rows.append(_row(name, own, targets, version))
    return rows


class _Material:
    def __init__(self, folder: Path, name: str, number: int, scene: Any) -> None:
        rng = np.random.default_rng(number)
        asked = question(scene, rng)
        self.words = f"{caption(scene, rng)}, number {number}"
        self.asked, self.answer = asked.text, f"{asked.answer}, number {number}"
        self.image = f"{name}/image_{number}.png"
        place = folder / "images" / self.image
        place.parent.mkdir(parents=True, exist_ok=True)
        draw(scene).save(place)


def _row(name: str, own: _Material, targets: list[_Material], version: int) -> dict[str, Any]:
    kind = SETS[name].kind
    with_image = name not in TEXT_QUERIES
    token = f"{IMAGE_TOKEN}\n" if with_image or name in TOKEN_WITHOUT_IMAGE else ""
    words = own.asked if kind == "VQA" else own.words
    words = f'"{words}"' if kind == "grounding" else words
    words = words if has_query_words(name) else ""
    image_targets = bool(SETS[name].candidate)
    texts = [
        t.answer if kind == "VQA" else t.words if not image_targets or name in TARGETS_WITH_BOTH else ""
        for t in targets
    ]
    images = [t.image if image_targets else "" for t in targets]
    instruction, goal = token + instruction_of(name), target_instruction(name)
    if version == 2:
        return {
            "qry_inst": instruction,
            "qry_text": words,
            "qry_img_path": own.image if with_image else None,
            "tgt_text": texts,
            "tgt_img_path": images if image_targets else None,
            "tgt_inst": f"{IMAGE_TOKEN}\n{goal}" if goal else None,
        }
    before = f"{IMAGE_TOKEN}\n{goal} " if goal else ""
    return {
        "qry_text": f"{instruction} {words}".rstrip() + "\n",
        "qry_img_path": own.image if with_image else "",
        "tgt_text": [f"{before}{text}".rstrip() + ("\n" if goal else "") for text in texts],
        "tgt_img_path": images,
    }


def write_mmeb_train(
    folder: Path, sets: Iterable[str] = ("VOC2007", "CIRR"), *, n: int = 6, seed: int = 0
) -> Path:
    """n rows a set and split; the last two rows of a classification set share their query."""
    for name in sets:
        own_name = TRAIN_SETS[name].name
        material = [_Material(folder, f"{name}/Train", k, scene) for k, scene in enumerate(scenes(n, seed))]
        negatives = SETS[own_name].kind != "classification"
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, instruction in (
            ("original", f"{IMAGE_TOKEN}\n{instruction_of(own_name)}"),
            ("diverse_instruction", f"From {IMAGE_TOKEN}, take what is asked:"),
        ):
            rows = []
            for number, own in enumerate(material):
                query = material[number - 1] if number == n - 1 and not negatives else own
                words = own.words if has_query_words(own_name) else ""
                goal = target_instruction(own_name)
                row = {
                    "qry": f"{instruction} {words}".rstrip() + "\n",
                    "qry_image_path": f"images/{query.image}",
                    "pos_text": f"{IMAGE_TOKEN}\n{goal}\n" if goal else own.words,
                    "pos_image_path": f"images/{own.image}" if goal else "",
                }
                if negatives:
                    other = material[(number + 1) % n]
                    full = {
                        "neg_text": f"{IMAGE_TOKEN}\n{goal}\n" if goal else other.words,
                        "neg_image_path": f"images/{other.image}" if goal else None,
                    }
                    row |= full if number else {"neg_text": "", "neg_image_path": None}
                rows.append(row)
            schema = TRAIN if negatives else pa.schema(list(TRAIN)[:4])
            path = folder / name / f"{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return folder
