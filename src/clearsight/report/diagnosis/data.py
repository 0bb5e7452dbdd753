"""What the diagnosis page shows, as frozen values: the job fills them in, the page and the figures draw them.

M models, C concepts of a model, E examples kept for each concept, I items of the page, P points of a map,
Q matched pairs, L layers, T token types, G places along a curve.

Whatever could not be measured stays at its default (empty, or None) and is left out of the page; the reason
belongs in `ModelDiagnosis.notes`, which the page shows under the model's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import DataError
from clearsight.report.data import Card, GeometryRow

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.integer[Any]]

MeasureRow = GeometryRow
"""A label and its measures (name -> value, NaN for one that is not defined): geometry, reconstruction."""

BASE = "base"
"""Name of the retrieval row that the others of its direction and measure are compared with."""

NO_ITEM = -1
"""Fills `Examples.items_CE` where a concept has fewer examples than others."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Items that activate each concept, in the order in which they are shown.

    Attributes:
        items_CE: positions in `DiagnosisData.items`; `NO_ITEM` fills a row that has fewer.
        activation_CE: the code of that item at that concept, above 0; read only where there is an item.

    Pictures and texts may be mixed in a row: the page shows them apart. A concept that never fires has a row
    of `NO_ITEM`.

    Raises:
        DataError: the two arrays differ in shape, or are not two-dimensional.
    """

    items_CE: Integers
    activation_CE: Floats

    def __post_init__(self) -> None:
        if self.items_CE.ndim != 2 or self.items_CE.shape != self.activation_CE.shape:
            raise DataError(
                f"Examples have items {self.items_CE.shape} and activations {self.activation_CE.shape}.",
                do="Give both the shape (concepts, examples).",
            )


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """The scores and examples of every concept of one model.

    Attributes:
        energy_C: mean code over all samples, 0 or above.
        modality_C: 0 = image only, 1 = text only; NaN where no sample activates the concept.
        firing_rate_C: share of samples whose code is above 0.
        dead_C: concepts that fired on no token of the measuring set either; None if nobody looked. They are
            counted apart from those that are only silent on pooled vectors.
        attribution_C: retrieval attribution, signed; None without pairs.
        bridge: reduction -> scores_C, in the order shown; empty without pairs.
        monosemanticity_C: how alike the concept's top items are; NaN where undefined, None if not measured.
        names: in words, "" for a concept without one; empty if there are none.
        more: further scores by name, shown and sorted like the others.
        most, least: the items with the highest, and with the lowest nonzero, activation.

    Raises:
        DataError: an array has another length than `energy_C`.
    """

    energy_C: Floats
    modality_C: Floats
    firing_rate_C: Floats
    most: Examples
    least: Examples
    dead_C: NDArray[np.bool_] | None = None
    attribution_C: Floats | None = None
    bridge: Mapping[str, Floats] = field(default_factory=dict)
    monosemanticity_C: Floats | None = None
    names: tuple[str, ...] = ()
    more: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.energy_C)
        lengths = {name: len(values) for name, values in self.scores().items()}
        lengths |= {"most": len(self.most.items_CE), "least": len(self.least.items_CE)}
        if self.dead_C is not None:
            lengths["dead"] = len(self.dead_C)
        if self.names:
            lengths["names"] = len(self.names)
        for name, length in lengths.items():
            if length != count:
                raise DataError(f"{length} values for {count} concepts.", where=name)

    def scores(self) -> dict[str, Floats]:
        """Every score that there is, by name, in the order in which the page offers them.

        Names: `energy`, `modality`, `bridge` of the first reduction and `bridge_<reduction>` of the others,
        `attribution`, `firing_rate`, `monosemanticity`, then those of `more`.
        """
        found: dict[str, Floats] = {"energy": self.energy_C, "modality": self.modality_C}
        for place, (reduction, values_C) in enumerate(self.bridge.items()):
            found[f"bridge_{reduction}" if place else "bridge"] = values_C
        if self.attribution_C is not None:
            found["attribution"] = self.attribution_C
        found["firing_rate"] = self.firing_rate_C
        if self.monosemanticity_C is not None:
            found["monosemanticity"] = self.monosemanticity_C
        return found | dict(self.more)

    @property
    def undefined_C(self) -> NDArray[np.bool_]:
        """Concepts without a modality score."""
        return np.asarray(~np.isfinite(self.modality_C))


@dataclass(frozen=True, slots=True)
class ModalityDensity:
    """Kernel density of the modality scores over the concepts that have one.

    Attributes:
        score_G: ascending places in 0..1.
        plain_G: every concept counts once.
        weighted_G: every concept counts by its energy.
    """

    score_G: Floats
    plain_G: Floats
    weighted_G: Floats

    def __post_init__(self) -> None:
        _same_length("modality density", self.score_G, self.plain_G, self.weighted_G)


@dataclass(frozen=True, slots=True)
class EnergyCurve:
    """How much of the energy the strongest concepts hold.

    Attributes:
        concepts_G: ascending share of the concepts, strongest first, 0 < share <= 1.
        energy_G: share of the energy that they hold, 0..1.
        gini: 0 = spread evenly, 1 = all in one concept.
        top_share: share of the energy in the strongest 1% of the concepts.
    """

    concepts_G: Floats
    energy_G: Floats
    gini: float
    top_share: float

    def __post_init__(self) -> None:
        _same_length("energy curve", self.concepts_G, self.energy_G)
        if len(self.concepts_G) and not self.concepts_G.min() > 0:
            raise DataError("The energy curve is drawn over a logarithm: its shares must be above 0.")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Jaccard similarity of the top sets: energy S_E, attribution S_A, bridge S_B; each 0..1, NaN undefined.

    `triple` is |S_E & S_A & S_B| / |S_E | S_A | S_B|.
    """

    energy_attribution: float
    energy_bridge: float
    attribution_bridge: float
    triple: float


