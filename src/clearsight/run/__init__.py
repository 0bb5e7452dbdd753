"""The Run folder: provenance, scores and rankings, written whole or not at all."""

from clearsight.run.environment import environment
from clearsight.run.folder import Run
from clearsight.run.trec import escape_id, read_trec, unescape_id

__all__ = ["Run", "environment", "escape_id", "read_trec", "unescape_id"]
