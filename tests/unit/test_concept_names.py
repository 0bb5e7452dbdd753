"""Concepts are named by the words that their strongest items share, or not at all."""

from __future__ import annotations

from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array

from clearsight.concepts.names import ALPHA, STRONGEST, concept_names
from clearsight.errors import UsageError
from clearsight.jobs.naming import names_of
from clearsight.jobs.search import concept_names as names_in
from clearsight.types import Item, Task

COLOURS = ("red", "green", "blue", "violet")
FORMS = ("star", "ring", "cross", "square", "moon")
N = 200


def planted() -> tuple[Any, list[str]]:
    """Concept 0 answers to red, 1 to rings that are blue, 2 to nothing, 3 never; 4 to four items."""
    rng = np.random.default_rng(0)
    said = [
        (COLOURS[c], FORMS[f]) for c, f in zip(rng.integers(4, size=N), rng.integers(5, size=N), strict=True)
    ]
    texts = [f"A {colour} {form}, photo {n}." for n, (colour, form) in enumerate(said)]
    codes_NC = np.zeros((N, 5))
    codes_NC[:, 0] = [colour == "red" for colour, _ in said]
    codes_NC[:, 1] = [(colour == "blue") + (form == "ring") == 2 for colour, form in said]
    codes_NC[:, 2] = rng.random(N) < 0.3
    codes_NC[:4, 4] = 1
    return csr_array(codes_NC * rng.uniform(0.5, 2, codes_NC.shape)), texts


def naive(codes_N: Any, texts: list[str]) -> dict[str, float]:
    """Word -> hypergeometric tail, by counting."""
    words = [
        {word.strip(".,").lower() for word in text.split() if not word.strip(".,").isdigit()}
        for text in texts
    ]
    chosen = [n for n in np.argsort(-codes_N, kind="stable")[:STRONGEST] if codes_N[n] > 0]
    tails = {}
    for word in set.union(*words):
        whole, among = sum(word in one for one in words), sum(word in words[n] for n in chosen)
        ways = sum(
            comb(whole, k) * comb(len(texts) - whole, len(chosen) - k) for k in range(among, len(chosen) + 1)
        )
        tails[word] = ways / comb(len(texts), len(chosen))
    return tails


def test_planted_concepts_get_their_words() -> None:
    codes, texts = planted()
    assert concept_names(codes, texts) == ["red", "ring, blue", "", "", ""]
    for concept, name in enumerate(concept_names(codes, texts)[:3]):
        tails = naive(codes.toarray()[:, concept], texts)
        telling = sorted(word for word, tail in tails.items() if tail * len(tails) < ALPHA)
        assert telling == sorted(name.split(", ") if name else [])


def test_the_strongest_items_count_and_weak_ones_do_not() -> None:
    texts = ["a star"] * 40 + ["a ring"] * 400
    codes_N1 = np.concatenate([np.full(40, 2.0), np.full(400, 0.1)])[:, None]
    assert concept_names(csr_array(codes_N1), texts) == ["star"]


def test_texts_without_words_and_other_scripts() -> None:
    codes, texts = planted()
    assert concept_names(codes, [""] * N) == [""] * 5
    assert concept_names(codes, [text.replace("red", "Größe").replace("blue", "красный") for text in texts])[
        :2
    ] == ["größe", "ring, красный"]
    with pytest.raises(UsageError, match="texts"):
        concept_names(codes, texts[:-1])


def test_pictures_are_named_by_the_captions_of_their_pairs(tmp_path: Path) -> None:
    codes, texts = planted()
    pictures = tuple(Item(f"i{n}", image=b"") for n in range(N))
    captions = tuple(Item(f"t{n}", text=text) for n, text in enumerate(texts))
    subject: Any = SimpleNamespace(
        case=SimpleNamespace(task=Task("t", pictures, captions, {})),
        images=SimpleNamespace(ids=[item.id for item in pictures]),
        texts=SimpleNamespace(ids=[item.id for item in captions]),
        pairs_P2=np.stack([np.arange(N)] * 2, axis=1),
    )
    silent = codes.copy()
    silent.data = silent.data * (silent.indices != 0)  # concept 0 is active on pictures alone
    assert names_of(subject, codes, silent) == ("red", "ring, blue", "", "", "")
    subject.pairs_P2 = np.zeros((0, 2), np.int64)
    assert names_of(subject, codes, silent)[:2] == ("", "ring, blue")

    (tmp_path / "tables").mkdir()
    table = pa.table({"concept": [0, 1, 2], "name": ["red", None, None], "modality_score": [0.5, 0.1, None]})
    pq.write_table(table, tmp_path / "tables" / "tiny-concepts.parquet")
    assert names_in(tmp_path / "autoencoders" / "tiny") == {0: "0 (red)", 1: "1 (pictures)"}
    pq.write_table(table.drop_columns(["name"]), tmp_path / "tables" / "tiny-concepts.parquet")
    assert names_in(tmp_path / "autoencoders" / "tiny") == {0: "0 (both)", 1: "1 (pictures)"}
