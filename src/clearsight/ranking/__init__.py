"""Exact, reproducible ranking: `rank`, and `Prepared` candidates for more than one of them."""

from clearsight.ranking.rank import Prepared, rank

__all__ = ["Prepared", "rank"]
