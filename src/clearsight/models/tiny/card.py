"""Model cards from what was measured: ``python -m clearsight.models.tiny.card [--models DIR]``.

Reads ``run.json`` (of training) and ``scores.json`` (of scoring), fills the texts under ``cards`` and writes
both ``README.md``: no number of a score is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

Facts = Mapping[str, Any]

PHASES = {
    "warmup": "{warmup_images} images; throw-away heads label every image token",
    "joint": "2 x {joint_rows} rows of {row_tokens} tokens; next-token prediction",
    "focus": "the same; more of what must find one object among several",
    "control": "2 x {control_images} images with a caption each; InfoNCE within each half",
}
"""What one step of a phase sees."""


def _text(name: str) -> str:
    return (Path(__file__).with_name("cards") / f"{name}.md").read_text(encoding="utf-8")


def _rates(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _table(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of a Markdown table; floats with one decimal."""
    cells = ([f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _recipe(run: Facts, phases: Iterable[str]) -> str:
    plan = run["recipe"]
    rows = [
        (name, plan[f"{name}_steps"], PHASES[name].format(**plan), round(run["seconds"][name]))
        for name in phases
    ]
    return (
        "| phase | steps | a step sees | seconds |\n|---|---|---|---|\n"
        f"{_table(rows)}\n\n"
        f"AdamW, rate {plan['rate']} with cosine decay, weight decay {plan['weight_decay']}, bfloat16 with\n"
        f"float32 master weights; seed {plan['seed']}. Two {run['device']} cores shared with other work;\n"
        f"torch {run['torch']}, transformers {run['transformers']}, Python {run['python']}."
    )


def _made(scores: Facts) -> str:
    return (
        f"On {scores['scenes']} held-out scenes, seed {scores['seed']}, in percent: `{scores['command']}`\n"
        f"({scores['seconds']} s, torch {scores['torch']}, transformers {scores['transformers']})."
    )


def generator_card(run: Facts, scores: Facts) -> str:
    """README of the generative model."""
    likely, again, composed = scores["likelihood"], scores["rerank"], scores["composed"]
    retrieval = [
        (name.removeprefix("retrieval, "), repair, _rates(one["i2t"]), _rates(one["t2i"]))
        for name, table in scores.items()
        if name.startswith("retrieval, ")
        for repair, one in table.items()
    ]
    control = scores["control"]
    retrieval.append(("contrastive control", "none", _rates(control["i2t"]), _rates(control["t2i"])))
    captions = {"short": scores["captions"], "detailed": scores["captions, detailed"]}
    ways = {"i2t": "image to text", "t2i": "text to image"}
    values = {
        "data": _text("data").strip(),
        "recipe": _recipe(run, ("warmup", "joint", "focus")),
        "made": _made(scores),
        "captions": _table((name, one["consistent"], one["complete"]) for name, one in captions.items()),
        "questions": _table(scores["questions"].items()),
        "matching": _table(
            (n, one["hard"], one["easy"], one["area"]) for n, one in scores["matching"].items()
        ),
        "gallery": likely["gallery"],
        "likelihood": _table((n, likely[n]["i2t"], likely[n]["t2i"]) for n in ("likelihood", "minus prior")),
        "scenes": scores["scenes"],
        "chance": " / ".join(f"{100 * k / scores['scenes']:.2f}" for k in (1, 5, 10)),
        "identifiable": f"{scores['identifiable']:.1f}",
        "retrieval": _table(retrieval),
        "top": again["top"],
        "queries": again["queries"],
        "rerank": _table(
            (ways[way], *(again[way][key] for key in ("before", "likelihood", "minus prior", "bound")))
            for way in ways
        ),
        "composed_queries": composed["queries"],
        "composed_candidates": composed["candidates"],
        "composed": _table((n, _rates(rates)) for n, rates in composed.items() if isinstance(rates, list)),
    }
    return Template(_text("generator")).substitute(values)


def control_card(run: Facts, scores: Facts) -> str:
    """README of the contrastive control."""
    return Template(_text("contrastive")).substitute(
        data=_text("data").strip(),
        recipe=_recipe(run, ("control",)),
        made=_made(scores),
        scenes=scores["scenes"],
        i2t=_rates(scores["control"]["i2t"]),
        t2i=_rates(scores["control"]["t2i"]),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m clearsight.models.tiny.card", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(__file__).parent, help="folder of both models")
    folder = parser.parse_args(arguments).models
    run, scores = (json.loads((folder / name).read_text("utf-8")) for name in ("run.json", "scores.json"))
    (folder / "generator" / "README.md").write_text(generator_card(run, scores), "utf-8")
    (folder / "contrastive" / "README.md").write_text(control_card(run, scores), "utf-8")


if __name__ == "__main__":
    main()
