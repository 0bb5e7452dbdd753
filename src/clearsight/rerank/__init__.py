"""Coarse, then fine: a generative model judges the first candidates of a ranking, without training."""

from clearsight.rerank import likelihood as _likelihood
from clearsight.rerank import listwise as _listwise
from clearsight.rerank.bias import chosen_positions, empty_query_scores, label_orders
from clearsight.rerank.prompts import Phrasing, get_phrasing, phrasing_names
from clearsight.rerank.reranker import Reranked, Reranker
from clearsight.rerank.scorers import SCORERS, Scorer

__all__ = [
    "SCORERS",
    "Phrasing",
    "Reranked",
    "Reranker",
    "Scorer",
    "chosen_positions",
    "empty_query_scores",
    "get_phrasing",
    "label_orders",
    "phrasing_names",
]
del _likelihood, _listwise
