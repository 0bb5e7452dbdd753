"""One call of a judge: its questions keyed, recalled, prepared, asked, kept and given back.

Legend of shapes: N questions, U distinct ones, B questions of a batch, K numbers of an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clearsight.data.images import open_image
from clearsight.errors import ItemError
from clearsight.models.batching import ahead
from clearsight.models.judge_pose import Picture, Posed
from clearsight.models.judge_questions import Question, question_key, reading_order, refused
from clearsight.progress import Progress
from clearsight.store import VectorTable
from clearsight.types import ImageSource

if TYPE_CHECKING:
    from clearsight.models.judge import Judge

Row: TypeAlias = "NDArray[np.float32]"
Refuse: TypeAlias = "Callable[[int, ItemError], None]"

WINDOW_QUESTIONS = 2048
WINDOW_BYTES = 256 << 20
"""Questions prepared at a time, and the pixels of their images: within so many, batches and shared prefixes
are looked for."""
IMAGES_AHEAD = 32


class Round:
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
