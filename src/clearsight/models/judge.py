"""The judge: many questions to one model, each distinct one answered once, and what is answered is kept.

Legend of shapes: N questions, U distinct ones, B questions of a batch, K numbers of an answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import transformers

import clearsight
from clearsight.errors import ItemError, UsageError
from clearsight.models.batching import threads_ahead
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import CPU_TOKENS, GPU_TOKENS
from clearsight.models.feed import Fed
from clearsight.models.judge_pass import Passes
from clearsight.models.judge_pose import Posed, Poser
from clearsight.models.judge_questions import Digests, Measure, Question, Written
from clearsight.models.judge_round import Refuse, Round, Row
from clearsight.models.ledger import COMMIT_SECONDS
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import Prepared, stack_pixels
from clearsight.models.retrace import Enhancement, Retrace
from clearsight.progress import Progress, Silent
from clearsight.store import VectorTable
from clearsight.types import ImageSource


@dataclass(eq=False)
class Judge:
    """Asks one generative model.

    Identical questions are asked once; a beginning that questions share (an image, a query) passes the model
    once where attention is causal; logits exist for the positions that are read, and no others. In float32 an
    answer does not depend on what else is asked.

    Attributes:
        loaded: a model with its language head (`load_model(..., head=True)`).
        cache: a folder; answers found there are not asked again, new ones are kept there.
        token_budget: padded tokens of one forward pass; None chooses by device.
        image_size: as for the encoder.
        share_prefix: False computes every sequence whole; the answers are the same.
        enhancement: a form of visual enhancement (a name in `ENHANCEMENTS`, or one's own): the model looks
            again at its images where it is unsure. Prefixes are not shared then, and nothing is written.
        workers: threads that open and process images; None chooses.
        commit_seconds: answers that are not yet kept are at most so old.

    Raises:
        UsageError: the model has no language head, an unknown enhancement, or one that its layers do not
            allow.
    """

    loaded: LoadedModel
    cache: str | os.PathLike[str] | None = None
    token_budget: int | None = None
    image_size: int | None = None
    share_prefix: bool = True
    enhancement: str | Enhancement | None = None
    workers: int | None = None
    commit_seconds: float = COMMIT_SECONDS
    asked: int = field(default=0, init=False)
    """Questions that went through the model so far."""

    def __post_init__(self) -> None:
        need_head(self.loaded)
        self._retrace = None if self.enhancement is None else Retrace(self.loaded, self.enhancement)
        self._digests = Digests()
        self._stores: dict[Any, VectorTable] = {}
        self._writers: dict[int, Captioner] = {}

    def answer(
        self,
        questions: Sequence[Question],
        *,
        refuse: Refuse | None = None,
        progress: Progress | None = None,
    ) -> list[Row | None]:
        """A row of numbers for each question (see `Next`, `Said`, `Written`), in their order.

        Args:
            refuse: told of each question that cannot be asked, by its place; its row is None. It may raise,
                and does where it is not given.
            progress: told of questions whose answers are kept.

        Raises:
            ItemError: an item cannot be read, or does not fit into the model's context.
            UsageError, ModelError: several images for a model that reads one.
            DataError: the cache cannot be read or written.
        """
        return Round(self, questions, refuse or _raise, progress or Silent()).run()

    def origin(self, measure: Measure) -> dict[str, Any]:
        """Everything but the question itself that changes an answer; JSON values."""
        return {
            "model": self.loaded.name,
            "revision": self.loaded.revision,
            "family": self.loaded.family.name,
            "dtype": str(self.loaded.dtype).removeprefix("torch."),
            "answers": type(measure).__name__.lower(),
            "width": measure.width,
            "image_size": self.image_size,
            "image_backend": "pil",
            "clearsight": clearsight.__version__,
            "transformers": transformers.__version__,
            **({} if self._retrace is None else {"enhancement": asdict(self._retrace.form)}),
        }

    @cached_property
    def poser(self) -> Poser:
        """What words questions for this model."""
        return Poser(self.loaded, image_size=self.image_size)

    @cached_property
    def passes(self) -> Passes:
        """What runs the model."""
        default = CPU_TOKENS if self.loaded.device.type == "cpu" else GPU_TOKENS
        budget = default if self.token_budget is None else self.token_budget
        return Passes(self.loaded, token_budget=budget, share_prefix=self.share_prefix, retrace=self._retrace)

    @property
    def threads(self) -> int:
        """Threads that open and process images."""
        return threads_ahead(self.workers, self.loaded.device)

    def digest(self, image: ImageSource, where: str) -> str:
        """The key of an image's content, read once."""
        return self._digests(image, where)

    def store(self, measure: Measure) -> VectorTable | None:
        """Where answers of this kind are kept."""
        if self.cache is None:
            return None
        kind = (type(measure), measure.width)
        if kind not in self._stores:
            self._stores[kind] = VectorTable.open(self.cache, self.origin(measure))
        return self._stores[kind]

    def rows(self, posed: Sequence[Posed]) -> Iterator[tuple[list[int], Row]]:
        """Positions of questions and their rows, batch by batch."""
        read = [i for i, one in enumerate(posed) if not isinstance(one.question.measure, Written)]
        if self._retrace is not None and len(read) < len(posed):
            raise UsageError(
                "Answers that the model writes are not enhanced.",
                where="enhancement",
                do="Leave it off, or choose a scorer that reads probabilities (p_true, choice, number).",
            )
        self.asked += len(posed)
        for index, rows_BK in self.passes([posed[i] for i in read]):
            yield [read[i] for i in index], rows_BK
        tasks: dict[int, list[int]] = {}
        for i, one in enumerate(posed):
            if isinstance(one.question.measure, Written):
                tasks.setdefault(one.question.measure.tokens, []).append(i)
        for most, members in tasks.items():
            writer = self._writers.setdefault(most, Captioner(self.loaded, max_new_tokens=most))
            for batch in writer.batches([Fed(i, _prepared(posed[i])) for i in members]):
                tokens = writer.write([fed.prepared for fed in batch])
                rows_BT = np.full((len(batch), most), -1, np.float32)
                for row_T, ids in zip(rows_BT, tokens, strict=True):
                    row_T[: len(ids)] = ids
                yield [fed.index for fed in batch], rows_BT


def need_head(loaded: LoadedModel) -> None:
    """Whether the model can be asked.

    Raises:
        UsageError: it has no language head.
    """
    if loaded.images is not None and loaded.model.get_output_embeddings() is not None:
        return
    if loaded.kind == "contrastive":
        what, do = "is contrastive: it has no language head to judge with", "Give a generative model."
    elif loaded.stock is not None:
        what = "is a sentence-transformers model, which embeds and has no language head"
        do = "Give the generative model that it was made from."
    else:
        what, do = "was loaded without its language head", "Load it with head=True."
    raise UsageError(f"The model '{loaded.name}' {what}.", do=do)


def _prepared(posed: Posed) -> Prepared:
    """As the captioner takes it."""
    return Prepared(posed.ids_L, posed.kinds_L, stack_pixels([picture.pixels for picture in posed.pictures]))


def _raise(_: int, error: ItemError) -> None:
    raise error


__all__ = ["Judge", "Refuse", "Row", "need_head"]
