"""Embed items with a sentence-transformers folder, in a process that knows nothing of Clearsight.

    python encode_folder.py REQUEST.json

The request: {"folder", "items": [{"text", "image"}], "jobs": [{"out", "method", "batches", "dtype"}],
"trust_remote_code"}; `image` is a path, `method` one of encode, encode_query, encode_document, `batches`
lists of positions that go together, `dtype` the dtype to load in (null: the folder's own). `out` gets the
vectors, float32, one row for each item, as .npy.

A reranker has the request "pairs": [[query, document]], positions of items; `method` is predict, `batches`
lists of positions of pairs, and `out` gets one score for each pair.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def open_items(rows: list[dict[str, Any]]) -> list[Any]:
    """What sentence-transformers takes: a string, an image, or both, the image first."""
    from PIL import Image

    items: list[Any] = []
    for row in rows:
        image = None if row["image"] is None else Image.open(row["image"]).convert("RGB")
        if image is None:
            items.append({"text": row["text"]})
        elif row["text"] is None:
            items.append(image)
        else:
            items.append({"image": image, "text": row["text"]})
    return items


def encode(model: Any, items: list[Any], method: str, batches: list[list[int]]) -> Any:
    """float32 vectors (N, D), batch by batch."""
    import numpy as np

    rows: dict[int, Any] = {}
    for batch in batches:
        vectors = getattr(model, method)(
            [items[place] for place in batch],
            batch_size=len(batch),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        rows.update(zip(batch, vectors.float().cpu().numpy(), strict=True))
    return np.stack([rows[place] for place in range(len(items))])


def predict(model: Any, pairs: list[Any], batches: list[list[int]]) -> Any:
    """float32 scores (P,), batch by batch."""
    import numpy as np

    scores: dict[int, float] = {}
    for batch in batches:
        found = model.predict(
            [pairs[place] for place in batch], batch_size=len(batch), show_progress_bar=False
        )
        scores.update(zip(batch, found.tolist(), strict=True))
    return np.array([scores[place] for place in range(len(pairs))], np.float32)


def answer(request: dict[str, Any]) -> tuple[dict[Any, Any], list[Any]]:
    """Do the jobs of a request; returns the models by dtype, and the items."""
    import numpy as np

    items = open_items(request["items"])
    pairs = [(items[query], items[document]) for query, document in request.get("pairs", [])]
    models: dict[Any, Any] = {}
    for job in request["jobs"]:
        if job["dtype"] not in models:
            models[job["dtype"]] = kind_of(pairs)(
                request["folder"],
                device="cpu",
                local_files_only=True,
                trust_remote_code=request["trust_remote_code"],
                model_kwargs={} if job["dtype"] is None else {"dtype": job["dtype"]},
            )
        model = models[job["dtype"]]
        if pairs:
            np.save(job["out"], predict(model, pairs, job["batches"]))
        else:
            np.save(job["out"], encode(model, items, job["method"], job["batches"]))
    return models, items


def kind_of(pairs: list[Any]) -> Any:
    """The class that opens the folder."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    return CrossEncoder if pairs else SentenceTransformer


if __name__ == "__main__":
    answer(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
