"""On PYTHONPATH of the stock environment: lets PyPI's torchvision be imported beside a CPU torch.

Its __init__ describes operators of its compiled part, which a CPU torch refuses to load; none of them has
anything to do with resizing a picture.
"""

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
