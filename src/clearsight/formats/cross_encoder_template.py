"""How a scorer words a pair, as a chat template: the rules of one form of a `Phrasing`, in Jinja.

sentence-transformers gives a chat template a pair as two turns, of the roles "query" and "document" (their
parts typed), and a prompt as a system turn: the query's instruction. The rules rewrite them as one user turn,
and the model's own chat template, kept as it is, words that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clearsight.formats.sentence_transformers_template import literal
from clearsight.types import MODALITIES, Modality

if TYPE_CHECKING:
    from clearsight.rerank import Phrasing
    from clearsight.rerank.prompts import Rule

_READ = """\
{%- set pair = namespace(instruction='', query_image=false, query_text=none, candidate_image=false, \
candidate_text=none, parts=[], words='') -%}
{%- for message in messages -%}
{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string \
else message['content'] -%}
{%- for part in parts -%}
{%- if message['role'] == 'system' -%}{%- set pair.instruction = pair.instruction + part['text'] -%}
{%- elif message['role'] == 'query' and part['type'] == 'text' -%}\
{%- set pair.query_text = (pair.query_text or '') + part['text'] -%}
{%- elif message['role'] == 'query' -%}{%- set pair.query_image = true -%}
{%- elif part['type'] == 'text' -%}\
{%- set pair.candidate_text = (pair.candidate_text or '') + part['text'] -%}
{%- else -%}{%- set pair.candidate_image = true -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- set query = 'text' if not pair.query_image else ('image' if pair.query_text is none else 'image+text') -%}
{%- set candidate = 'text' if not pair.candidate_image else \
('image' if pair.candidate_text is none else 'image+text') -%}
{%- set item = namespace(image=pair.query_image|int + pair.candidate_image|int) -%}
"""

_FLUSH = """\
{%- if pair.words -%}{%- set pair.parts = pair.parts + [{'type': 'text', 'text': pair.words}] -%}\
{%- set pair.words = '' -%}{%- endif -%}
"""
_TURNS = "{%- set messages = TURNS + [{'role': 'user', 'content': pair.parts}] -%}\n"
_PLACE = re.compile(r"\{([a-z]+(?:\.(?:text|image))?)\}")


def pair_template(phrasing: Phrasing, form: str, own: str, *, several_images: bool) -> str:
    """The Jinja chat template that words a pair as the form's rules do, followed by the model's `own`.

    Args:
        several_images: whether the model reads more than one image a prompt; a pair of two is refused if not.
    """
    lines = [_READ]
    if not several_images:
        refusal = literal("This model reads one image a prompt, not two.")
        lines.append(
            "{%- if pair.query_image and pair.candidate_image -%}"
            f"{{{{- raise_exception({refusal}) -}}}}{{%- endif -%}}\n"
        )
    for place, rule in enumerate(phrasing.forms[form]):
        lines.append(f"{{%- {'elif' if place else 'if'} {_condition(rule)} -%}}\n")
        lines += _worded(rule)
    refusal = literal(f"The wording '{phrasing.name}' has no rule for this pair.")
    lines.append(f"{{%- else -%}}{{{{- raise_exception({refusal}) -}}}}{{%- endif -%}}\n")
    return "".join((*lines, "{%- set add_generation_prompt = true -%}\n", own))


def images_out_of_order(phrasing: Phrasing, form: str) -> list[tuple[Modality, Modality]]:
    """Query and candidate modalities of which a rule shows the candidate's image before the query's: a
    processor takes images in the order of the turns, the query's first."""
    found: list[tuple[Modality, Modality]] = []
    for query in MODALITIES:
        for candidate in MODALITIES:
            rule = next((one for one in phrasing.forms[form] if one.fits(query, candidate)), None)
            if rule is not None and "image" in query and "image" in candidate:
                shown = [name.partition(".")[0] for name in _PLACE.findall(rule.user) if "text" not in name]
                if shown != sorted(shown, key=("query", "candidate").index):
                    found.append((query, candidate))
    return found


def _condition(rule: Rule) -> str:
    sides: Sequence[tuple[str, tuple[str, ...]]] = (("query", rule.query), ("candidate", rule.candidate))
    tests = [f"{side} in [{', '.join(map(literal, kinds))}]" for side, kinds in sides if kinds]
    return " and ".join(tests) or "true"


def _worded(rule: Rule) -> list[str]:
    lines = []
    for number, piece in enumerate(_PLACE.split(rule.user)):
        if number % 2 == 0:
            lines += [f"{{%- set pair.words = pair.words + {literal(piece)} -%}}\n"] if piece else []
            continue
        side, _, kind = piece.partition(".")
        if side == "query" and not kind:
            lines.append(
                "{%- if pair.instruction -%}{%- set pair.words = pair.words + pair.instruction + ' ' -%}"
                "{%- endif -%}\n"
            )
        lines += [] if kind == "text" else _image(side)
        lines += [] if kind == "image" else _text(side, rule.trim)
    system = f"[{{'role': 'system', 'content': [{{'type': 'text', 'text': {literal(rule.system)}}}]}}]"
    return [*lines, _FLUSH, _TURNS.replace("TURNS", system if rule.system else "[]")]


def _image(side: str) -> list[str]:
    return [
        f"{{%- if pair.{side}_image -%}}\n",
        _FLUSH,
        "{%- set pair.parts = pair.parts + [{'type': 'image'}] -%}{%- endif -%}\n",
    ]


def _text(side: str, trim: str) -> list[str]:
    trimmed = f"|trim|trim({literal(trim)})" if trim else "|trim"
    return [f"{{%- set pair.words = pair.words + (pair.{side}_text or ''){trimmed} -%}}\n"]
