"""An exported folder opened again as any other house's model gives its own vectors, and ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from clearsight.data import open_image
from clearsight.models.encoder import Encoder
from clearsight.types import Item
from export_forms import Form, by_side, jointly, make, make_items, unit

FORMS = {
    "llava, apart": Form("llava", "hierarchical", "last", by_side),
    "gemma3": Form("gemma3", "one_word", "mean", jointly),
    "contrastive, apart": Form("tiny-contrastive", "plain", "mean", by_side),
}


def opened(item: Item) -> object:
    image = None if item.image is None else open_image(item.image)
    return item.text if image is None else image if item.text is None else {"image": image, "text": item.text}


@pytest.mark.parametrize("name", FORMS)
def test_three_ways_to_one_vector(tmp_path: Path, name: str) -> None:
    items, _ = make_items(tmp_path)
    made = make(FORMS[name], tmp_path / "folder", items, tmp_path / "models")
    kept = [items[n] for n in made.items]
    encoder = Encoder.load(made.folder)
    library = SentenceTransformer(str(made.folder), device="cpu")
    for role, method in (("query", library.encode_query), ("candidate", library.encode_document)):
        rows_ND = unit(encoder.embed(kept, role))
        theirs_ND = np.stack([method([opened(item)])[0] for item in kept])
        np.testing.assert_allclose(rows_ND, theirs_ND, atol=1e-5)
        np.testing.assert_allclose(rows_ND, made.rows[role], atol=1e-5)
    assert encoder.loaded.stock is not None
