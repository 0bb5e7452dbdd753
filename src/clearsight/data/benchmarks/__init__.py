"""The field's benchmarks: each a row (`Benchmark`) and one shaping function, in a module of its own."""

from clearsight.data.benchmarks.base import BENCHMARKS, Benchmark, looks_like

__all__ = ["BENCHMARKS", "Benchmark", "looks_like"]
