"""The diagnosis of one or several models as values, and as one self-contained page with a concept browser."""

from __future__ import annotations

from clearsight.report.diagnosis.data import (
    NO_ITEM,
    AttentionEfficiency,
    ConceptTable,
    DiagnosisData,
    EnergyCurve,
    Examples,
    MapView,
    MeasureRow,
    ModalityDensity,
    ModelDiagnosis,
    Overlap,
    OverlapRow,
    RetrievalRow,
)
from clearsight.report.diagnosis.page import render_diagnosis

__all__ = [
    "NO_ITEM",
    "AttentionEfficiency",
    "ConceptTable",
    "DiagnosisData",
    "EnergyCurve",
    "Examples",
    "MapView",
    "MeasureRow",
    "ModalityDensity",
    "ModelDiagnosis",
    "Overlap",
    "OverlapRow",
    "RetrievalRow",
    "render_diagnosis",
]
