"""On PYTHONPATH of processes that open exported folders: PyPI's torchvision is importable beside a CPU torch.

Its __init__ describes operators of its compiled part, which a CPU torch refuses to load; none of them has
anything to do with resizing a picture. Where the compiled part does load, nothing is done.
"""

import contextlib
import importlib.util
from pathlib import Path

import torch


def _loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    places = (spec.submodule_search_locations if spec else None) or []
    for library in (file for place in places for file in Path(place).glob("_C*")):
        with contextlib.suppress(OSError):
            torch.ops.load_library(library)
            return True
    return False


if not _loads():
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
