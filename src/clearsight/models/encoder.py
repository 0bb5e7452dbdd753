"""The encoder: items become vectors, each distinct one once, and what was done is never done again.

Legend of shapes: N items, U distinct items of one call, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import transformers

import clearsight
from clearsight.errors import UsageError
from clearsight.models.batching import threads_ahead
from clearsight.models.call import Call
from clearsight.models.captioner import Captioner
from clearsight.models.feed import Prepares
from clearsight.models.ledger import COMMIT_SECONDS
from clearsight.models.load import LoadedModel, load_model
from clearsight.models.prepare import Preparer
from clearsight.models.prompts import Template, get_template
from clearsight.models.readout import Readout, readout_of
from clearsight.models.stock import OWN_PROMPT, StockPreparer, StockReadout, need_modalities
from clearsight.pooling import Pooling, poolings
from clearsight.progress import Progress, Silent
from clearsight.types import Embeddings, Item, Modality, Role, unique_ids

if TYPE_CHECKING:
    import torch

Source = Literal["item", "describe"]
OnError = Literal["raise", "skip"]

CPU_TOKENS = 2048
GPU_TOKENS = 32768
"""Padded tokens of one forward pass; on a CPU more would leave its caches (measured)."""


@dataclass(eq=False)
class Encoder:
    """Embeds items with one model under one prompt.

    Identical items are embedded once; batches hold a fixed number of tokens, of items of like length; the
    prefix that items share passes the model once; images are opened and prepared by threads ahead of it; no
    logits and no hidden states but the wanted ones are kept. One call at a time for each loaded model.

    Attributes:
        loaded: the model (`Encoder.load` takes a name instead).
        prompt: a template's name, the path of one's own (TOML), or the template. A sentence-transformers
            model keeps its own prompts (`template` is "own" then); an item's instruction takes their place
            where the model has one.
        pooling: a name of `clearsight.pooling.poolings`. A contrastive model has its own `features` only,
            which "mean" (the default) then stands for.
        layer: as transformers counts `hidden_states`; -1 is the last, after the final norm.
        token_budget: padded tokens of one forward pass; None chooses by device.
        workers: threads that open and prepare; 0 does it between the forward passes. None: one for each core
            up to 8, none on a CPU with few cores.
        cache: a folder; vectors found there are not computed again, new ones are kept there.
        max_tokens: an item's own text is cut to fit this many tokens (reported in `Embeddings.cut`).
        image_size: images are brought to this size (pixels of a side), None leaves it to the model's
            processor.
        on_error: "raise" stops at the first item that cannot be embedded, after keeping what was done;
            "skip" leaves such items out and says why in `Embeddings.skipped`.
        source: "item", or "describe": an image is captioned by the same model and the caption embedded as
            text.
        share_prefix: False computes every sequence whole; the vectors are the same.

    Raises:
        UsageError: unknown prompt or pooling, a layer the model lacks, a pooling that does not fit the model.
    """

    loaded: LoadedModel
    prompt: str | Path | Template = "plain"
    pooling: str = "mean"
    layer: int = -1
    token_budget: int | None = None
    workers: int | None = None
    cache: str | os.PathLike[str] | None = None
    max_tokens: int | None = None
    image_size: int | None = None
    on_error: OnError = "raise"
    source: Source = "item"
    share_prefix: bool = True
    commit_seconds: float = COMMIT_SECONDS
    template: Template = field(init=False)

    def __post_init__(self) -> None:
        prompt = self.prompt
        self.template = prompt if isinstance(prompt, Template) else get_template(prompt)
        if self.loaded.stock is not None:
            self.template = OWN_PROMPT
            if self.layer != -1:
                what = "A sentence-transformers model has no layers to choose from."
                raise UsageError(what, where="layer", do="Leave it at -1.")
        if self.source == "describe" and self.loaded.kind == "contrastive":
            raise UsageError(
                "A contrastive model cannot describe images.", where="source", do="Use source='item'."
            )
        self.pooling = self._pooling(self.pooling).name
        self.readout((poolings.get(self.pooling),))

    @classmethod
    def load(
        cls,
        model: str | Path = "tiny",
        *,
        adapter: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Encoder:
        """An encoder for a model folder, a hub id, "tiny" or "tiny-contrastive" (the shipped models).

        Args:
            model: which model; a folder that holds a peft adapter alone is its base model with the adapter.
            adapter: a folder or hub id of a LoRA adapter, merged into the weights. One that Clearsight
                trained brings the prompt, pooling and layer it was trained for, where `options` has none.
            device: None takes a GPU where there is one.
            dtype: None takes the checkpoint's on a GPU, float32 on a CPU.
            trust_remote_code: run code that the model's repository brings; never without being asked.
            options: the attributes of `Encoder`.

        Raises:
            ModelError: no such model, of the wrong kind, or it needs remote code.
        """
        head = options.get("source") == "describe"
        loaded = load_model(
            model,
            adapter=adapter,
            device=device,
            dtype=dtype,
            head=head,
            trust_remote_code=trust_remote_code,
        )
        trained_for = {} if loaded.adapter is None else loaded.adapter.options
        return cls(loaded, **{**trained_for, **options})

    def embed(
        self,
        items: Sequence[Item],
        role: Role = "candidate",
        *,
        counterpart: Modality | None = None,
        progress: Progress | None = None,
    ) -> Embeddings:
        """One unnormalised float32 vector for each item, in the order of `items`.

        Args:
            items: with unique ids; none gives no rows.
            role: which side of a retrieval they are; templates may word the two differently.
            counterpart: the modality of the other side, for templates whose wording depends on it.
            progress: told of items whose vectors are done (with a cache: are in it).

        Raises:
            ItemError: an item cannot be embedded (`on_error="raise"`); the message names it.
            DataError: two items have one id, or the cache cannot be read or written.
        """
        return self.embed_many(items, role, counterpart=counterpart, progress=progress)[self.pooling]

    def embed_many(
        self,
        items: Sequence[Item],
        role: Role = "candidate",
        poolings: Sequence[str] | None = None,
        *,
        counterpart: Modality | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Embeddings]:
        """As `embed`, for several poolings from one forward pass.

        Poolings that the template words differently (a generation prompt for last-token poolings only)
        cannot share a pass; there is one for each wording.

        Returns:
            Embeddings by pooling, all over the same items.
        """
        chosen = [self._pooling(name) for name in poolings or (self.pooling,)]
        unique_ids((item.id for item in items), what="item")
        self.check(items)
        return Call(self, list(items), role, counterpart, progress or Silent()).run(chosen)

    def check(self, *sides: Sequence[Item]) -> None:
        """Refuse, before anything is embedded, items that the model cannot read.

        Args:
            sides: each is judged alone. Under `on_error="skip"` some of its items may be left out, not all.

        Raises:
            UsageError: the model does not read the modality of some items.
        """
        if self.loaded.stock is not None:
            for items in sides:
                need_modalities(items, self.loaded.stock, name=self.loaded.name, some=self.on_error == "skip")

    def origin(self, pooling: str | None = None, *, counterpart: Modality | None = None) -> dict[str, Any]:
        """Everything that changes a vector, the item and its role apart; JSON values."""
        chosen = self._pooling(pooling or self.pooling)
        form = [] if self.template.form == "chat" else [self.template.form]
        words = json.dumps([asdict(rule) for rule in self.template.rule] + [self.template.order, *form])
        stock = self.loaded.stock
        return {
            "model": self.loaded.name,
            "revision": self.loaded.revision,
            "family": self.loaded.family.name,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "prompt": self.template.name,
            "prompt_digest": sha256(words.encode()).hexdigest()[:16],
            "generation_prompt": self.generation_prompt(chosen),
            "counterpart": counterpart if stock is None and self.template.looks_across else None,
            "pooling": chosen.name,
            "layer": self.layer,
            "source": self.source,
            "max_tokens": self.max_tokens,
            "image_size": self.image_size,
            "image_backend": "pil",
            "clearsight": clearsight.__version__,
            "transformers": transformers.__version__,
            **({} if stock is None else stock.facts),
        }

    @property
    def threads(self) -> int:
        """Threads that prepare."""
        return threads_ahead(self.workers, self.loaded.device)

    @cached_property
    def captioner(self) -> Captioner:
        """What describes images for this encoder (`source="describe"`)."""
        return Captioner(self.loaded, workers=self.threads)

    def preparer(self, pooling: Pooling) -> Prepares:
        """What words items for a pooling."""
        stock = self.loaded.stock
        if stock is not None:
            return StockPreparer(stock, max_tokens=self.max_tokens, image_size=self.image_size)
        return Preparer(
            self.loaded,
            self.template,
            generation_prompt=self.generation_prompt(pooling),
            max_tokens=self.max_tokens,
            image_size=self.image_size,
        )

    def readout(self, poolings: Sequence[Pooling]) -> Readout:
        """What runs the model for poolings that share a wording."""
        default = CPU_TOKENS if self.loaded.device.type == "cpu" else GPU_TOKENS
        budget = default if self.token_budget is None else self.token_budget
        stock = self.loaded.stock
        if stock is not None:
            return StockReadout(
                stock,
                token_budget=budget,
                max_tokens=self.max_tokens,
                workers=self.threads,
                device=self.loaded.device,
            )
        return readout_of(
            self.loaded,
            poolings,
            layer=self.layer,
            token_budget=budget,
            share_prefix=self.share_prefix,
        )

    def generation_prompt(self, pooling: Pooling) -> bool:
        """Whether the assistant's header ends the prompt; "auto" adds it for last-token poolings."""
        asked = self.template.generation_prompt
        return pooling.positions == "last" if asked == "auto" else asked

    def _pooling(self, name: str) -> Pooling:
        pooling = poolings.get(name)
        contrastive = self.loaded.kind == "contrastive"
        if contrastive and name == "mean":
            return poolings.get("features")
        if contrastive != (pooling.stream == "features"):
            kind = "contrastive" if contrastive else "generative"
            do = "Use 'features'." if contrastive else "Use 'mean' or 'last'."
            raise UsageError(f"Pooling '{name}' does not fit a {kind} model.", where="pooling", do=do)
        return pooling
