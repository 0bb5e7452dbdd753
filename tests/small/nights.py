"""A small NIGHTS: data.csv with references and distortions, both splits, and triplets with too few votes.

Votes go round as 7, 6, 5, 9; the right one was chosen where the triplet's number (from 0) is odd. Every third
triplet is of val, the rest of test; every second is of ImageNet. Prompts hold commas.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from clearsight.data.scenes import draw
from clearsight.data.world import scenes

VOTES = (7, 6, 5, 9)


def write_nights(folder: Path, *, triplets: int = 12, seed: int = 0) -> Path:
    """Triplets whose three images are three scenes of the procedural world."""
    rng = np.random.default_rng(seed)
    drawn = iter(scenes(3 * triplets, seed))
    header = [
        "id",
        "votes",
        "right_vote",
        "prompt",
        "ref_path",
        "left_path",
        "right_path",
        "split",
        "is_imagenet",
    ]
    rows = []
    for i in range(triplets):
        name = f"{i // 5:03d}/{i:03d}"
        paths = [f"ref/{name}.png", f"distort/{name}_0.png", f"distort/{name}_1.png"]
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            draw(next(drawn), rng).save(folder / path)
        votes = VOTES[i % 4]
        right = i % 2 if votes >= 6 else 0.4
        split = "val" if i % 3 == 2 else "test"
        rows.append([i, votes, right, "a scene, with a comma", *paths, split, i % 2 == 0])
    with open(folder / "data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return folder
