"""The papers' tables and figures, one file each; `PUBLISHED` holds them by name."""

from clearsight.jobs.papers import (
    ablation,
    embedder_figure_1,
    embedder_figure_4,
    embedder_table_2,
    embedder_table_3,
    embedder_table_4,
    embedder_table_6,
    giants_figure_1,
    giants_figure_2,
    giants_figure_3,
    giants_figure_4,
    giants_realign,
    giants_table_1,
    giants_table_2,
    giants_table_3,
)
from clearsight.jobs.papers.base import PUBLISHED, Cell, Published, Redone

__all__ = [
    "PUBLISHED",
    "Cell",
    "Published",
    "Redone",
    "ablation",
    "embedder_figure_1",
    "embedder_figure_4",
    "embedder_table_2",
    "embedder_table_3",
    "embedder_table_4",
    "embedder_table_6",
    "giants_figure_1",
    "giants_figure_2",
    "giants_figure_3",
    "giants_figure_4",
    "giants_realign",
    "giants_table_1",
    "giants_table_2",
    "giants_table_3",
]
