"""What mteb gives, as items; and what it keeps with results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clearsight.errors import ModelError, UsageError
from clearsight.types import Item

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

    from clearsight.models.load import LoadedModel

EXTRA = "pip install 'clearsight[mteb]'"
BLOCK = 1024
"""Items embedded at a time: a corpus may be millions of decoded images."""


def items_of(inputs: Iterable[Mapping[str, Sequence[Any]]], instruction: str | None) -> Iterator[Item]:
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


def blocks_of(items: Iterable[Item]) -> Iterator[list[Item]]:
    block: list[Item] = []
    for item in items:
        block.append(item)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def instruction_of(task_metadata: Any, side: str) -> str | None:
    """The instruction of the task, in mteb a text or one for each side."""
    prompt = task_metadata.prompt
    return prompt.get(side) if isinstance(prompt, Mapping) else prompt


def meta_of(name: str, facts: Mapping[str, Any], loaded: LoadedModel, **more: Any) -> ModelMeta:
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


def owned(name: str) -> str:
    """A name in mteb's form, owner/name: a hub id as it is, a folder by its last part."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
        return name
    return f"clearsight/{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(name).name) or 'model'}"
