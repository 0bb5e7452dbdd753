"""A small folder of pictures as people have them: world scenes under names of several scripts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clearsight.data import world
from clearsight.data.scenes import draw
from clearsight.data.scenes_text import caption

NAMES = ("Bär", "写真", "фото", "صورة", "φωτό", "तस्वीर", "plain", "two words", "🎈", "日本語/深い")


def write_collection(folder: Path, n: int, *, seed: int = 3, beside: bool = False) -> dict[str, str]:
    """Write `n` pictures; returns the id (relative path) of each, and a caption that is not in the folder.

    Args:
        beside: another caption of each lies beside it.
    """
    rng = np.random.default_rng([seed, 1])
    told: dict[str, str] = {}
    for number, scene in enumerate(world.scenes(n, seed=seed, split="spare")):
        path = folder / f"{NAMES[number % len(NAMES)]} {number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(scene, rng).save(path)
        told[path.relative_to(folder).as_posix()] = caption(scene, rng)
        if beside:
            path.with_suffix(".txt").write_text(caption(scene, rng), encoding="utf-8")
    return told
