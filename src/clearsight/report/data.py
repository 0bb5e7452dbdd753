"""What a report says, as frozen values: the jobs fill them in, the page and the terminal show them.

`ReportData.to_json` and `ReportData.from_json` keep them beside a Run, so that a page can be rendered again.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.errors import DataError
from clearsight.types import Score

if TYPE_CHECKING:
    from clearsight.metrics import PairedTest

_IMAGE_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Card:
    """One item as shown: a picture, a text, or both.

    Attributes:
        image: encoded PNG or JPEG.
        relevant: whether the item is a right answer to the query beside it.
        score: its score in the ranking, if it is a result.

    Raises:
        DataError: the image is neither PNG nor JPEG.
    """

    id: str
    text: str | None = None
    image: bytes | None = None
    relevant: bool = False
    score: float | None = None

    def __post_init__(self) -> None:
        if self.image is not None and self.image_kind is None:
            raise DataError(
                "A picture in a report must be PNG or JPEG.", where=self.id, do="Encode it as PNG."
            )

    @property
    def image_kind(self) -> str | None:
        """The media type of `image`, read from its first bytes."""
        image = self.image or b""
        return next((kind for magic, kind in _IMAGE_KINDS.items() if image.startswith(magic)), None)


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One line of the table: a task, under one embedding, after one repair.

    Attributes:
        task: such as "image -> text".
        embedding: such as "mean, one_word".
        repair: "base", "centred", "ReAlign", "self-aligned", "refined", or another name.
        scores: measure -> Score, such as "hit_rate@1".
        against: the repair that `test` compares with, or None.
        test: the paired test of this row against that one, on the first measure of `scores`.
        note: what sets the row apart, such as "image only".
    """

    task: str
    embedding: str
    repair: str
    scores: Mapping[str, Score]
    against: str | None = None
    test: PairedTest | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One query with its top results before and after a repair, best first."""

    task: str
    query: Card
    before: tuple[Card, ...]
    after: tuple[Card, ...]
    before_label: str = "base"
    after_label: str = "repaired"


@dataclass(frozen=True, slots=True)
class Caption:
    """A picture and what the model wrote about it; `consistent` is None where nobody checked."""

    image: Card
    text: str
    consistent: bool | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Lines over one axis: a sweep of the shrinkage, the rounds of a refinement.

    Attributes:
        x: L values, ascending; above 0 where `log_x`.
        y: name of a line -> its L values; NaN is left out of the drawing.
        chosen: the value of `x` in use, marked.

    Raises:
        DataError: a line's length is not that of `x`, or `log_x` with a value of 0 or below.
    """

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    y: Mapping[str, Sequence[float]]
    chosen: float | None = None
    log_x: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        for name, values in self.y.items():
            if len(values) != len(self.x):
                raise DataError(
                    f"The line '{name}' has {len(values)} values for {len(self.x)} places.", where=self.title
                )
        if self.log_x and any(value <= 0 for value in self.x):
            raise DataError(
                "A logarithmic axis has no place for 0 or below.", where=self.title, do="Use log_x=False."
            )


@dataclass(frozen=True, slots=True)
class GeometryRow:
    """Geometry of one set of rows, such as "base, images": measure -> value."""

    label: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page.

    Attributes:
        summary: one plain sentence with the headline.
        skipped: (item id, reason) of each item left out under `--on-error skip`.
        manifest: provenance, any JSON value; shown at the end.
        commands: the command lines that repeat the run.
    """

    title: str
    summary: str
    rows: tuple[ResultRow, ...] = ()
    examples: tuple[Example, ...] = ()
    captions: tuple[Caption, ...] = ()
    curves: tuple[Curve, ...] = ()
    geometry: tuple[GeometryRow, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Strict ASCII JSON (NaN as null, pictures in base64).

        The scores' `values_Q` stay out: nothing on the page shows them, and a Run keeps them in scores.json.
        """
        return json.dumps(plain(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ReportData:
        """The inverse of `to_json`, but for the scores' `values_Q`, which come back empty.

        Raises:
            DataError: the text is not the JSON of a report.
        """
        try:
            raw = json.loads(text)
            return cls(
                title=raw["title"],
                summary=raw["summary"],
                rows=tuple(_row(row) for row in raw["rows"]),
                examples=tuple(_example(example) for example in raw["examples"]),
                captions=tuple(Caption(**{**c, "image": _card(c["image"])}) for c in raw["captions"]),
                curves=tuple(_curve(curve) for curve in raw["curves"]),
                geometry=tuple(GeometryRow(g["label"], _numbers(g["values"])) for g in raw["geometry"]),
                skipped=tuple((item_id, reason) for item_id, reason in raw["skipped"]),
                warnings=tuple(raw["warnings"]),
                manifest=raw["manifest"],
                commands=tuple(raw["commands"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"This is not the JSON of a report ({type(error).__name__}: {error}).",
                do="Run the job again.",
            ) from error


def plain(value: Any) -> Any:
    """`value` as what JSON holds: dataclasses as objects, bytes in base64, NaN and infinity as null.

    `values_Q` of a Score is left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "values_Q"}
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Sequence | set | frozenset):
        return [plain(member) for member in value]
    return str(value)


def _card(raw: dict[str, Any]) -> Card:
    image = raw["image"]
    return Card(**{**raw, "image": None if image is None else base64.b64decode(image, validate=True)})


def _row(raw: dict[str, Any]) -> ResultRow:
    from clearsight.metrics import PairedTest

    scores = {
        name: Score(**_numbers(score), values_Q=np.empty(0, dtype=np.float64))
        for name, score in raw["scores"].items()
    }
    test = None if raw["test"] is None else PairedTest(**_numbers(raw["test"]))
    return ResultRow(**{**raw, "scores": scores, "test": test})


def _example(raw: dict[str, Any]) -> Example:
    strips = {name: tuple(_card(card) for card in raw[name]) for name in ("before", "after")}
    return Example(**{**raw, **strips, "query": _card(raw["query"])})


def _curve(raw: dict[str, Any]) -> Curve:
    lines = {name: tuple(_numbers({"": value})[""] for value in values) for name, values in raw["y"].items()}
    return Curve(**{**raw, "x": tuple(raw["x"]), "y": lines})


def _numbers(raw: dict[str, Any]) -> dict[str, Any]:
    """null back to NaN: every field of these records is a number or a name."""
    return {name: math.nan if value is None else value for name, value in raw.items()}
