"""Clusters of training pairs that are hard for one another: self-aware hard negatives, and what they are
compared with.
"""

from clearsight.mining.baselines import Nearest, OnlineNegatives, hard_negatives
from clearsight.mining.clusters import Clusters, LeftOver, Member, read_clusters, write_clusters
from clearsight.mining.pairs import TrainingPairs
from clearsight.mining.saha import PAPER, RELEASE, WHOLE, saha
from clearsight.mining.search import ApproximateSearch, ExactSearch, open_search
from clearsight.mining.strategies import STRATEGIES, Mining, Strategy, mine_pairs

__all__ = [
    "PAPER",
    "RELEASE",
    "STRATEGIES",
    "WHOLE",
    "ApproximateSearch",
    "Clusters",
    "ExactSearch",
    "LeftOver",
    "Member",
    "Mining",
    "Nearest",
    "OnlineNegatives",
    "Strategy",
    "TrainingPairs",
    "hard_negatives",
    "mine_pairs",
    "open_search",
    "read_clusters",
    "saha",
    "write_clusters",
]
