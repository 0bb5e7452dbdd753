"""Paper figures: each shows its data, files are the same bytes twice, nothing measured means no file."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clearsight.report.diagnosis import ConceptTable, DiagnosisData, Examples, ModelDiagnosis
from clearsight.report.figure_style import to_png, to_svg
from clearsight.report.figures import (
    FIGURES,
    figure_composition,
    figure_energy,
    figure_maps,
    figure_masking,
    figure_modality,
    figure_overlap,
    figure_removal,
    write_figures,
)
from diagnosis_sample import sample_diagnosis


@pytest.fixture(scope="module")
def data() -> DiagnosisData:
    return sample_diagnosis(2, concepts=80, scenes=12)


def bare(name: str = "bare") -> ModelDiagnosis:
    """A model of which only the concepts are known, and none of them ever fires."""
    none = Examples(np.full((3, 2), -1), np.zeros((3, 2)))
    return ModelDiagnosis(name, ConceptTable(np.zeros(3), np.full(3, np.nan), np.zeros(3), none, none))


def test_every_figure_becomes_two_files(data: DiagnosisData, tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    written = write_figures(data, tmp_path / "figures")
    assert [path.name for path in written] == [f"{name}.{end}" for name in FIGURES for end in ("svg", "png")]
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) > 200
                assert picture.convert("L").getextrema()[0] < 200  # something is drawn
        else:
            ElementTree.fromstring(path.read_bytes())
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {path.name for path in written}
    assert ("matplotlib.pyplot" in sys.modules) == before  # nothing global: other tests may have loaded it


@pytest.mark.parametrize("name", FIGURES)
def test_svgs_hold_texts_and_repeat_themselves(name: str, data: DiagnosisData) -> None:
    first, second = (to_svg(FIGURES[name](data)) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first
    assert b"<text" in first


def test_pngs_repeat_themselves(data: DiagnosisData) -> None:
    assert to_png(figure_energy(data), 60) == to_png(figure_energy(data), 60)


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    data = DiagnosisData("t", "s", (bare(),))
    assert [path.name for path in write_figures(data, tmp_path)] == ["concepts.svg", "concepts.png"]
    assert write_figures(DiagnosisData("t", "s", ()), tmp_path / "none") == []


def test_bars_of_a_composition_add_up_to_all_concepts(data: DiagnosisData) -> None:
    (axes,) = figure_composition(data).axes
    widths = [patch.get_width() for patch in axes.patches]
    assert sum(widths) == pytest.approx(100 * len(data.models))


def test_lines_are_those_of_the_data(data: DiagnosisData) -> None:
    model = data.models[0]
    density = figure_modality(data).axes[0].lines
    assert np.allclose(density[0].get_ydata(), model.density.plain_G)
    assert np.allclose(density[1].get_ydata(), model.density.weighted_G)
    energy = figure_energy(data).axes[0].lines
    assert [line.get_label() for line in energy] == ["tiny-qwen2vl", "tiny-clip"]
    assert np.allclose(energy[0].get_ydata(), 100 * model.energy.energy_G)
    removal = {line.get_label(): line for line in figure_removal(data).axes[0].lines}
    rows = [row for row in model.removal if row.direction == "image -> text"]
    for name in ("top attribution", "random concepts"):
        assert np.allclose(
            removal[name].get_ydata(), [100 * r.mean for r in rows if r.name == name], atol=1e-9
        )
    base = next(row for row in rows if row.name == "base")
    assert removal["base"].get_ydata()[0] == pytest.approx(100 * base.mean)


def test_bars_of_the_masking_ablation_stand_at_their_scores(data: DiagnosisData) -> None:
    heights = sorted(bar.get_height() for bar in figure_masking(data).axes[0].patches)
    wanted = sorted(100 * r.mean for m in data.models for r in m.masking if r.direction == "image -> text")
    assert heights == pytest.approx(wanted)


def test_the_papers_models_stand_beside_ours_in_the_overlap(data: DiagnosisData) -> None:
    drawn = {line.get_label(): line for line in figure_overlap(data).axes[0].lines}
    assert list(drawn["CLIP (paper)"].get_ydata()) == [0.5674, 0.6831, 0.6126, 0.4796]
    assert drawn["CLIP (paper)"].get_fillstyle() == "none"
    assert drawn["tiny-clip, abs"].get_fillstyle() == "full"


def test_maps_show_every_point_once(data: DiagnosisData) -> None:
    figure = figure_maps(data)
    assert len(figure.axes) == 4
    for axes, view in zip(figure.axes, data.models[0].maps, strict=False):
        shown = np.concatenate([points.get_offsets() for points in axes.collections])
        assert np.allclose(np.sort(shown, axis=0), np.sort(view.points_P2, axis=0))


def test_names_from_outside_are_only_names(data: DiagnosisData) -> None:
    named = replace(data.models[0], name="$\\frac$ <b> \x1b\n& %s {0}")
    figure = figure_energy(replace(data, models=(named,)))
    root = ElementTree.parse(io.BytesIO(to_svg(figure))).getroot()
    assert "$\\frac$ <b> \ufffd & %s {0}" in "".join(root.itertext())
