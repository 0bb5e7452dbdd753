"""The diagnosis as one HTML file: it asks nothing of the network, and runs one script of its own.

The page's policy allows that script by its hash and forbids every request. Without a script all tables and
charts are there; the maps and the concept browser say what they miss.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from clearsight.report import axis, text, view
from clearsight.report.diagnosis import panels
from clearsight.report.diagnosis import view as own
from clearsight.report.diagnosis.data import DiagnosisData, ModelDiagnosis
from clearsight.report.diagnosis.payload import kind_of, payload
from clearsight.report.page import environment

_SCRIPTS = ("common.js", "map.js", "browser.js", "download.js")


def render_diagnosis(data: DiagnosisData) -> str:
    """The whole diagnosis as one HTML document.

    The same data gives the same page, byte for byte, with one version of Pillow. Control characters and lone
    surrogates in foreign texts are shown as the replacement character.

    Raises:
        DataError: a picture cannot be decoded.
    """
    models = data.models
    masking_rows = own.masking_rows(models)
    drawn: dict[str, Any] = {
        "compositions": own.compositions(models),
        "modality": [axis.chart(panel) for panel in panels.modality_panels(models)],
        "energy": axis.chart(panel) if (panel := panels.energy_panel(models)) else None,
        "overlaps": own.overlap_groups(models),
        "maps": any(model.maps for model in models),
        "has_both": any(kind_of(item) == "image+text" for item in data.items),
        "geometry": own.measure_table([(model.name, model.geometry) for model in models]),
        "reconstruction": own.measure_table([(model.name, model.reconstruction) for model in models]),
        "removal": [axis.chart(panel) for model in models for panel in panels.removal_panels(model)],
        "removal_rows": [(m.name, panels.with_differences(m.removal)) for m in models if m.removal],
        "masking": view.task_tables(masking_rows),
        "masking_measures": view.measures_of(masking_rows),
        "masking_scales": view.scales(masking_rows),
        "attention": [axis.chart(panel) for model in models for panel in panels.attention_panels(model)],
    }
    script = _script()
    html = (
        environment()
        .get_template("diagnosis.html.j2")
        .render(
            data=data,
            **drawn,
            sections=_sections(drawn, models),
            payload=payload(data) if models else "",
            script=script,
            script_hash=_hash(script),
        )
    )
    return text.clean(html)


def _sections(drawn: dict[str, Any], models: tuple[ModelDiagnosis, ...]) -> tuple[tuple[str, str, bool], ...]:
    """(id, label, whether it is there), in the order of the page."""
    return (
        ("models", "Models", bool(models)),
        ("modality-scores", "Modality", bool(drawn["modality"])),
        ("energy", "Energy", bool(drawn["energy"])),
        ("overlap", "Overlap", bool(drawn["overlaps"])),
        ("map", "Map", bool(drawn["maps"])),
        ("geometry", "Geometry", bool(drawn["geometry"])),
        ("removal", "Removal", bool(drawn["removal"])),
        ("masking", "Masking", bool(drawn["masking"])),
        ("attention", "Attention", bool(drawn["attention"])),
        ("reconstruction", "Reconstruction", bool(drawn["reconstruction"])),
        ("concepts", "Concepts", bool(models)),
    )


@cache
def _script() -> str:
    """The page's script: its parts in one function, so that it leaves no name behind."""
    folder = files("clearsight.report.diagnosis") / "scripts"
    parts = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    return f"(() => {{\n'use strict';\n{parts}}})();"


def _hash(script: str) -> str:
    """The source expression by which a Content-Security-Policy names the script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
