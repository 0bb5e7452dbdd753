"""A small COCO-Caption: the parquet of the hub, five captions an image, one image with six."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clearsight.data.scenes import draw
from clearsight.data.scenes_text import STYLES, caption
from clearsight.data.world import scenes

SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("answer", pa.list_(pa.string())),
        ("id", pa.int64()),
        ("file_name", pa.string()),
        ("coco_url", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


def png(scene: Any) -> bytes:
    file = io.BytesIO()
    draw(scene).save(file, "PNG")
    return file.getvalue()


def captions(scene: Any, count: int) -> list[str]:
    """`count` captions; they may repeat, as people's do."""
    rng = np.random.default_rng(0)
    return [caption(scene, rng, STYLES[j % len(STYLES)]) for j in range(count)]


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    made = []
    for number, scene in enumerate(scenes(n, seed)):
        name = f"COCO_val2014_{number:012d}.jpg"
        made.append(
            {
                "question_id": name,
                "image": {"bytes": png(scene), "path": name},
                "question": "Please carefully observe the image and come up with a caption for the image",
                "answer": captions(scene, 6 if number == 1 else 5),
                "id": number,
                "file_name": name,
                "coco_url": f"http://images.cocodataset.org/val2014/{name}",
                "height": 32,
                "width": 32,
            }
        )
    return made


def write_coco(folder: Path, n: int = 12, seed: int = 0) -> Path:
    """The split val in two files, and a file of the split test beside them, which is not to be read."""
    place = folder / "data"
    place.mkdir(parents=True, exist_ok=True)
    made = rows(n, seed)
    half = len(made) // 2
    for number, part in enumerate((made[:half], made[half:])):
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), place / f"val-{number:05d}-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(rows(1, seed + 1), SCHEMA), place / "test-00000-of-00001.parquet")
    return folder
