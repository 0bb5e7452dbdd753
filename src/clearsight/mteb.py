"""Our retriever as mteb sees one: model, prompt, pooling and fitted repair behind `mteb.evaluate`.

```python
import mteb
from clearsight import Encoder, load_repair
from clearsight.mteb import MtebRetriever

retriever = MtebRetriever(Encoder.load("tiny"), repair=load_repair("runs/repair"))
mteb.evaluate(retriever, mteb.get_tasks(tasks=["CIRRIT2IRetrieval"]))
```

Needs `pip install 'clearsight[mteb]'` for the metadata alone; nothing here is imported by the package itself.

Legend of shapes: N rows, M rows of the other side, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import clearsight
from clearsight.errors import ModelError, UsageError
from clearsight.models.encoder import Encoder
from clearsight.models.judge_questions import Written
from clearsight.repair import PerGroup
from clearsight.rerank import Reranker
from clearsight.rerank.listwise import Listwise
from clearsight.rerank.scorers import Asking
from clearsight.types import MODALITIES, Item, Modality, Role

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta
    from torch import Tensor

    from clearsight.models.load import LoadedModel

EXTRA = "pip install 'clearsight[mteb]'"
LAST = -1e9
"""The score of a pair that has none."""
BLOCK = 1024
"""Items embedded at a time: a corpus may be millions of decoded images."""

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
        self.name = name or _owned(encoder.loaded.name)
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
        instruction = _instruction(task_metadata, side)
        blocks = _blocks(_items(inputs, instruction if side == "query" else None))
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
        return _meta(
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


class MtebReranker:
    """A cross-encoder of mteb 2 (its `CrossEncoderProtocol`): a scorer judges pairs, without training.

    A pair that has no score (an answer that could not be parsed) stands last.

    Args:
        reranker: with a built-in scorer that judges pairs.
        name: as for `MtebRetriever`.

    Raises:
        UsageError: a listwise scorer (it sees all candidates at once, mteb gives pairs), or one of one's own.
    """

    def __init__(self, reranker: Reranker, *, name: str | None = None) -> None:
        scorer = reranker.scorer
        if not isinstance(scorer, Asking) or isinstance(scorer.form, Listwise):
            raise UsageError(
                "mteb gives pairs, and this scorer is none that judges pairs.",
                where="scorer",
                do="Choose p_true, choice, number or likelihood.",
            )
        self._scorer = scorer
        self.name = name or _owned(scorer.judge.loaded.name)

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Sequence[Any]]],
        inputs2: Iterable[Mapping[str, Sequence[Any]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Scores (N,) of the pairs of query n and document n, higher is better.

        Args:
            inputs1, inputs2: queries and documents, pair by pair, as for `MtebRetriever.encode`.
            task_metadata: the task's; the query's instruction is read.
            hf_split, hf_subset, prompt_type, kwargs: part of the protocol; nothing here depends on them.

        Raises:
            ItemError: a pair that cannot be judged.
            UsageError: a pair about which the scorer says nothing, or several images for a model of one.
        """
        queries = _blocks(_items(inputs1, _instruction(task_metadata, "query")))
        documents = _blocks(_items(inputs2, None))
        scores = [self._scores(*both) for both in zip(queries, documents, strict=True)]
        return np.concatenate([*scores, np.empty(0)]).astype(np.float32)

    def _scores(self, queries: Sequence[Item], documents: Sequence[Item]) -> NDArray[np.float64]:
        form, asked = self._scorer.form, []
        for query, document in zip(queries, documents, strict=True):
            asked.append(form.ask(query, [document]))
        rows = self._scorer.judge.answer([question for some in asked for question in some])
        scores_N = np.empty(len(asked))
        for n, some in enumerate(asked):
            mine, rows = rows[: len(some)], rows[len(some) :]
            scores_N[n] = form.read(mine, 1, queries[n].id).scores_C[0]
        return np.nan_to_num(scores_N, nan=LAST)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb keeps with the results; the revision changes with everything that changes a score.

        Raises:
            ModelError: mteb is not installed.
        """
        phrasing, judge = self._scorer.phrasing, self._scorer.judge
        origin = {**judge.origin(Written(1)), "scorer": self._scorer.name, "wording": asdict(phrasing)}
        return _meta(
            self.name,
            origin,
            judge.loaded,
            max_tokens=judge.loaded.context,
            similarity_fn_name=None,
            modalities=["text", "image"],
            model_type=["cross-encoder"],
            experiment_kwargs={
                "clearsight": clearsight.__version__,
                "scorer": self._scorer.name,
                "wording": phrasing.name,
            },
        )


def _meta(name: str, facts: Mapping[str, Any], loaded: LoadedModel, **more: Any) -> ModelMeta:
    try:
        from mteb.models.model_meta import ModelMeta
    except ImportError as error:
        raise ModelError("mteb is not installed.", do=f"Install it: {EXTRA}.") from error
    return ModelMeta(
        loader=None,
        name=name,
        revision=sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20],
        release_date=None,
        languages=None,
        n_parameters=sum(one.numel() for one in loaded.model.parameters()),
        memory_usage_mb=None,
        embed_dim=None,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "Transformers"],
        use_instructions=True,
        training_datasets=None,
        **more,
    )


def _items(inputs: Iterable[Mapping[str, Sequence[Any]]], instruction: str | None) -> Iterator[Item]:
    """Items of batches of columns. Ids are mteb's, with the place where they stand: those need not differ.

    mteb joins a query and its instruction to `text` and keeps the query alone under `query`: the prompt says
    where an instruction goes, so the two are taken apart again.
    """
    count = 0
    for batch in inputs:
        texts, images, own = batch.get("text"), batch.get("image"), batch.get("instruction")
        if own is not None and batch.get("query") is not None:
            texts = batch["query"]
        if texts is None and images is None:
            raise UsageError(
                f"mteb gives the columns {', '.join(batch)}; items are made of text and image.",
                do="Choose tasks of texts and images.",
            )
        ids = batch.get("id")
        for row in range(len(texts if texts is not None else cast(Sequence[Any], images))):
            image = None if images is None else images[row]
            text = None if texts is None else texts[row]
            # mteb has no null text: an image alone, among texts, comes with an empty one.
            text = None if image is not None and text is not None and not text.strip() else text
            yield Item(
                f"{count}" if ids is None else f"{ids[row]} ({count})",
                text=text,
                image=image,
                instruction=(own[row] if own is not None else None) or instruction,
            )
            count += 1


def _blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    block: list[Item] = []
    for item in items:
        block.append(item)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _counterpart(task_metadata: Any, prompt_type: Any, side: str) -> Modality | None:
    """The modality of the other side, by the task's category."""
    if prompt_type is None:
        return None
    kinds = set(task_metadata.get_modalities(type(prompt_type)(_OTHER[side])))
    if kinds == {"text", "image"}:
        return "image+text"
    return cast(Modality, next(iter(kinds))) if kinds in ({"text"}, {"image"}) else None


def _instruction(task_metadata: Any, side: str) -> str | None:
    """The instruction of the task, in mteb a text or one for each side."""
    prompt = task_metadata.prompt
    return prompt.get(side) if isinstance(prompt, Mapping) else prompt


def _unit(rows_ND: Any) -> Tensor:
    rows = torch.as_tensor(rows_ND, dtype=torch.float32)
    return torch.nn.functional.normalize(rows if rows.ndim == 2 else rows[None], dim=1)


def _wide(rows_ND: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """A block in which all items were skipped, at the others' width."""
    return rows_ND if rows_ND.shape[1] else np.zeros((len(rows_ND), width), np.float32)


def _owned(name: str) -> str:
    """A name in mteb's form, owner/name: a hub id as it is, a folder by its last part."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        return name
    return f"clearsight/{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(name).name) or 'model'}"
