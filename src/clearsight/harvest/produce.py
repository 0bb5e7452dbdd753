"""The harvest itself: items pass the model part by part, their token states go to disk as shards.

Everything that decides a shard's bytes is decided within its part: a part that is computed again, after a
kill or a full disk, gives the same files.

Legend of shapes: N rows (tokens), D width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from clearsight.data.content import content_key
from clearsight.errors import ItemError, UsageError
from clearsight.harvest.config import DTYPES, TOKEN_TYPES, HarvestConfig, claim, write_or_say
from clearsight.harvest.shards import METADATA, Shard, Shards, open_shards, shard_path
from clearsight.harvest.states import Tokens, TokenStates
from clearsight.models.batching import ahead
from clearsight.models.encoder import Encoder
from clearsight.models.feed import Fed, feed
from clearsight.pooling import poolings
from clearsight.progress import Progress, Silent
from clearsight.types import MODALITIES, Item, Modality, Role, unique_ids


def harvest(
    encoder: Encoder,
    items: Sequence[Item],
    folder: str | os.PathLike[str],
    *,
    role: Role = "candidate",
    counterpart: Modality | None = None,
    config: HarvestConfig | None = None,
    progress: Progress | None = None,
) -> Shards:
    """The hidden states of every valid token of the items, at the encoder's layer, kept in a folder.

    No logits, no other layer's states and nothing beyond the chosen layer is computed. Killed at any moment,
    the same call goes on with the part of the items that it was at and ends with the same bytes as if it had
    never stopped (with the same token budget, on the same kind of machine).

    Args:
        encoder: its prompt, layer, token budget, cut and image size count; of its pooling only whether the
            assistant's header ends the prompt. With `on_error="skip"` bad items give no rows and are named in
            `Shards.skipped`.
        items: with unique ids. Equal items are harvested as often as they are given.
        folder: new, or this very harvest's.
        role: which side of a retrieval they are; templates may word the two differently.
        counterpart: the modality of the other side, for templates whose wording depends on it.
        config: None takes the defaults.
        progress: told of items whose part is on disk.

    Raises:
        UsageError: no items; a contrastive model; a folder with another harvest (named: what differs).
        ItemError: an item cannot be read (`on_error="raise"`); parts that were done are kept.
        DataError: the disk refuses; the same call goes on when it no longer does.
    """
    work = Harvest(encoder, items, folder, role=role, counterpart=counterpart, config=config)
    for _ in work.run(progress or Silent()):
        pass
    return Shards.open(folder)


class Harvest:
    """One harvest, checked and claimed; `run` does what is left of it."""

    def __init__(
        self,
        encoder: Encoder,
        items: Sequence[Item],
        folder: str | os.PathLike[str],
        *,
        role: Role,
        counterpart: Modality | None,
        config: HarvestConfig | None,
    ) -> None:
        self.encoder, self.items, self.folder = encoder, list(items), Path(folder)
        self.role, self.counterpart, self.config = role, counterpart, config or HarvestConfig()
        unique_ids((item.id for item in self.items), what="item")
        if not self.items:
            raise UsageError("There are no items to harvest.", where="items", do="Give at least one.")
        self.states = TokenStates(encoder, self.dtype)
        self.modality_of = np.array([MODALITIES.index(item.modality) for item in self.items], np.uint8)
        order = np.random.default_rng(self.config.seed).permutation(len(self.items))
        size = self.config.part_items
        self.parts = [order[start : start + size] for start in range(0, len(order), size)]
        self.manifest = self._manifest()
        claim(self.folder, self.manifest)

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows on disk."""
        return DTYPES[self.config.dtype]

    def run(self, progress: Progress) -> Iterator[list[Shard]]:
        """What is left to do, pass by pass: yields the shards that have come to be (those of finished parts
        first), often none. Left early, it may be called again.

        Raises:
            ItemError, DataError: as `harvest`.
        """
        progress.start(len(self.items), "harvesting")
        try:
            done = self._finished()
            parts_done = done[-1].part + 1 if done else 0
            progress.advance(sum(map(len, self.parts[:parts_done])))
            yield done
            number = len(done)
            for part, blocks in self._passes(parts_done):
                writer = PartWriter(self, part, number)
                for block in blocks:
                    yield writer.add(block)
                yield writer.finish()
                number = writer.number
                progress.advance(len(self.parts[part]))
        finally:
            progress.close()

    def _manifest(self) -> dict[str, Any]:
        origin = self.encoder.origin(counterpart=self.counterpart)
        del origin["pooling"]  # what it changes is the generation prompt, which origin names
        return {
            "origin": origin,
            "role": self.role,
            "items": {"count": len(self.items), "digest": self._digest()},
            "config": asdict(self.config),
            "parts": len(self.parts),
            "width": self.states.width,
            "token_types": dict(TOKEN_TYPES),
            "modalities": list(MODALITIES),
        }

    def _digest(self) -> str:
        """Of the content of all items, in their order."""
        workers = self.encoder.threads if any(item.image is not None for item in self.items) else 0
        digest = hashlib.sha256()
        for item, future in ahead(content_key, self.items, workers=workers, depth=256):
            try:
                key = future.result()
            except ItemError as error:
                self._stop_unless_skipping(error)
                key = f"refused {item.id}"
            digest.update(f"{key}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def _finished(self) -> list[Shard]:
        """The shards of finished parts; what a killed process left beyond them is removed."""
        shards = open_shards(self.folder, self.manifest)
        while shards and not shards[-1].last:
            shards.pop().path.unlink()
        for leftover in self.folder.glob(".shard-*.tmp"):
            leftover.unlink()
        return shards

    def _passes(self, first: int) -> Iterator[tuple[int, Iterator[Tokens | dict[str, str]]]]:
        """For each part from `first` on: the tokens of its passes, and items that were refused -> why.

        Windows are prepared one ahead of the model, across the border between parts too.
        """
        workers = min(1, self.encoder.threads)
        windows = self._windows(first)
        pulled = ahead(lambda _: next(windows, None), repeat(None), workers=workers, depth=2)
        try:
            for part in range(first, len(self.parts)):
                yield part, self._blocks(pulled)
        finally:
            pulled.close()  # type: ignore[attr-defined]
            windows.close()  # type: ignore[attr-defined]

    def _blocks(self, pulled: Iterator[Any]) -> Iterator[Tokens | dict[str, str]]:
        for _, future in pulled:
            window, refused, last = future.result()
            if refused:
                yield refused
            for tokens in self.states(window) if window else ():
                yield from self._finite(tokens)
            if last:
                return

    def _windows(self, first: int) -> Iterator[tuple[list[Fed], dict[str, str], bool]]:
        """Windows of prepared items, the items refused since the last one, and whether the part ends."""
        preparer = self.encoder.preparer(poolings.get(self.encoder.pooling))
        for part in self.parts[first:]:
            refused: dict[str, str] = {}

            def refuse(index: int, error: ItemError, refused: dict[str, str] = refused) -> None:
                self._stop_unless_skipping(error)
                refused[self.items[index].id] = _reason(error)

            for window in feed(
                {int(index): self.items[index] for index in part},
                preparer,
                self.role,
                counterpart=self.counterpart,
                workers=self.encoder.threads,
                refuse=refuse,
            ):
                yield window, {}, False
            yield [], refused, True

    def _finite(self, tokens: Tokens) -> Iterator[Tokens | dict[str, str]]:
        """The tokens without items whose states are not finite."""
        bad = np.unique(tokens.item_N[~np.isfinite(tokens.norm_N)])
        for index in bad:
            error = ItemError(
                "The model gave NaN or infinity for this item.",
                where=self.items[index].id,
                do="Harvest it in float32 (half precision overflows in some models).",
            )
            self._stop_unless_skipping(error)
            yield {self.items[index].id: _reason(error)}
        yield tokens.take(~np.isin(tokens.item_N, bad)) if len(bad) else tokens

    def _stop_unless_skipping(self, error: ItemError) -> None:
        if self.encoder.on_error == "raise":
            raise error


class PartWriter:
    """Cuts the rows of one part into shards. Each is whole on disk before it is spoken of.

    Args:
        number: of the part's first shard.
    """

    def __init__(self, work: Harvest, part: int, number: int) -> None:
        self.number = number
        self._work, self._part = work, part
        self._shard_rows = work.config.shard_rows(work.states.width)
        self._pending: list[Tokens] = []
        self._skipped: dict[str, str] = {}

    def add(self, block: Tokens | dict[str, str]) -> list[Shard]:
        """Rows, or items that give none -> why. Returns the shards that are full now.

        Raises:
            DataError: the disk refuses.
        """
        if isinstance(block, dict):
            self._skipped.update(block)
            return []
        self._pending.append(block)
        written: list[Shard] = []
        # A full shard waits for the row after it: only then is it known not to be the part's last.
        if sum(map(len, self._pending)) > self._shard_rows:
            tokens = _joined(self._pending, self._work)
            while len(tokens) > self._shard_rows:
                written.append(self._write(tokens.take(slice(self._shard_rows)), last=False))
                tokens = tokens.take(slice(self._shard_rows, None))
            self._pending = [tokens]
        return written

    def finish(self) -> list[Shard]:
        """The part's last shard; without rows where every item was skipped.

        Raises:
            DataError: the disk refuses.
        """
        return [self._write(_joined(self._pending, self._work), last=True)]

    def _write(self, tokens: Tokens, *, last: bool) -> Shard:
        path = shard_path(self._work.folder, self.number)
        skipped = dict(sorted(self._skipped.items())) if last else {}
        said = {"part": self._part, "last": last, "rows": len(tokens), "skipped": skipped}
        tensors = {
            "states": tokens.states_ND.contiguous(),
            "norm": torch.from_numpy(tokens.norm_N),
            "item": torch.from_numpy(tokens.item_N),
            "position": torch.from_numpy(tokens.position_N),
            "type": torch.from_numpy(tokens.type_N),
            "modality": torch.from_numpy(self._work.modality_of[tokens.item_N]),
        }
        write_or_say(path, save(tensors, metadata={METADATA: json.dumps(said, sort_keys=True)}))
        shard = Shard(path, self.number, self._part, last, len(tokens), skipped)
        self.number += 1
        return shard


def _joined(blocks: Sequence[Tokens], work: Harvest) -> Tokens:
    def column(of: Callable[[Tokens], NDArray[Any]], dtype: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *map(of, blocks)])

    return Tokens(
        torch.cat([torch.empty(0, work.states.width, dtype=work.dtype), *(one.states_ND for one in blocks)]),
        column(lambda one: one.norm_N, np.float32),
        column(lambda one: one.item_N, np.int64),
        column(lambda one: one.position_N, np.int32),
        column(lambda one: one.type_N, np.uint8),
    )


def _reason(error: ItemError) -> str:
    return f"{error.what} {error.do or ''}".strip()
