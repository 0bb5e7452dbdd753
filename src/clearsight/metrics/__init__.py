"""Measures, statistics and geometry: `score`, `paired_test`, `geometry`."""

from clearsight.metrics.geometry import geometry
from clearsight.metrics.score import score
from clearsight.metrics.statistics import PairedTest, bootstrap_interval, paired_test

__all__ = ["PairedTest", "bootstrap_interval", "geometry", "paired_test", "score"]
