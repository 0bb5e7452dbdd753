"""Clearsight turns any generative multimodal model into a retriever without training.

The public names below are loaded on first use, so that `import clearsight` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearsight.lazy import names_from

__version__ = "0.1.0"

_HOMES = {
    "Item": "types",
    "Task": "types",
    "Embeddings": "types",
    "Ranking": "types",
    "Score": "types",
    "ClearsightError": "errors",
    "Encoder": "models.encoder",
    "Captioner": "models.captioner",
    "Affine": "repair",
    "Centre": "repair",
    "Chain": "repair",
    "PerGroup": "repair",
    "fit_repair": "repair",
    "RemoveSubspace": "repair",
    "RemoveTopComponents": "repair",
    "SelfAlign": "repair",
    "ShrinkageZCA": "repair",
    "load_repair": "repair",
    "save_repair": "repair",
    "rank": "ranking",
    "score": "metrics",
    "paired_test": "metrics",
    "load_task": "data",
    "load_items": "data",
    "load_vectors": "data",
    "SparseAutoencoder": "sae",
    "train_sae": "sae",
    "load_sae": "formats",
    "save_sae": "formats",
    "profile": "concepts",
    "Index": "index",
}

__all__ = [
    "Affine",
    "Captioner",
    "Centre",
    "Chain",
    "ClearsightError",
    "Embeddings",
    "Encoder",
    "Index",
    "Item",
    "PerGroup",
    "Ranking",
    "RemoveSubspace",
    "RemoveTopComponents",
    "Score",
    "SelfAlign",
    "ShrinkageZCA",
    "SparseAutoencoder",
    "Task",
    "__version__",
    "fit_repair",
    "load_items",
    "load_repair",
    "load_sae",
    "load_task",
    "load_vectors",
    "paired_test",
    "profile",
    "rank",
    "save_repair",
    "save_sae",
    "score",
    "train_sae",
]

if TYPE_CHECKING:
    from clearsight.concepts import profile
    from clearsight.data import load_items, load_task, load_vectors
    from clearsight.errors import ClearsightError
    from clearsight.formats import load_sae, save_sae
    from clearsight.index import Index
    from clearsight.metrics import paired_test, score
    from clearsight.models.captioner import Captioner
    from clearsight.models.encoder import Encoder
    from clearsight.ranking import rank
    from clearsight.repair import (
        Affine,
        Centre,
        Chain,
        PerGroup,
        RemoveSubspace,
        RemoveTopComponents,
        SelfAlign,
        ShrinkageZCA,
        fit_repair,
        load_repair,
        save_repair,
    )
    from clearsight.sae import SparseAutoencoder, train_sae
    from clearsight.types import Embeddings, Item, Ranking, Score, Task

__getattr__ = names_from(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
