"""Prompts: named templates by role and modality, as data (`prompts.toml`); one's own from a TOML file.

A template words an item as chat turns. The turns keep the item's own words apart from the template's, so that
neither a chat template nor a tokenizer can take a user's text for a control token.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clearsight.errors import DataError, UsageError
from clearsight.models.hierarchy import expand
from clearsight.models.toml_values import choices, known_keys, read_toml, string
from clearsight.registry import Registry
from clearsight.types import MODALITIES, ROLES, Item, Modality, Role

if TYPE_CHECKING:
    from clearsight.models.load import LoadedModel

Content: TypeAlias = Literal["image", "text"]
GenerationPrompt: TypeAlias = "bool | Literal['auto']"
Form: TypeAlias = Literal["chat", "vlm2vec"]

FORMS: tuple[Form, ...] = ("chat", "vlm2vec")
"""How turns become text. chat: the model's own chat template. vlm2vec: as the releases that grew out of
VLM2Vec write it: no default system turn, and a bare image token without its start and end marks, where
Qwen's M-RoPE falls back to one-dimensional positions."""
CONTENT: tuple[Content, ...] = ("image", "text")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text; `own`: the item's own words (text, instruction), not the template's."""

    text: str
    own: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a chat turn: an image (no spans), or a text made of spans."""

    kind: Content
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One chat turn."""

    role: Literal["system", "user"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the items that fit its filters are worded; an empty filter fits everything.

    Attributes:
        role, modality, counterpart: the filters; `counterpart` is the modality of the other side.
        system: the system turn; none where empty.
        before, after: the template's text on both sides of the content, in the same user turn.
        instruction: wording of the item's instruction (the words themselves where `{instruction}` stands),
            put before the content of items that have one; empty leaves instructions out.
    """

    role: tuple[Role, ...] = ()
    modality: tuple[Modality, ...] = ()
    counterpart: tuple[Modality, ...] = ()
    system: str = ""
    before: str = ""
    after: str = ""
    instruction: str = ""

    def fits(self, role: Role, modality: Modality, counterpart: Modality | None) -> bool:
        return (
            (not self.role or role in self.role)
            and (not self.modality or modality in self.modality)
            and (not self.counterpart or counterpart in self.counterpart)
        )


@dataclass(frozen=True, slots=True)
class Template:
    """A named way of wording items.

    Attributes:
        name: a built-in's name, or the stem of the file it came from.
        description: one sentence.
        rule: tried in order; the first that fits an item words it.
        generation_prompt: whether the assistant's header ends the prompt; "auto" for last-token poolings
            only. It means nothing to a model without a chat template.
        order: order of image and text in the user turn. It changes the vector, hence is explicit.
        source: where the wording comes from.
        form: a member of `FORMS`.
    """

    name: str
    description: str
    rule: tuple[Rule, ...]
    generation_prompt: GenerationPrompt = "auto"
    order: tuple[Content, ...] = CONTENT
    source: str = ""
    form: Form = "chat"

    @property
    def looks_across(self) -> bool:
        """Whether an item's wording depends on the modality of the other side."""
        return any(rule.counterpart for rule in self.rule)


def get_template(name_or_path: str | Path) -> Template:
    """A built-in template by name, or one's own by the path of a TOML file (keys: `Template` without its
    name). `NAME@vlm2vec` is the template in that form (see `FORMS`).

    ```toml
    description = "Colours only."
    generation_prompt = "auto"        # true, false, or "auto": for last-token poolings only
    order = ["image", "text"]
    [[rule]]                          # the first rule that fits an item words it
    modality = ["image", "image+text"]
    role = "query"
    system = "You see colours."
    instruction = "{instruction}\\n"
    after = "\\nName the colour in one word: "
    [[rule]]
    after = "\\nWhich colour? "
    ```

    Raises:
        UsageError: no such built-in, or no such file.
        DataError: the file is not TOML, or holds an unknown key or value (the message names the nearest).
    """
    text = str(name_or_path)
    name, at, form = text.rpartition("@")
    if isinstance(name_or_path, str) and at and form in FORMS:
        template = get_template(name)
        return replace(template, name=f"{template.name}@{form}", form=form)
    if isinstance(name_or_path, str) and not text.endswith(".toml"):
        return _prompts().get(text)
    path = Path(name_or_path)
    if not path.is_file():
        raise UsageError(
            f"There is no prompt file '{text}'.", do="Give a built-in name or an existing TOML file."
        )
    table = read_toml(path, "prompt file")
    return _template(path.stem, table, where=text)


def prompt_names() -> list[str]:
    """Names of the templates that come with the package and with plug-ins (`clearsight.prompt`)."""
    return _prompts().names()


