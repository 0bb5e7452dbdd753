"""An encoder without a model: vectors that numpy makes of an item's content, for tests of all around it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.content import content_key
from clearsight.data.images import open_image
from clearsight.errors import ItemError
from clearsight.types import MODALITIES, Embeddings, Item

WIDTH = 8


@dataclass(eq=False)
class ToyEncoder:
    """Looks like an `Encoder` to an index; a contrastive one, so that nothing is captioned.

    Attributes:
        calls: ids of every call, in order.
    """

    reads: frozenset[str] = frozenset(MODALITIES)
    revision: str = "1"
    on_error: str = "raise"
    image_size: int | None = None
    prompt: str = "toy"
    pooling: str = "mean"
    layer: int = -1
    source: str = "item"
    max_tokens: int | None = None
    calls: list[list[str]] = field(default_factory=list)
    template: Any = field(default_factory=lambda: SimpleNamespace(name="toy", looks_across=False))

    @property
    def loaded(self) -> Any:
        stock = SimpleNamespace(accepts=self.reads)
        return SimpleNamespace(name="toy", revision=self.revision, kind="contrastive", stock=stock)

    def origin(self) -> dict[str, Any]:
        return {"revision": self.revision, "pooling": self.pooling}

    def embed(self, items: Sequence[Item], role: str = "candidate", **_: Any) -> Embeddings:
        self.calls.append([item.id for item in items])
        ids, rows, skipped = [], [], {}
        for item in items:
            try:
                if item.image is not None:
                    open_image(item.image, item_id=item.id)
                rows.append(vector_of(item))
                ids.append(item.id)
            except ItemError as fault:
                if self.on_error == "raise":
                    raise
                skipped[item.id] = fault.what
        rows_ND = np.stack(rows) if rows else np.empty((0, WIDTH), np.float32)
        modalities = [item.modality for item in items if item.id in set(ids)]
        found = Embeddings.of(ids, rows_ND, modality=modalities)
        return Embeddings(found.ids, found.rows_ND, found.side_N, found.modality_N, {}, skipped)

    @property
    def embedded(self) -> list[str]:
        """Ids of everything that was embedded, without the probe of the width."""
        return [name for call in self.calls for name in call if name != "width" and "query" not in name]


def vector_of(item: Item) -> NDArray[np.float32]:
    """A direction of the content alone."""
    seed = int.from_bytes(hashlib.sha256(content_key(item).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32) + 0.5
