"""Clearsight turns any generative multimodal model into a retriever without training.

The public names below are loaded on first use, so that `import clearsight` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Item": "clearsight.types",
    "Task": "clearsight.types",
    "Embeddings": "clearsight.types",
    "Ranking": "clearsight.types",
    "Score": "clearsight.types",
    "ClearsightError": "clearsight.errors",
    "Encoder": "clearsight.models.encoder",
    "Captioner": "clearsight.models.captioner",
    "Affine": "clearsight.repair",
    "Centre": "clearsight.repair",
    "Chain": "clearsight.repair",
    "PerGroup": "clearsight.repair",
    "fit_repair": "clearsight.repair",
    "RemoveSubspace": "clearsight.repair",
    "RemoveTopComponents": "clearsight.repair",
    "SelfAlign": "clearsight.repair",
    "ShrinkageZCA": "clearsight.repair",
    "load_repair": "clearsight.repair",
    "save_repair": "clearsight.repair",
    "rank": "clearsight.ranking",
    "score": "clearsight.metrics",
    "paired_test": "clearsight.metrics",
    "load_task": "clearsight.data",
    "load_items": "clearsight.data",
    "load_vectors": "clearsight.data",
    "SparseAutoencoder": "clearsight.sae",
    "train_sae": "clearsight.sae",
    "load_sae": "clearsight.formats",
    "save_sae": "clearsight.formats",
    "profile": "clearsight.concepts",
    "Index": "clearsight.index",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clearsight' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