@dataclass(frozen=True, slots=True)
class OverlapRow:
    """The overlap under one reduction of the bridge, beside what random sets of that size would share."""

    reduction: str
    found: Overlap
    random: Overlap


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """One retrieval figure of the removal sweep or of the masking ablation.

    Attributes:
        name: what was done: "top attribution", "random concepts", "without image tokens" ...; `BASE` where
            nothing was.
        direction: "image -> text" or another task.
        measure: "hit_rate@1" or another one, a share 0..1.
        mean, low, high: the figure and its 95% interval (NaN if there is none).
        p_value: paired test against the base of the same direction; NaN for the base itself.
        rank: r, how many directions were removed; None for a level that has no rank (base, centring).
        control: whether the row is there to be compared with, rather than the method itself.
        chance: the level of a random ranking; NaN if unknown.
        queries: how many were judged; 0 if unknown.
    """

    name: str
    direction: str
    measure: str
    mean: float
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    rank: int | None = None
    control: bool = False
    chance: float = float("nan")
    queries: int = 0


@dataclass(frozen=True, slots=True)
class AttentionEfficiency:
    """Attention to each token type by layer, per token of that type (From Generator to Embedder, eq. 1).

    Attributes:
        types: T names: "image", "user", "system" ...
        layers: L layer numbers as the model counts them.
        published_LT: the paper's figure. NaN where a type does not occur.
        corrected_LT: share received over the uniform share of the tokens that each row can see, sink token
            left out; 1 = no more than by chance.
        sink_L: share of all attention that goes to the sink token; empty if not measured.
    """

    types: tuple[str, ...]
    layers: tuple[int, ...]
    published_LT: Floats
    corrected_LT: Floats
    sink_L: Floats = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        shape = (len(self.layers), len(self.types))
        for name, values in (("published", self.published_LT), ("corrected", self.corrected_LT)):
            if values.shape != shape:
                raise DataError(
                    f"{values.shape} values for {shape} layers and types.", where=f"attention, {name}"
                )
        if len(self.sink_L) not in (0, len(self.layers)):
            raise DataError(f"{len(self.sink_L)} values for {len(self.layers)} layers.", where="sink_L")