def render(template: Template, item: Item, role: Role, *, counterpart: Modality | None = None) -> list[Turn]:
    """The item as chat turns, before the model's chat template.

    Args:
        counterpart: modality of the other side, where the wording depends on it (`one_word`).

    Raises:
        UsageError: no rule of the template fits.
    """
    rule = next((r for r in template.rule if r.fits(role, item.modality, counterpart)), None)
    if rule is None:
        raise UsageError(
            f"The prompt '{template.name}' has no rule for this item ({role}, {item.modality}).",
            where=item.id,
            do="Add a last [[rule]] without filters.",
        )
    words = () if item.text is None else (Span(item.text, own=True),)
    lead, tail = (*_instruction(rule, item), Span(rule.before), *words), (Span(rule.after),)
    image = () if item.image is None else (Part("image"),)
    if template.order[0] == "image" or not image:
        parts = (*image, *_text_part(*lead, *tail))
    else:
        parts = (*_text_part(*lead), *image, *_text_part(*tail))
    user = Turn("user", parts)
    return [Turn("system", _text_part(Span(rule.system))), user] if rule.system else [user]


def explain(template: Template, loaded: LoadedModel | None = None) -> str:
    """The rendered text of a template for each role and modality, for people to read.

    Args:
        loaded: shows what its chat template makes of the turns; None shows the turns themselves.
    """
    order = " then ".join(template.order)
    lines = [f"{template.name}: {template.description}"]
    if template.source:
        lines.append(f"source: {template.source}")
    lines.append(f"content order: {order}; generation prompt: {str(template.generation_prompt).lower()}")
    if template.form != "chat":
        lines.append(f"form: {template.form}")
    for role in ROLES:
        for modality in MODALITIES:
            shown: dict[str, list[str]] = {}
            for counterpart in MODALITIES:
                shown.setdefault(_shown(template, role, modality, counterpart, loaded), []).append(
                    counterpart
                )
            for text, counterparts in shown.items():
                about = "" if len(shown) == 1 else f", other side {' or '.join(counterparts)}"
                lines += ["", f"[{role}, {modality}{about}]", text]
    return "\n".join(lines)


def _shown(
    template: Template, role: Role, modality: Modality, counterpart: Modality, loaded: LoadedModel | None
) -> str:
    item = Item(
        "example",
        text="{text}" if "text" in modality else None,
        image=b"" if "image" in modality else None,
        instruction="{instruction}",
    )
    turns = render(template, item, role, counterpart=counterpart)
    if loaded is not None:
        from clearsight.models.wording import Wording

        spans, _ = Wording(loaded, generation_prompt=template.generation_prompt is True, form=template.form)(
            turns
        )
        return "".join(span.text for span in spans)
    return "\n".join(
        f"{turn.role}: "
        + "".join(
            "{image}" if part.kind == "image" else "".join(s.text for s in part.spans) for part in turn.parts
        )
        for turn in turns
    )


def _text_part(*spans: Span) -> tuple[Part, ...]:
    """One text part of the spans that hold text; no part where none does."""
    filled = tuple(span for span in spans if span.text)
    return (Part("text", filled),) if filled else ()


def _instruction(rule: Rule, item: Item) -> tuple[Span, ...]:
    if not rule.instruction or not item.instruction:
        return ()
    before, _, after = rule.instruction.partition("{instruction}")
    return Span(before), Span(item.instruction, own=True), Span(after)


_PROMPTS: Registry[Template] = Registry("prompt")


def _prompts() -> Registry[Template]:
    if not _PROMPTS.names():
        table = tomllib.loads(files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8"))
        table |= expand(table.pop("hierarchy"))
        for name, keys in table.items():
            _PROMPTS.add(name, _template(name, keys, where="prompts.toml"))
    return _PROMPTS


def _template(name: str, table: Mapping[str, Any], *, where: str) -> Template:
    """A checked template.

    Raises:
        DataError: an unknown key, or a value of the wrong kind.
    """
    known = {f.name for f in fields(Template)} - {"name"}
    known_keys(table, known, where)
    rules = table.get("rule")
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, dict) for rule in rules):
        raise DataError("A prompt needs at least one rule.", where=where, do="Add a [[rule]] table.")
    generation = table.get("generation_prompt", "auto")
    if generation not in (True, False, "auto"):
        raise DataError(
            f"generation_prompt is {generation!r}.", where=where, do='Give true, false or "auto".'
        )
    form = table.get("form", "chat")
    if form not in FORMS:
        raise DataError(f"form is {form!r}.", where=where, do=f"There are: {', '.join(FORMS)}.")
    order = tuple(table.get("order", CONTENT))
    if sorted(order) != sorted(CONTENT):
        raise DataError(
            f"order is {list(order)}.", where=where, do='Give ["image", "text"] or ["text", "image"].'
        )
    return Template(
        name=name,
        description=string(table, "description", where),
        rule=tuple(_rule(rule, where) for rule in rules),
        generation_prompt=generation,
        order=order,
        source=string(table, "source", where),
        form=form,
    )


def _rule(table: Mapping[str, Any], where: str) -> Rule:
    known_keys(table, {f.name for f in fields(Rule)}, where)
    instruction = string(table, "instruction", where)
    if instruction and instruction.count("{instruction}") != 1:
        raise DataError(
            f"instruction is {instruction!r}.",
            where=where,
            do="Write {instruction} once, where its words go.",
        )
    return Rule(
        role=choices(table, "role", ROLES, where),
        modality=choices(table, "modality", MODALITIES, where),
        counterpart=choices(table, "counterpart", MODALITIES, where),
        system=string(table, "system", where),
        before=string(table, "before", where),
        after=string(table, "after", where),
        instruction=instruction,
    )
