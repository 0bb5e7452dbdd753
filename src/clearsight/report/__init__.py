"""What a run shows: the self-contained HTML page and the terminal table."""

from __future__ import annotations

from clearsight.report.data import Caption, Card, Curve, Example, GeometryRow, ReportData, ResultRow
from clearsight.report.page import render_report
from clearsight.report.terminal import render_table, rows_to_json

__all__ = [
    "Caption",
    "Card",
    "Curve",
    "Example",
    "GeometryRow",
    "ReportData",
    "ResultRow",
    "render_report",
    "render_table",
    "rows_to_json",
]
