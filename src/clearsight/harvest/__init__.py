"""Harvest: token-level activations of any encoder, kept on disk, read in random order."""

from clearsight.harvest.config import TOKEN_TYPES, HarvestConfig, TokenType
from clearsight.harvest.overlap import HarvestStream, harvest_stream
from clearsight.harvest.produce import harvest
from clearsight.harvest.shards import Shard, Shards
from clearsight.harvest.stream import ShardSource, ShuffledStream

__all__ = [
    "TOKEN_TYPES",
    "HarvestConfig",
    "HarvestStream",
    "Shard",
    "ShardSource",
    "Shards",
    "ShuffledStream",
    "TokenType",
    "harvest",
    "harvest_stream",
]
