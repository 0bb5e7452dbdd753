"""An encoder as mteb's.

Legend of shapes: N rows, M rows of the other side, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import clearsight
from clearsight.errors import UsageError
from clearsight.models.encoder import Encoder
from clearsight.mteb.given import blocks_of, instruction_of, items_of, meta_of, owned
from clearsight.repair import PerGroup
from clearsight.types import MODALITIES, Item, Modality, Role

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta
    from torch import Tensor

_ROLES: dict[str, Role] = {"query": "query", "document": "candidate"}
_OTHER = {"query": "document", "document": "query"}


class MtebRetriever:
    """An encoder of mteb 2 (its `EncoderProtocol`).

    `encode` reads the columns `text` and `image`, alone or together, of the batches that mteb gives. The
    instruction of a query, or else that of the task's metadata, becomes `Item.instruction`: it is used by
    prompts with a place for it. Both sides are repaired with the statistics that `repair` was fitted with;
    nothing is fitted here, and no label is seen.

    An item that cannot be embedded stops the run, or, under the encoder's `on_error="skip"`, gets a row of
    zeros, which `similarity` places last; `skipped` tells which and why.

    Args:
        encoder: model, prompt, pooling and cache.
        repair: a fitted repair, as `load_repair` gives it; None leaves the vectors as they are.
        name: the model's name in mteb's results, "owner/name"; None makes one of the encoder's model.

    Raises:
        UsageError: the repair is not fitted, or is one of single rows without sides or modalities.
    """

    def __init__(self, encoder: Encoder, repair: PerGroup | None = None, *, name: str | None = None) -> None:
        if repair is not None and not isinstance(repair, PerGroup):
            raise UsageError(
                f"{type(repair).__name__} is not fitted on embeddings.",
                where="repair",
                do="Give what `fit_repair` or `load_repair` returns: a PerGroup.",
            )
        if repair is not None and not repair.repairs_:
            raise UsageError("The repair is not fitted.", where="repair", do="Fit it first.")
        self.encoder, self.repair = encoder, repair
        self.name = name or owned(encoder.loaded.name)
        self.skipped: dict[str, str] = {}

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[Any]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        precision: str | None = None,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Vectors (N, D) of all items of the batches, unnormalised, float32, in their order.

        Args:
            inputs: mteb's data loader; each batch maps columns to lists.
            task_metadata: the task's; its instruction and the other side's modality are read.
            hf_split, hf_subset: part of the protocol; nothing here depends on them.
            prompt_type: query or document; None (tasks without sides) takes the query's wording.
            precision: float32 is the only one.
            kwargs: batch size and progress bar, which the encoder settles itself.

        Raises:
            UsageError: another precision, a batch with neither column, a modality the model does not read.
            ItemError: an item that cannot be embedded, unless the encoder skips those.
        """
        if precision not in (None, "float32"):
            raise UsageError(f"Vectors are float32, not {precision}.", where="precision", do="Leave it out.")
        side = "query" if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        counterpart = _counterpart(task_metadata, prompt_type, side)
        instruction = instruction_of(task_metadata, side)
        blocks = blocks_of(items_of(inputs, instruction if side == "query" else None))
        rows = [self._rows(block, _ROLES[side], counterpart) for block in blocks]
        width = next((one.shape[1] for one in rows if one.shape[1]), 0)
        return np.concatenate([_wide(one, width) for one in rows] or [np.zeros((0, 0), np.float32)])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of every row of one with every row of the other, (N, M) float32; -1 for a row of zeros."""
        rows_ND, rows_MD = _unit(embeddings1), _unit(embeddings2)
        scores_NM = rows_ND @ rows_MD.T
        lost_NM = ~rows_ND.any(dim=1)[:, None] | ~rows_MD.any(dim=1)[None, :]
        return scores_NM.masked_fill(lost_NM, -1.0)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of row n of one with row n of the other, (N,) float32; -1 for a row of zeros."""
        one_ND, other_ND = _unit(embeddings1), _unit(embeddings2)
        lost_N = ~one_ND.any(dim=1) | ~other_ND.any(dim=1)
        return (one_ND * other_ND).sum(dim=1).masked_fill(lost_N, -1.0)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb keeps with the results. The revision changes with everything that changes a vector, so
        that results of another prompt, pooling or repair are never taken for these.

        Raises:
            ModelError: mteb is not installed.
        """
        repair, loaded = self.repair, self.encoder.loaded
        facts = {"origin": self.encoder.origin(), "repair": None if repair is None else repair.digest()}
        accepts = MODALITIES if loaded.stock is None else loaded.stock.accepts
        return meta_of(
            self.name,
            facts,
            loaded,
            max_tokens=self.encoder.max_tokens or loaded.context,
            similarity_fn_name=cast(Any, "cosine"),
            modalities=[kind for kind in ("text", "image") if kind in accepts],
            experiment_kwargs={
                "clearsight": clearsight.__version__,
                "prompt": self.encoder.template.name,
                "pooling": self.encoder.pooling,
                "layer": self.encoder.layer,
                "source": self.encoder.source,
                "repair": "none" if repair is None else type(repair.estimator).__name__,
            },
        )

    def _rows(self, items: Sequence[Item], role: Role, counterpart: Modality | None) -> NDArray[np.float32]:
        """A row each; zeros for items that were skipped (of width 0 where all of them were)."""
        found = self.encoder.embed(items, role, counterpart=counterpart)
        self.skipped.update(found.skipped)
        if self.repair is not None and len(found):
            found = self.repair.transform(found)
        place = {item.id: row for row, item in enumerate(items)}
        rows_ND = np.zeros((len(items), found.width if len(found) else 0), np.float32)
        rows_ND[[place[item_id] for item_id in found.ids]] = found.rows_ND
        return rows_ND


def _counterpart(task_metadata: Any, prompt_type: Any, side: str) -> Modality | None:
    """The modality of the other side, by the task's category."""
    if prompt_type is None:
        return None
    kinds = set(task_metadata.get_modalities(type(prompt_type)(_OTHER[side])))
    if kinds == {"text", "image"}:
        return "image+text"
    return cast(Modality, next(iter(kinds))) if kinds in ({"text"}, {"image"}) else None


def _unit(rows_ND: Any) -> Tensor:
    rows = torch.as_tensor(rows_ND, dtype=torch.float32)
    return torch.nn.functional.normalize(rows if rows.ndim == 2 else rows[None], dim=1)


def _wide(rows_ND: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """A block in which all items were skipped, at the others' width."""
    return rows_ND if rows_ND.shape[1] else np.zeros((len(rows_ND), width), np.float32)