@dataclass(frozen=True, slots=True)
class MapView:
    """Vectors of one stage on a plane (`clearsight.metrics.maps.embed_map`).

    Attributes:
        label: the stage: "before repair", "self-aligned" ...
        method: what placed the points, as `PlaneMap.method` says it.
        items_P: positions in `DiagnosisData.items`.
        points_P2: places; only their relative distances mean something.
        note: what the reader must know, such as why another method had to stand in.
    """

    label: str
    method: str
    items_P: Integers
    points_P2: Floats
    note: str = ""

    def __post_init__(self) -> None:
        if self.points_P2.shape != (len(self.items_P), 2):
            raise DataError(
                f"A map of {len(self.items_P)} items has places of shape {self.points_P2.shape}.",
                where=self.label,
            )
        if not np.isfinite(self.points_P2).all():
            raise DataError("A place on a map is not a number.", where=self.label)


@dataclass(frozen=True, slots=True)
class ModelDiagnosis:
    """Everything about one model.

    Attributes:
        name: unique among the models of a page.
        kind: "generative", "contrastive", or another word for what it is.
        sae: one line on the SAE: width, concepts, activation, what it was trained on.
        notes: whole sentences: what could not be measured and why, what must be known to read the numbers.
        maps: before and after repair, in this order.
    """

    name: str
    concepts: ConceptTable
    kind: str = ""
    sae: str = ""
    notes: tuple[str, ...] = ()
    density: ModalityDensity | None = None
    energy: EnergyCurve | None = None
    overlap: tuple[OverlapRow, ...] = ()
    geometry: tuple[MeasureRow, ...] = ()
    removal: tuple[RetrievalRow, ...] = ()
    masking: tuple[RetrievalRow, ...] = ()
    attention: AttentionEfficiency | None = None
    reconstruction: tuple[MeasureRow, ...] = ()
    maps: tuple[MapView, ...] = ()


@dataclass(frozen=True, slots=True)
class DiagnosisData:
    """Everything on the page.

    Attributes:
        summary: one plain sentence with the headline.
        findings: whole sentences, the most important first; where a model contradicts the paper they say so.
        models: the subject first, controls after it.
        items: the pictures and texts that examples and maps refer to; each stands on the page once. `Card`s
            with `image` (PNG or JPEG), `text`, or both.
        pairs_Q2: matched items (positions in `items`), such as a picture and its caption; may be empty.
        manifest: provenance, any JSON value. commands: the command lines that repeat the run.

    Raises:
        DataError: two models of one name, or a position that is not that of an item.
    """

    title: str
    summary: str
    models: tuple[ModelDiagnosis, ...]
    findings: tuple[str, ...] = ()
    items: tuple[Card, ...] = ()
    pairs_Q2: Integers = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    warnings: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise DataError(f"Two models have one name: {', '.join(names)}.", do="Give each its own name.")
        if self.pairs_Q2.ndim != 2 or self.pairs_Q2.shape[1] != 2:
            raise DataError(f"Pairs have shape {self.pairs_Q2.shape}.", do="Give (item, item) positions.")
        self._check_positions("pairs", self.pairs_Q2, lowest=0)
        for model in self.models:
            for side in (model.concepts.most, model.concepts.least):
                self._check_positions(f"examples of {model.name}", side.items_CE, lowest=NO_ITEM)
            for view in model.maps:
                self._check_positions(f"map of {model.name}, {view.label}", view.items_P, lowest=0)

    def _check_positions(self, where: str, positions: Integers, lowest: int) -> None:
        if positions.size and not (lowest <= positions.min() and positions.max() < len(self.items)):
            raise DataError(
                f"Positions {positions.min()} to {positions.max()} for {len(self.items)} items.", where=where
            )


def _same_length(where: str, *arrays: Floats) -> None:
    if len({len(values) for values in arrays}) != 1:
        raise DataError(f"Lengths {', '.join(str(len(values)) for values in arrays)} differ.", where=where)
