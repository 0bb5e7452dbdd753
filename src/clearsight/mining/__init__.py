"""Clusters of training pairs that are hard for one another: self-aware hard negatives, and what they are
compared with.
"""

from clearsight.mining.clusters import Clusters, LeftOver, Member, read_clusters, write_clusters

__all__ = ["Clusters", "LeftOver", "Member", "read_clusters", "write_clusters"]
