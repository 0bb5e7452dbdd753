"""Exact, reproducible ranking: `rank`."""

from clearsight.ranking.rank import rank

__all__ = ["rank"]
