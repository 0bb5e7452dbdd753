"""A small Flickr30k in its three forms, with images of other splits that are not to be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from clearsight.data.world import scenes
from small.coco import captions, png

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.list_(pa.string())),
        ("sentids", pa.list_(pa.string())),
        ("split", pa.string()),
        ("img_id", pa.string()),
        ("filename", pa.string()),
    ]
)
Form = Literal["karpathy", "csv", "parquet"]


def write_flickr30k(folder: Path, form: Form = "karpathy", n: int = 8, seed: int = 0) -> Path:
    """n test images with five captions (one with four), and one image each of train and val."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, scene in enumerate(scenes(n + 2, seed)):
        split = {0: "train", n + 1: "val"}.get(number, "test")
        made.append((f"{1000 + number}.jpg", split, captions(scene, 4 if number == 2 else 5), png(scene)))
    if form == "parquet":
        rows = [
            {
                "image": {"bytes": content, "path": name},
                "caption": texts,
                "sentids": [str(5 * i + j) for j in range(len(texts))],
                "split": split,
                "img_id": str(i),
                "filename": name,
            }
            for i, (name, split, texts, content) in enumerate(made)
        ]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "test-00000-of-00001.parquet")
        return folder
    images = folder / "flickr30k-images"
    images.mkdir()
    for name, _, _, content in made:
        (images / name).write_bytes(content)
    writers = {"karpathy": _karpathy, "csv": _csv}
    writers[form](folder, [(name, split, texts) for name, split, texts, _ in made])
    return folder


def _karpathy(folder: Path, made: list[tuple[str, str, list[str]]]) -> None:
    rows: list[dict[str, Any]] = []
    for i, (name, split, texts) in enumerate(made):
        sentences = [
            {"tokens": text.lower().split(), "raw": text, "imgid": i, "sentid": 5 * i + j}
            for j, text in enumerate(texts)
        ]
        ids = [sentence["sentid"] for sentence in sentences]
        rows.append({"sentids": ids, "imgid": i, "sentences": sentences, "split": split, "filename": name})
    content = {"images": rows, "dataset": "flickr30k"}
    (folder / "dataset_flickr30k.json").write_text(json.dumps(content), encoding="utf-8")


def _csv(folder: Path, made: list[tuple[str, str, list[str]]]) -> None:
    with open(folder / "flickr_annotations_30k.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for i, (name, split, texts) in enumerate(made):
            writer.writerow([json.dumps(texts), json.dumps(list(range(len(texts)))), split, name, i])
