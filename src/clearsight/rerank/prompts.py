"""How scorers ask: named wordings as data (`prompts.toml`); one's own from a TOML file of the same form.

A pair is worded as one user turn. Items' own words stay spans of their own, so that neither a chat template
nor a tokenizer can take a user's text for a control token.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearsight.errors import DataError, ItemError, UsageError
from clearsight.models.prompts import Part, Span, Turn
from clearsight.models.toml_values import choices, known_keys, read_toml
from clearsight.types import MODALITIES, ImageSource, Item, Modality

if TYPE_CHECKING:
    from clearsight.models.load import LoadedModel

FORMS = (
    "true_false",
    "match",
    "choice",
    "digit",
    "number",
    "list",
    "list_release",
    "say",
    "say_nothing",
    "ask",
    "ask_nothing",
)
WORDS = ("true", "false", "yes", "no")
_PLACE = re.compile(r"\{([a-z]+(?:\.(?:text|image))?)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """How pairs that fit its filters are worded; an empty filter fits everything (see `prompts.toml`)."""

    user: str
    query: tuple[Modality, ...] = ()
    candidate: tuple[Modality, ...] = ()
    system: str = ""
    option: str = ""
    between: str = ""
    trim: str = ""

    def fits(self, query: Modality, candidate: Modality | None) -> bool:
        return (not self.query or query in self.query) and (
            not self.candidate or candidate is None or candidate in self.candidate
        )


@dataclass(frozen=True, slots=True)
class Worded:
    """A prompt with its images, in their order."""

    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...]


@dataclass(frozen=True)
class Phrasing:
    """A named way of asking.

    Attributes:
        name: a built-in's name, or the stem of the file it came from.
        description, source: one sentence each.
        words: the two answers of `true_false` and of `choice`.
        forms: name of a form -> its rules, the first that fits words a pair.
    """

    name: str
    description: str = ""
    source: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)

    def pair(self, form: str, query: Item, candidate: Item | None, **labels: str) -> Worded:
        """One pair; without a candidate, the query alone.

        Args:
            labels: template's words for {a} and {b}.

        Raises:
            UsageError: the wording has no such form, or no rule of it fits.
        """
        rule = self._rule(form, query, None if candidate is None else candidate.modality)
        places = _places("query", query, rule.trim)
        if candidate is not None:
            places |= _places("candidate", candidate, rule.trim)
        return _worded(rule, places, labels)

    def listed(self, form: str, query: Item, candidates: Sequence[Item]) -> Worded:
        """All candidates in one prompt, numbered from 1 in their order.

        Raises:
            UsageError: as `pair`.
        """
        rule = self._rule(form, query, candidates[0].modality)
        options: list[Any] = []
        for index, candidate in enumerate(candidates, start=1):
            options += [Span(rule.between)] if options else []
            options += _pieces(rule.option, _places("candidate", candidate, rule.trim), {"index": str(index)})
        return _worded(rule, {**_places("query", query, rule.trim), "options": options}, {})

    def blank(self, form: str, query: Modality, candidate: Item, **labels: str) -> Worded:
        """As `pair` for a query of that modality, of which neither text nor image is shown."""
        stand_in = Item("", text="" if "text" in query else None, image=b"" if "image" in query else None)
        rule = self._rule(form, stand_in, candidate.modality)
        nothing: dict[str, list[Any]] = {"query": [], "query.text": [], "query.image": []}
        return _worded(rule, {**nothing, **_places("candidate", candidate, rule.trim)}, labels)

    def word(self, name: str) -> str:
        """An answer, such as "true".

        Raises:
            UsageError: the wording does not say it.
        """
        if name not in self.words:
            raise UsageError(
                f"The wording '{self.name}' does not say what '{name}' is.",
                do=f"Add it under [words]: {', '.join(WORDS)}.",
            )
        return self.words[name]

    def _rule(self, form: str, query: Item, candidate: Modality | None) -> Rule:
        rules = self.forms.get(form, ())
        found = next((rule for rule in rules if rule.fits(query.modality, candidate)), None)
        if found is None:
            what = f"The wording '{self.name}' has no rule of the form '{form}' for {query.modality} queries"
            about = "" if candidate is None else f" and {candidate} candidates"
            raise UsageError(f"{what}{about}.", do=f"Add a last [[{form}]] without filters.")
        return found


def get_phrasing(name_or_path: str | Path) -> Phrasing:
    """A built-in wording by name, or one's own by the path of a TOML file.

    ```toml
    description = "Short."
    [words]
    true = "Yes"
    false = "No"
    [[true_false]]
    user = "{query}\\n{candidate}\\nAre they alike? Yes or No"
    ```

    Raises:
        UsageError: no such built-in, or no such file.
        DataError: the file is not TOML, or holds an unknown key or value.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and not text.endswith(".toml"):
        if text not in _builtins():
            known = ", ".join(_builtins())
            raise UsageError(f"There is no wording '{text}'.", do=f"There are: {known}; or give a TOML file.")
        return _builtins()[text]
    path = Path(name_or_path)
    if not path.is_file():
        raise UsageError(f"There is no file '{text}'.", do=f"Give it, or one of: {', '.join(_builtins())}.")
    table = read_toml(path, "wording")
    return _phrasing(path.stem, table, text)


