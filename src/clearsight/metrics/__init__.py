"""Measures, statistics and geometry: `score`, `paired_test`, `geometry`."""

from clearsight.metrics.geometry import geometry
from clearsight.metrics.over_sets import mean_over_sets, paired_test_over_sets
from clearsight.metrics.score import score
from clearsight.metrics.statistics import PairedTest, bootstrap_interval, paired_test

__all__ = [
    "PairedTest",
    "bootstrap_interval",
    "geometry",
    "mean_over_sets",
    "paired_test",
    "paired_test_over_sets",
    "score",
]
