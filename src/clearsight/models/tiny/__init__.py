"""The shipped models, and the recipe that made them."""

from __future__ import annotations

from pathlib import Path

SHIPPED = {
    "tiny": Path(__file__).with_name("generator"),
    "tiny-contrastive": Path(__file__).with_name("contrastive"),
}
"""Name -> folder."""
