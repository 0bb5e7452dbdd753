"""A prompt as a chat template: the rules of a `Template`, in Jinja, before the model's own chat template.

sentence-transformers gives a chat template the item as one user turn (its parts typed), a prompt as a system
turn, and the role as `task` ("query", "document", or nothing). The rules rewrite those turns as `render`
would word the item, and the model's own chat template, kept as it is, words the turns:

* the role is `task`; without one an item is a candidate;
* the text of a system turn is the item's instruction;
* modality is read off the parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from clearsight.models.load import LoadedModel
from clearsight.models.prompts import Rule, Template
from clearsight.models.wording import paligemma_layout, plain_layout
from clearsight.types import Modality, Role

_READ = """\
{%- set item = namespace(query=false, image=false, text=none, instruction='', turns=[], parts=[]) -%}
{%- if task is defined and task == 'query' -%}{%- set item.query = true -%}{%- endif -%}
{%- for message in messages -%}
{%- set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string \
else message['content'] -%}
{%- for part in parts -%}
{%- if message['role'] == 'system' -%}{%- set item.instruction = item.instruction + part['text'] -%}
{%- elif part['type'] == 'text' -%}{%- set item.text = (item.text or '') + part['text'] -%}
{%- else -%}{%- set item.image = true -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- set modality = 'text' if not item.image else ('image' if item.text is none else 'image+text') -%}
{%- set rule = namespace(system='', lead='', before='', after='', instruction=false, close='') -%}
"""

_WRITE = """\
{%- set lead = (rule.lead + item.instruction + rule.close if rule.instruction and item.instruction else '') \
+ rule.before + (item.text or '') -%}
{%- if rule.system -%}
{%- set item.turns = [{'role': 'system', 'content': [{'type': 'text', 'text': rule.system}]}] -%}
{%- endif -%}
"""

_IMAGE_FIRST = """\
{%- if item.image -%}{%- set item.parts = [{'type': 'image'}] -%}{%- endif -%}
{%- if lead + rule.after -%}\
{%- set item.parts = item.parts + [{'type': 'text', 'text': lead + rule.after}] -%}{%- endif -%}
"""

_TEXT_FIRST = """\
{%- if not item.image -%}\
{%- if lead + rule.after -%}\
{%- set item.parts = [{'type': 'text', 'text': lead + rule.after}] -%}{%- endif -%}
{%- else -%}
{%- if lead -%}{%- set item.parts = [{'type': 'text', 'text': lead}] -%}{%- endif -%}
{%- set item.parts = item.parts + [{'type': 'image'}] -%}
{%- if rule.after -%}{%- set item.parts = item.parts + [{'type': 'text', 'text': rule.after}] -%}{%- endif -%}
{%- endif -%}
"""

_TURNS = "{%- set messages = item.turns + [{'role': 'user', 'content': item.parts}] %}\n"

_PLAIN = """\
{%- for message in messages -%}{%- if not loop.first -%}{{- '\\n' -}}{%- endif -%}
{%- for part in message['content'] -%}
{{- IMAGE if part['type'] == 'image' else part['text'] -}}
{%- endfor -%}{%- endfor -%}"""

# With an image, PaliGemma's processor itself adds bos after it and the newline; it takes no texts alone.
_PALIGEMMA = """\
{%- if item.image -%}{{- IMAGE * item.image -}}{%- else -%}{{- BOS -}}{%- endif -%}
{%- for message in messages -%}{%- if not loop.first -%}{{- '\\n' -}}{%- endif -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endfor -%}
{%- if not item.image -%}{{- '\\n' -}}{%- endif -%}"""

LAYOUTS: Mapping[Callable[..., Any], str] = {plain_layout: _PLAIN, paligemma_layout: _PALIGEMMA}
"""Layouts of models without a chat template, in Jinja."""


def own_chat_template(loaded: LoadedModel) -> str | None:
    """What words the turns of this model: its chat template, or its family's layout; None where there is
    only a layout that has no form in Jinja."""
    layout = loaded.family.layout
    if layout is None and loaded.kind == "generative" and loaded.tokenizer.chat_template:
        template = loaded.tokenizer.chat_template
        return str(template["default"] if isinstance(template, dict) else template)
    text = LAYOUTS.get(layout or plain_layout)
    if text is None:
        return None
    image = "" if loaded.images is None else loaded.images.token
    return text.replace("IMAGE", literal(image)).replace("BOS", literal(loaded.tokenizer.bos_token or ""))


def chat_template(
    template: Template,
    own: str,
    *,
    generation_prompt: bool,
    counterparts: Mapping[Role, Modality | None],
) -> str:
    """The Jinja chat template that words items as `template` does, followed by the model's `own`.

    Args:
        generation_prompt: end with the assistant's header.
        counterparts: role -> modality of the other side, for rules whose wording depends on it. Fixed here.
    """
    order = _IMAGE_FIRST if template.order[0] == "image" else _TEXT_FIRST
    return "".join(
        (
            _READ,
            _rules(template, counterparts),
            _WRITE,
            order,
            f"{{%- set add_generation_prompt = {str(generation_prompt).lower()} -%}}\n",
            _TURNS,
            own,
        )
    )


def _rules(template: Template, counterparts: Mapping[Role, Modality | None]) -> str:
    lines = []
    for place, rule in enumerate(template.rule):
        lines.append(f"{{%- {'elif' if place else 'if'} {_condition(rule, counterparts)} -%}}\n")
        lines += [f"{{%- set rule.{name} = {value} -%}}\n" for name, value in _settings(rule).items()]
    refusal = f"The prompt '{template.name}' has no rule for this item."
    lines.append(f"{{%- else -%}}{{{{- raise_exception({literal(refusal)}) -}}}}{{%- endif -%}}\n")
    return "".join(lines)


def _condition(rule: Rule, counterparts: Mapping[Role, Modality | None]) -> str:
    """The filters of a rule; those on the other side are decided now."""
    roles = [
        role
        for role, other in counterparts.items()
        if (not rule.role or role in rule.role) and (not rule.counterpart or other in rule.counterpart)
    ]
    tests = []
    if len(roles) < len(counterparts):
        tests.append({"query": "item.query", "candidate": "not item.query"}[roles[0]] if roles else "false")
    if rule.modality:
        tests.append(f"modality in [{', '.join(map(literal, rule.modality))}]")
    return " and ".join(tests) or "true"


def _settings(rule: Rule) -> dict[str, str]:
    values = {name: getattr(rule, name) for name in ("system", "before", "after")}
    settings = {name: literal(text) for name, text in values.items() if text}
    if rule.instruction:
        lead, _, close = rule.instruction.partition("{instruction}")
        settings |= {"instruction": "true", "lead": literal(lead), "close": literal(close)}
    return settings


def literal(text: str) -> str:
    """A string as Jinja writes it: JSON's escapes are among those it reads."""
    return json.dumps(text, ensure_ascii=False)
