"""The field's benchmarks: each a row (`Benchmark`) and one shaping function, in a module of its own."""

from clearsight.data.benchmarks import (
    cirr,
    coco,
    flickr30k,
    mbeir,
    mmeb,
    mmeb_train,
    nights,
    sugarcrepe,
    sugarcrepe_pp,
)
from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, looks_like

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "cirr",
    "coco",
    "flickr30k",
    "looks_like",
    "mbeir",
    "mmeb",
    "mmeb_train",
    "nights",
    "sugarcrepe",
    "sugarcrepe_pp",
]
