"""Documents into rows of fixed length, with the positions, branches and targets of every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from clearsight.models.tiny.forms import CONTENT_WEIGHT, END, HEADER, Document, Packed, encode
from clearsight.models.tiny.recipe import IMAGE_TOKENS, SPECIAL, patches

GRID = int(IMAGE_TOKENS**0.5)


@dataclass
class Laid:
    """A document as flat lists. Targets are (position, token, weight); positions count from the document's
    start.
    """

    ids: list[int] = field(default_factory=list)
    place: list[tuple[int, int, int]] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    image_at: list[int] = field(default_factory=list)
    targets: list[tuple[int, int, float]] = field(default_factory=list)
    image: np.ndarray | None = None


def texts_of(document: Document) -> list[str]:
    """The texts of a document in the order :func:`lay` expects their tokens: content, then three for a
    branch.
    """
    texts = [document.prefix, document.content]
    for branch in document.branches:
        texts += [branch.prompt + HEADER, branch.answer + END, " ".join(branch.words)]
    return texts


def lay(
    document: Document, tokens: list[list[int]], first: Callable[[str], int], image_id: int, room: int
) -> Laid | None:
    """Place a document's tokens: M-RoPE positions, branch numbers (0 is the shared prefix) and targets.

    Branches beyond ``room`` tokens are left out; None if not even one fits.
    """
    laid = Laid(image=document.image)
    at = 0
    for token in tokens[0]:
        if token == image_id:
            laid.image_at += range(len(laid.ids), len(laid.ids) + IMAGE_TOKENS)
            laid.place += [(at, at + i // GRID, at + i % GRID) for i in range(IMAGE_TOKENS)]
            laid.ids += [image_id] * IMAGE_TOKENS
            at += GRID
        else:
            laid.ids.append(token)
            laid.place.append((at, at, at))
            at += 1
    for token in tokens[1]:
        if document.learned:
            laid.targets.append((len(laid.ids) - 1, token, CONTENT_WEIGHT))
        laid.ids.append(token)
        laid.place.append((at, at, at))
        at += 1
    laid.branch = [0] * len(laid.ids)
    shared = len(laid.ids)
    for number, branch in enumerate(document.branches):
        prompt, answer = tokens[2 + 3 * number], tokens[3 + 3 * number]
        if len(laid.ids) + len(prompt) + len(answer) - 1 > room:
            continue
        asked = len(laid.ids) + len(prompt) - 1
        share = branch.weight / (1 + len(branch.words))
        laid.targets += [(asked, first(word), share) for word in branch.words]
        for i, token in enumerate(answer):
            laid.targets.append((asked + i, token, share if i == 0 else branch.weight))
        # The end token is predicted, and never read.
        new = prompt + answer[:-1]
        laid.ids += new
        laid.place += [(at + i,) * 3 for i in range(len(new))]
        laid.branch += [number + 1] * len(new)
    return laid if len(laid.ids) > shared else None


class Packer:
    """Fills rows from a stream of documents: what does not fit a row loses branches, or opens the next row.

    Args:
        tokenizer: the generator's tokenizer.
        rows, length: shape of a batch.
        image_multiple, target_multiple: counts of images and targets are padded to these multiples, because a
            CPU
            pays for every new matrix shape.
    """

    def __init__(
        self, tokenizer: object, rows: int, length: int, image_multiple: int = 8, target_multiple: int = 256
    ) -> None:
        self.tokenizer, self.rows, self.length = tokenizer, rows, length
        self.image_multiple, self.target_multiple = image_multiple, target_multiple
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}  # type: ignore[attr-defined]
        self.image_id, self.pad_id = ids["<|image_pad|>"], ids["<|endoftext|>"]
        self._first: dict[str, int] = {}

    def first(self, word: str) -> int:
        """First token of a word at the start of an answer."""
        if word not in self._first:
            self._first[word] = encode(self.tokenizer, [word])[0][0]
        return self._first[word]

    def _laid(self, make: Callable[[], Document]) -> Iterator[Callable[[int], Laid | None]]:
        """Documents for ever; each is a function from the room left to a layout (None: not even one branch
        fits).
        """
        while True:
            made = [make() for _ in range(16)]
            groups = [texts_of(d) for d in made]
            flat = iter(encode(self.tokenizer, [text for group in groups for text in group]))
            for document, group in zip(made, groups, strict=True):
                tokens = [next(flat) for _ in group]
                yield partial(lay, document, tokens, self.first, self.image_id)

    def fill(self, make: Callable[[], Document]) -> Packed:
        """One batch of rows from the documents that ``make`` returns."""
        stream = self._laid(make)
        rows: list[list[Laid]] = []
        waiting = next(stream)
        for _ in range(self.rows):
            row, room = [], self.length
            while (laid := waiting(room)) is not None:
                row.append(laid)
                room -= len(laid.ids)
                waiting = next(stream)
            rows.append(row)
        return self.stack(rows)

    def stack(self, rows: list[list[Laid]]) -> Packed:
        """Rows of laid documents as arrays; images and targets in the order of rows and documents."""
        shape = (self.rows, self.length)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        positions = np.zeros((3, *shape), dtype=np.int64)
        # Padding has document number -1, so nothing sees it.
        document, branch = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        image_at, images, targets = [], [], []
        for r, row in enumerate(rows):
            start = 0
            for number, laid in enumerate(row):
                end = start + len(laid.ids)
                ids[r, start:end] = laid.ids
                positions[:, r, start:end] = np.array(laid.place).T
                document[r, start:end], branch[r, start:end] = number, laid.branch
                offset = r * self.length + start
                image_at += [offset + i for i in laid.image_at]
                targets += [(offset + at, token, weight) for at, token, weight in laid.targets]
                if laid.image is not None:
                    images.append(laid.image)
                start = end
        targets += [(0, self.pad_id, 0.0)] * (-len(targets) % self.target_multiple)
        pixels = np.zeros((len(images) + -len(images) % self.image_multiple, 64, 384), np.float32)
        if images:
            pixels[: len(images)] = patches(np.stack(images))
        at, token, weight = zip(*targets, strict=True)
        return Packed(
            ids,
            positions,
            document,
            branch,
            np.array(image_at, np.int64),
            pixels,
            np.array(at, np.int64),
            np.array(token, np.int64),
            np.array(weight, np.float32),
        )
