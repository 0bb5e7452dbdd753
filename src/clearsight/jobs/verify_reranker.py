"""The checks of a CrossEncoder folder: it is opened by processes that do not load Clearsight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clearsight.errors import DataError, UsageError
from clearsight.types import Item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clearsight.jobs.ui import Ui
    from clearsight.jobs.verify import Check, VerifyConfig

METHOD = "predict"
EACH = 4
"""Documents of a query."""
SAME_SCORE = 1e-4
MOST_DRIFT = 0.05


def reranker_checks(config: VerifyConfig, items: Sequence[Item], ui: Ui) -> list[Check]:
    """Every check of a reranker, in the order of the table."""
    import numpy as np

    from clearsight.formats.sentence_transformers_folder import read_facts
    from clearsight.jobs.verify import MOST_TIES, Check, at_most, largest
    from clearsight.jobs.verify_folder import Session

    facts = read_facts(config.folder)
    if config.against is not None and not facts:
        raise UsageError("Clearsight did not export this folder.", where="--against", do="Leave it out.")
    items = [replace(item, instruction=None) for item in items]
    pairs = _pairs(items, facts, sure=config.items is not None)
    with TemporaryDirectory() as place:
        groups = _groups(items, pairs)
        session = Session(config, items, groups, Path(place), pairs)
        mixed = facts.get("mixed_batches", False) and len(groups) > 1
        session.ask("plain", METHOD)
        session.ask("alone", METHOD, [[n] for n in range(len(pairs))])
        if mixed:
            session.ask("mixed", METHOD, [range(len(pairs))])
        session.ask("half", METHOD, dtype="bfloat16")
        ui.say(f"Scoring {len(pairs)} pairs with {config.folder} ...")
        found = session.run()
        session.ask("again", METHOD)
        ui.say("... and in a second process")
        again = session.run()["again"]
    scores = found["plain"]
    checks = [
        at_most("fresh process", largest(scores, again), SAME_SCORE, "largest difference of a score"),
        at_most("alone or in a batch", largest(scores, found["alone"]), SAME_SCORE),
        *([at_most("mixed batch", largest(scores, found["mixed"]), SAME_SCORE)] if mixed else []),
        at_most(
            "ties", _tied(scores, pairs), MOST_TIES, "share of pairs with the score of another of the query"
        ),
    ]
    if config.against is not None:
        own = _own(config, items, pairs, facts)
        note = "largest difference to Clearsight's own"
        checks.append(at_most("against, predict", largest(scores, own), SAME_SCORE, note))
    span = float(np.ptp(scores)) or 1.0
    drift = abs(scores - found["half"])
    return [
        *checks,
        at_most("bfloat16 drift", float(drift.mean()) / span, MOST_DRIFT, "mean, of the range of scores"),
        Check("bfloat16 drift, worst", float(drift.max()) / span),
        Check("lowest score", float(scores.min())),
        Check("highest score", float(scores.max())),
    ]


def _pairs(items: Sequence[Item], facts: Mapping[str, Any], *, sure: bool) -> list[tuple[int, int]]:
    """Every item as a query, with a few others as documents; of a stranger's folder only texts are sure."""
    kept = [n for n, item in enumerate(items) if facts or sure or item.modality == "text"]
    one_image = facts.get("several_images") is False
    pairs = []
    for at, query in enumerate(kept):
        others = [kept[(at + step) % len(kept)] for step in _steps(len(kept))]
        for document in others:
            images = sum(items[n].image is not None for n in (query, document))
            if document != query and not (one_image and images > 1):
                pairs.append((query, document))
    if len(pairs) < 2:
        raise DataError("Too few pairs can be made of the items.", do="Give others: --items.")
    return pairs


def _steps(count: int) -> Sequence[int]:
    """Distances that reach every modality, whatever the order of the items."""
    return sorted({max(1, round(count * part / EACH)) for part in range(EACH)})


def _groups(items: Sequence[Item], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    kinds: dict[tuple[str, str], list[int]] = {}
    for place, (query, document) in enumerate(pairs):
        kinds.setdefault((items[query].modality, items[document].modality), []).append(place)
    return list(kinds.values())


def _tied(scores: NDArray[np.float32], pairs: Sequence[tuple[int, int]]) -> float:
    """The share of pairs that another of the same query equals."""
    import numpy as np

    query_P = np.array([query for query, _ in pairs])
    same_PP = (query_P[:, None] == query_P) & (scores[:, None] == scores)
    np.fill_diagonal(same_PP, False)
    return float(same_PP.any(axis=1).mean())


def _own(
    config: VerifyConfig, items: Sequence[Item], pairs: Sequence[tuple[int, int]], facts: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Scores of Clearsight's own reranker."""
    import numpy as np

    from clearsight.rerank import Reranker

    assert config.against is not None
    reranker = Reranker.load(
        config.against,
        scorer=facts["scorer"],
        prompt=_wording(facts["phrasing"]),
        device="cpu",
        trust_remote_code=config.trust_remote_code,
    )
    scores = np.empty(len(pairs), np.float32)
    for query in sorted({query for query, _ in pairs}):
        mine = [place for place, (one, _) in enumerate(pairs) if one == query]
        scores[mine] = reranker.scorer.score(items[query], [items[pairs[place][1]] for place in mine])
    return scores


def _wording(name: str) -> str:
    from clearsight.rerank import phrasing_names

    if name not in phrasing_names():
        raise UsageError(
            f"The wording '{name}' is a file of your own, which the folder does not name.",
            where="--against",
            do="Leave --against out.",
        )
    return name
