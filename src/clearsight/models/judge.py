"""The judge: many questions to one model, each distinct one answered once, and what is answered is kept.

Legend of shapes: N questions, U distinct ones, B questions of a batch, K numbers of an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import transformers
from numpy.typing import NDArray

import clearsight
from clearsight.data.images import open_image
from clearsight.errors import ItemError, UsageError
from clearsight.models.batching import ahead
from clearsight.models.captioner import Captioner
from clearsight.models.encoder import CPU_TOKENS, FEW_CORES, GPU_TOKENS, MOST_WORKERS
from clearsight.models.feed import Fed
from clearsight.models.judge_pass import Passes
from clearsight.models.judge_pose import Picture, Posed, Poser
from clearsight.models.judge_questions import (
    Digests,
    Measure,
    Question,
    Written,
    question_key,
    reading_order,
    refused,
)
from clearsight.models.ledger import COMMIT_SECONDS
from clearsight.models.load import LoadedModel
from clearsight.models.prepare import Prepared, stack_pixels
from clearsight.models.retrace import Enhancement, Retrace
from clearsight.progress import Progress, Silent
from clearsight.store import VectorTable
from clearsight.types import ImageSource

Row: TypeAlias = "NDArray[np.float32]"
Refuse: TypeAlias = "Callable[[int, ItemError], None]"

WINDOW_QUESTIONS = 2048
WINDOW_BYTES = 256 << 20
"""Questions prepared at a time, and the pixels of their images: within so many, batches and shared prefixes
are looked for."""
IMAGES_AHEAD = 32


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
        return _Round(self, questions, refuse or _raise, progress or Silent()).run()

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
        if self.workers is not None:
            return self.workers
        cores = os.cpu_count() or 1
        return 0 if self.loaded.device.type == "cpu" and cores < FEW_CORES else min(MOST_WORKERS, cores)

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


class _Round:
    """One call: key, recall, prepare, pass, keep, give back."""

    def __init__(
        self, judge: Judge, questions: Sequence[Question], refuse: Refuse, progress: Progress
    ) -> None:
        self.judge, self.questions, self.refuse, self.progress = judge, questions, refuse, progress
        self.keys: list[str] = []
        self.places: list[list[int]] = []
        self.images: list[tuple[str, ...]] = []
        self.found: dict[int, Row] = {}
        self.pending: list[tuple[list[int], Row]] = []
        self.committed_at = time.monotonic()

    def run(self) -> list[Row | None]:
        self.progress.start(len(self.questions), "judging")
        try:
            self._key_all()
            self._recall()
            self._ask([u for u in range(len(self.keys)) if u not in self.found])
        finally:
            self.progress.close()
        answers: list[Row | None] = [None] * len(self.questions)
        for u, row_K in self.found.items():
            for place in self.places[u]:
                answers[place] = row_K
        return answers

    def _first(self, u: int) -> Question:
        return self.questions[self.places[u][0]]

    def _key_all(self) -> None:
        known: dict[str, int] = {}
        for place, question in enumerate(self.questions):
            try:
                images = tuple(self.judge.digest(image, question.where) for image in question.images)
                key = question_key(question, images)
            except ItemError as error:
                self.refuse(place, error)
                continue
            u = known.setdefault(key, len(known))
            if u == len(self.places):
                self.keys.append(key)
                self.places.append([])
                self.images.append(images)
            self.places[u].append(place)

    def _recall(self) -> None:
        kinds: dict[VectorTable, list[int]] = {}
        for u in range(len(self.keys)):
            store = self.judge.store(self._first(u).measure)
            if store is not None:
                kinds.setdefault(store, []).append(u)
        for store, members in kinds.items():
            found_N, rows_FK = store.lookup([self.keys[u] for u in members])
            for at, row_K in zip(np.flatnonzero(found_N), rows_FK, strict=True):
                self.found[members[at]] = row_K
        self.progress.advance(sum(len(self.places[u]) for u in self.found))

    def _ask(self, waiting: list[int]) -> None:
        waiting.sort(key=lambda u: reading_order(self._first(u), self.images[u]))
        try:
            for window in self._windows(waiting):
                posed = list(self._posed(window))
                for index, rows_BK in self.judge.rows([one for _, one in posed]):
                    self._keep([posed[i][0] for i in index], rows_BK)
        finally:
            self._commit()

    def _windows(self, waiting: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Picture]]]:
        """Distinct questions with the pictures they show."""
        window: list[int] = []
        shown: dict[str, Picture] = {}
        weight = 0
        picture_of = self._pictures(waiting)
        for u in waiting:
            try:
                fresh = {d: picture_of(d, u) for d in self.images[u] if d not in shown}
            except ItemError as error:
                self._refuse(u, error)
                continue
            shown |= fresh
            weight += sum(one.nbytes for picture in fresh.values() for one in picture.pixels.values())
            window.append(u)
            if len(window) >= WINDOW_QUESTIONS or weight >= WINDOW_BYTES:
                yield window, shown
                window, shown, weight = [], {d: shown[d] for d in self.images[u]}, 0
        if window:
            yield window, shown

    def _pictures(self, waiting: Sequence[int]) -> Callable[[str, int], Picture]:
        """Image and question -> the image processed, by threads that are ahead of its first use."""
        sources: dict[str, tuple[ImageSource, str]] = {}
        for u in waiting:
            question = self._first(u)
            for digest, image in zip(self.images[u], question.images, strict=True):
                sources.setdefault(digest, (image, question.where))
        names = {digest: place for place, digest in enumerate(sources, start=1)}

        def process(digest: str) -> Picture:
            image, where = sources[digest]
            opened = open_image(image, item_id=where)
            return self.judge.poser.picture(opened, names[digest], where)

        due = ahead(process, list(sources), workers=self.judge.threads, depth=IMAGES_AHEAD)
        taken: set[str] = set()

        def picture_of(digest: str, u: int) -> Picture:
            if digest in taken:  # a window has forgotten it
                return process(digest)
            for found, future in due:  # in the order of first use: this one, after some of refused questions
                taken.add(found)
                if found == digest:
                    return future.result()
            raise AssertionError("every image is due")

        return picture_of

    def _posed(self, window: tuple[list[int], dict[str, Picture]]) -> Iterator[tuple[int, Posed]]:
        members, pictures = window
        for u in members:
            try:
                yield u, self.judge.poser(self._first(u), [pictures[d] for d in self.images[u]])
            except ItemError as error:
                self._refuse(u, error)

    def _refuse(self, u: int, error: ItemError) -> None:
        for place in self.places[u]:
            self.refuse(place, refused(error, self.questions[place].where))

    def _keep(self, members: list[int], rows_BK: Row) -> None:
        finite_B = np.isfinite(rows_BK).all(axis=1)
        for u in np.array(members)[~finite_B].tolist():
            what = "The model gave NaN or infinity for this question."
            do = "Judge in float32 (half precision overflows in some models)."
            self._refuse(u, ItemError(what, do=do))
        self.pending.append((np.array(members)[finite_B].tolist(), rows_BK[finite_B]))
        if time.monotonic() - self.committed_at >= self.judge.commit_seconds:
            self._commit()

    def _commit(self) -> None:
        """What is pending reaches the stores; then, and only then, progress is told."""
        pending, self.pending = self.pending, []
        self.committed_at = time.monotonic()
        kinds: dict[tuple[type, int], list[tuple[list[int], Row]]] = {}
        for members, rows_BK in pending:
            if members:
                kind = (type(self._first(members[0]).measure), rows_BK.shape[1])
                kinds.setdefault(kind, []).append((members, rows_BK))
        for parts in kinds.values():
            members = [u for some, _ in parts for u in some]
            store = self.judge.store(self._first(members[0]).measure)
            rows_NK = np.concatenate([rows for _, rows in parts])
            if store is not None:
                store.add([self.keys[u] for u in members], [self._first(u).where for u in members], rows_NK)
            self.found.update(zip(members, rows_NK, strict=True))
            self.progress.advance(sum(len(self.places[u]) for u in members))


def _prepared(posed: Posed) -> Prepared:
    """As the captioner takes it."""
    return Prepared(posed.ids_L, posed.kinds_L, stack_pixels([picture.pixels for picture in posed.pictures]))


def _raise(_: int, error: ItemError) -> None:
    raise error


__all__ = ["Judge", "Refuse", "Row", "need_head"]