def phrasing_names() -> list[str]:
    """Names of the wordings that come with the package."""
    return list(_builtins())


def default_phrasing(loaded: LoadedModel) -> str:
    """ "shipped" for the shipped model, told by its content wherever it lies; "official" for every other."""
    from clearsight.models.folder import find_folder

    return "shipped" if loaded.revision == find_folder("tiny").revision() else "official"


@cache
def _builtins() -> dict[str, Phrasing]:
    table = tomllib.loads(files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8"))
    official = _phrasing("official", table["official"], "prompts.toml")
    shipped = _phrasing("shipped", {**table["official"], **table["shipped"]}, "prompts.toml")
    return {"official": official, "shipped": shipped}


def _phrasing(name: str, table: Mapping[str, Any], where: str) -> Phrasing:
    known = {"description", "source", "words", *FORMS}
    known_keys(table, known, where)
    words = table.get("words", {})
    known_keys(words, set(WORDS), where)
    if not all(isinstance(word, str) and word.strip() for word in words.values()):
        raise DataError("A word is no text.", where=where, do="Give strings under [words].")
    return Phrasing(
        name,
        str(table.get("description", "")),
        str(table.get("source", "")),
        dict(words),
        {form: _rules(table[form], form, where) for form in FORMS if form in table},
    )


def _rules(given: Any, form: str, where: str) -> tuple[Rule, ...]:
    if not isinstance(given, list):
        raise DataError(f"'{form}' is no list of rules.", where=where, do=f"Write [[{form}]] over each.")
    return tuple(_rule(rule, form, where) for rule in given)


def _rule(table: Mapping[str, Any], form: str, where: str) -> Rule:
    known_keys(table, {f.name for f in fields(Rule)}, where)
    given = dict(table)
    for side in ("query", "candidate"):
        given[side] = choices(table, side, MODALITIES, where)
    if not isinstance(given.get("user"), str):
        raise DataError(f"A rule of '{form}' has no `user`.", where=where, do="Say how it asks.")
    return Rule(**given)


def _places(side: str, item: Item, trim: str) -> dict[str, list[Any]]:
    """What stands for an item: spans and images."""
    text: list[Any] = []
    if item.text is not None:
        words = item.text.strip().strip(trim) if trim else item.text.strip()
        if not words:
            raise ItemError("The text is empty.", where=item.id, do="Give a text, or leave the item out.")
        text = [Span(words, own=True)]
    image: list[Any] = [] if item.image is None else [item.image]
    lead = [Span(item.instruction, own=True), Span(" ")] if side == "query" and item.instruction else []
    return {f"{side}.text": text, f"{side}.image": image, side: [*lead, *image, *text]}


def _pieces(template: str, places: Mapping[str, list[Any]], labels: Mapping[str, str]) -> list[Any]:
    """Spans and images of a template."""
    pieces: list[Any] = []
    for number, piece in enumerate(_PLACE.split(template)):
        if number % 2 == 0:
            pieces += [Span(piece)] if piece else []
        elif piece in places:
            pieces += places[piece]
        elif piece in labels:
            pieces.append(Span(labels[piece]))
        else:
            raise UsageError(f"Nothing stands for {{{piece}}} here.", where=template, do="Leave it out.")
    return pieces


def _worded(rule: Rule, places: Mapping[str, list[Any]], labels: Mapping[str, str]) -> Worded:
    parts: list[Part] = []
    images: list[ImageSource] = []
    spans: list[Span] = []
    for piece in _pieces(rule.user, places, labels):
        if isinstance(piece, Span):
            spans.append(piece)
            continue
        parts += [Part("text", tuple(spans))] if spans else []
        spans = []
        parts.append(Part("image"))
        images.append(piece)
    parts += [Part("text", tuple(spans))] if spans else []
    user = Turn("user", tuple(parts))
    system = (Turn("system", (Part("text", (Span(rule.system),)),)),) if rule.system else ()
    return Worded((*system, user), tuple(images))
