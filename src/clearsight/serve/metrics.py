"""Counts and times of a server, as text for Prometheus (exposition format 0.0.4).

| name | labels | is |
|---|---|---|
| `clearsight_requests_total` | route, method, status | answered requests |
| `clearsight_request_seconds` | route | histogram: from the first byte read to the answer |
| `clearsight_batches_total` | lane | passes through the model |
| `clearsight_batch_requests_total`, `clearsight_batch_items_total` | lane | what shared them |
| `clearsight_batch_seconds` | lane | histogram: time of a pass |
| `clearsight_waiting`, `clearsight_held_bytes`, `clearsight_ready` | | gauges |

Labels are names of routes and lanes, never what a client sent.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms, seconds."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = tuple[tuple[str, str], ...]


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Counters and histograms; told from the event loop and from the model's thread.

    Args:
        gauges: name -> what reads its value when the text is asked for.
    """

    def __init__(self, gauges: Mapping[str, Callable[[], float]] | None = None) -> None:
        self.gauges = dict(gauges or {})
        self._lock = threading.Lock()
        self._counters: dict[str, dict[_Labels, int]] = {}
        self._histograms: dict[str, dict[_Labels, _Histogram]] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        with self._lock:
            self._count("clearsight_requests_total", 1, route=route, method=method, status=str(status))
            self._time("clearsight_request_seconds", seconds, route=route)

    def batch(self, lane: str, requests: int, items: int, seconds: float) -> None:
        with self._lock:
            self._count("clearsight_batches_total", 1, lane=lane)
            self._count("clearsight_batch_requests_total", requests, lane=lane)
            self._count("clearsight_batch_items_total", items, lane=lane)
            self._time("clearsight_batch_seconds", seconds, lane=lane)

    def text(self) -> str:
        lines: list[str] = []
        with self._lock:
            for name, counters in sorted(self._counters.items()):
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{_braces(labels)} {count}" for labels, count in sorted(counters.items())]
            for name, histograms in sorted(self._histograms.items()):
                lines.append(f"# TYPE {name} histogram")
                for labels, histogram in sorted(histograms.items()):
                    lines += _histogram_lines(name, labels, histogram)
        for name, read in sorted(self.gauges.items()):
            lines += [f"# TYPE {name} gauge", f"{name} {read():g}"]
        return "\n".join(lines) + "\n"

    def _count(self, name: str, by: int, **labels: str) -> None:
        counters = self._counters.setdefault(name, {})
        key = tuple(labels.items())
        counters[key] = counters.get(key, 0) + by

    def _time(self, name: str, seconds: float, **labels: str) -> None:
        histograms = self._histograms.setdefault(name, {})
        histograms.setdefault(tuple(labels.items()), _Histogram()).add(seconds)


def _histogram_lines(name: str, labels: _Labels, histogram: _Histogram) -> list[str]:
    lines, below = [], 0
    for bound, count in zip((*BOUNDS, float("inf")), histogram.counts, strict=True):
        below += count
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f"{name}_bucket{_braces((*labels, ('le', edge)))} {below}")
    return [
        *lines,
        f"{name}_sum{_braces(labels)} {histogram.total:.6f}",
        f"{name}_count{_braces(labels)} {below}",
    ]


def _braces(labels: _Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}" if labels else ""
