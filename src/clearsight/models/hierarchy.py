"""The hierarchical prompt and its ablations: from one line each in `prompts.toml` to a template's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIDES = {"Q": "query", "D": "candidate"}
_KEYS = {"system", "represent", "wordy", "detach", "captions"}


def expand(hierarchy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> what a `[name]` table of `prompts.toml` would hold, for every line of `hierarchy.prompts`."""
    return {name: _table(hierarchy, line) for name, line in hierarchy["prompts"].items()}


def _table(words: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    assert set(line) <= _KEYS, f"unknown keys: {set(line) - _KEYS}"
    rules = [rule for side in SIDES for rule in _rules(words, line, side)]
    return {
        "description": _description(line),
        "source": words["source"],
        "generation_prompt": True,
        "rule": _by_modality(rules, line["captions"]) if "captions" in line else rules,
    }


def _rules(words: Mapping[str, Any], line: Mapping[str, Any], side: str) -> list[dict[str, Any]]:
    """One side's rules: two where the representation prompt names the modality, else one."""
    rule: dict[str, Any] = {"role": SIDES[side]}
    if side in line.get("system", ""):
        rule["system"] = words["system"]
    if side == "Q" or not line.get("detach", False):
        rule["instruction"] = "{instruction}\n"
    if side not in line.get("represent", ""):
        return [rule]
    keyword = "" if side in line.get("wordy", "") else words["keyword"]
    return [
        {**rule, "modality": ["image", "image+text"], "after": words["image"].format(keyword=keyword)},
        {**rule, "after": words["text"].format(keyword=keyword)},
    ]


def _by_modality(rules: list[dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """Texts by the query's last rule, all else by the candidate's, with no task instruction on either."""
    keys = ("system", "after")
    text, other = ({key: rule[key] for key in keys if key in rule} for rule in (rules[-2], rules[-1]))
    return [{**text, "modality": "text", "before": prefix}, other]


def _description(line: Mapping[str, Any]) -> str:
    names = {"Q": "queries", "D": "candidates", "QD": "both sides"}
    parts = [
        f"{what} on {names[line[key]]}"
        for key, what in (("system", "system prompt"), ("represent", "representation prompt"))
        if line.get(key)
    ]
    said = ", ".join(parts) or "task instructions alone"
    if line.get("captions"):
        said += "; captions are worded as queries, images as candidates"
    if line.get("wordy"):
        said += f' (without "in one word" on {names[line["wordy"]]})'
    if line.get("detach"):
        said += "; the prompts that candidates bring along are left out"
    return f"{said[0].upper()}{said[1:]}."
