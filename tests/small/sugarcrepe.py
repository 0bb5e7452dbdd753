"""A small SugarCrepe and SugarCrepe++: JSON files, and COCO's val2017 folder with their images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.data.benchmarks import sugarcrepe, sugarcrepe_pp
from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption, contradiction
from clearsight.data.world import scenes


def write_sugarcrepe(
    folder: Path, files: Iterable[str] = sugarcrepe.FILES, n: int = 5, seed: int = 0
) -> Path:
    """{"0": {...}, ...}, as the release has it; images are shared by the files."""
    made = _rows(folder, n, seed)
    for name in files:
        content = {
            str(i): {key: row[key] for key in ("filename", "caption", "negative_caption")}
            for i, row in enumerate(made)
        }
        _write(folder, name, content)
    return folder


def write_sugarcrepe_pp(
    folder: Path, files: Iterable[str] = sugarcrepe_pp.FILES, n: int = 5, seed: int = 0
) -> Path:
    """[{id, ...}, ...]; the last row's negative is its second caption too, as in two rows of the release."""
    made = _rows(folder, n, seed)
    made[-1]["negative_caption"] = made[-1]["caption2"]
    for name in files:
        _write(folder, name, [{"id": i, **row} for i, row in enumerate(made)])
    return folder


def _write(folder: Path, name: str, content: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _rows(folder: Path, n: int, seed: int) -> list[dict[str, str]]:
    images = folder / "val2017"
    images.mkdir(parents=True, exist_ok=True)
    made = []
    for number, scene in enumerate(scenes(n, seed)):
        rng = np.random.default_rng(number)
        name = f"{number:012d}.jpg"
        draw(scene).save(images / name, "PNG")
        made.append(
            {
                "filename": name,
                "caption": caption(scene, rng),
                "caption2": caption(scene, rng, "detailed"),
                "negative_caption": contradiction(scene, rng)[0],
            }
        )
    return made
