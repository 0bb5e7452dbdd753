"""The index: a collection of items with their vectors, repaired without labels, and search in it.

Legend of shapes: N rows, Q queries, D width of raw vectors, E width of repaired ones.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.data.tables import OnError
from clearsight.errors import DataError
from clearsight.index import model
from clearsight.index.changing import Asked, put, synced
from clearsight.index.fitted import Fitted
from clearsight.index.making import Done
from clearsight.index.metadata import columns_of
from clearsight.index.nouns import Added, Hit, Query, Results
from clearsight.index.pictures import original_of
from clearsight.index.places import SOON, address_of, find_index, make_room
from clearsight.index.queries import QueryStatistics
from clearsight.index.refitting import refit
from clearsight.index.repairing import GROWN
from clearsight.index.searching import Searcher, hits_of
from clearsight.index.settings import Settings, place_said
from clearsight.progress import Progress, Silent
from clearsight.store.lock import writer_lock
from clearsight.types import Item

if TYPE_CHECKING:
    from clearsight.index.scale import RayEngine
    from clearsight.models.encoder import Encoder
    from clearsight.rerank import Reranker
    from clearsight.sae import SparseAutoencoder
    from clearsight.store.door import VectorStore

WAIT = 60.0
"""Seconds that a change of moments waits for another writer."""


class Index:
    """Items with their vectors in a store, the repair that is in force, and search.

    One process writes at a time (the others are told who); any number may read. Readers see what was
    committed last. Made by `create` and `open`; a context manager.

    Attributes:
        folder: where the index lies.
        settings: what it was made with.
    """

    def __init__(self, folder: Path, settings: Settings, store: VectorStore, encoder: Encoder | None) -> None:
        self.folder, self.settings, self.store = folder, settings, store
        self._encoder = encoder
        self._load: dict[str, Any] = {}
        self._fitted: dict[str, Fitted] = {}
        self._lock = threading.RLock()
        self._rerankers: dict[str, Reranker] = {}
        self._cached: dict[str, tuple[int, Any]] = {}
        self.queries = QueryStatistics(folder) if settings.learn_queries else None
        self._searcher = Searcher(self)
        self._writer = threading.RLock()

    @contextmanager
    def writing(self, *, wait: float = WAIT) -> Iterator[None]:
        """Hold the index for writing; threads of this process wait for each other.

        Raises:
            DataError: another process has held it for `wait` seconds; the message says which.
        """
        with self._writer, writer_lock(self.folder, wait=wait):
            yield

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        model_name: str | os.PathLike[str] | Encoder = "tiny",
        *,
        items: str | os.PathLike[str] | None = None,
        address: str | None = None,
        overwrite: bool = False,
        device: str | None = None,
        trust_remote_code: bool = False,
        embed: Any = "auto",
        repair: Any = "auto",
        unlabelled: int = 500,
        learn_queries: bool = False,
        **encoder_options: Any,
    ) -> Index:
        """An empty index.

        Args:
            folder: to be made; a folder that holds another index needs `overwrite`.
            model_name: a model folder, a hub id, "tiny" / "tiny-contrastive", or an encoder.
            items: the folder or file that `sync` will read, remembered.
            address: of the store (`clearsight.store.open_store`); None: in `folder`.
            embed: what of an item with picture and text is embedded: "auto" (the picture), "image", "text",
                "both".
            repair: "auto", "none", "centred", "realign", "self_aligned", "chosen": what `refit` fits.
            unlabelled: at most so many pictures are captioned for it.
            learn_queries: keep running statistics of queries (no query itself), and centre queries by them.
            encoder_options: of `Encoder`; prompt is "one_word" and pooling "mean" unless given.

        Raises:
            DataError: there is an index already, the store holds rows, or the folder cannot be written.
            UsageError, ModelError: as the settings and the model say.
        """
        from clearsight.store import open_store

        place = Path(folder)
        encoder = model.encoder_of(
            model_name, device=device, trust_remote_code=trust_remote_code, **encoder_options
        )
        settings = Settings(
            model=encoder.loaded.name,
            revision=encoder.loaded.revision,
            width=model.width_of(encoder),
            encoder=model.options_of(encoder),
            vectors=model.facts_of(encoder),
            address=address,
            items=None if items is None else place_said(Path(items), place),
            embed=embed,
            repair=repair,
            unlabelled=unlabelled,
            learn_queries=learn_queries,
        )
        make_room(place, overwrite=overwrite)
        with writer_lock(place, wait=SOON):
            store = open_store(address_of(settings, place), settings.width, create=True)
            view = store.view()
            if view.rows and not overwrite:
                raise DataError(
                    f"The store holds {view.rows:,} rows of another index.",
                    where=address_of(settings, place),
                    do="Give another address, or --overwrite.",
                )
            if view.rows:  # on a server the rows are not gone with the folder
                store.delete([name for batch in view.read(["id"]) for name in batch.column("id").to_pylist()])
            settings.write(place)
        return cls(place, settings, store, encoder)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        model_name: str | os.PathLike[str] | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> Index:
        """The index at `folder` (or in the `.clearsight` in it); the model is loaded when it is needed.

        Args:
            encoder: in place of loading the index's model; must give the same vectors.
            model_name: where the model lies now, if not where it was.

        Raises:
            DataError: no index, a broken one, or of another format.
        """
        from clearsight.store import open_store

        place = find_index(folder)
        settings = Settings.read(place)
        store = open_store(address_of(settings, place), settings.width)
        index = cls(place, settings, store, None)
        index._load = {
            "model": str(model_name or settings.model),
            "device": device,
            "trust_remote_code": trust_remote_code,
        }
        if encoder is not None:
            model.same_vectors(encoder, settings, place)
            index._encoder = encoder
        return index

    @property
    def encoder(self) -> Encoder:
        """What embeds; loaded at the first use.

        Raises:
            ModelError: the model cannot be loaded. DataError: it gives other vectors than the index holds.
        """
        with self._lock:
            if self._encoder is None:
                loading = dict(self._load)
                name = loading.pop("model", self.settings.model)
                encoder = model.encoder_of(name, **loading, **self.settings.encoder)
                model.same_vectors(encoder, self.settings, self.folder)
                self._encoder = encoder
            return self._encoder

    @property
    def loading(self) -> Mapping[str, Any]:
        """How another process loads the model: its place, if another, and whether its code may run."""
        return {name: self._load[name] for name in ("model", "trust_remote_code") if name in self._load}

    @property
    def root(self) -> Path | None:
        """The indexed folder (of a file of items: the folder it lies in)."""
        place = self.settings.place_of_items(self.folder)
        return place if place is None or place.is_dir() else place.parent

    def fitted(self, name: str | None = None) -> Fitted:
        """A repair by its number; the one in force, unless given."""
        wanted = self.store.view().repair if name is None else name
        if wanted not in self._fitted:
            self._fitted[wanted] = Fitted.load(self.folder / "repairs", wanted)
        return self._fitted[wanted]

    def sync(
        self,
        items: str | os.PathLike[str] | None = None,
        *,
        captions: Sequence[str | os.PathLike[str]] = (),
        columns: Mapping[str, str] | None = None,
        on_error: OnError = "skip",
        progress: Progress | None = None,
        engine: RayEngine | None = None,
    ) -> Done:
        """Take what is new, changed or gone in a folder or file of items; nothing else is read.

        Items are committed in chunks: what was done stays, however it ends.

        Args:
            items: None: what was given when the index was made.
            captions: tables of texts and metadata that lie elsewhere.
            columns: house's name (id, text, image) -> the tables' column.
            engine: embeds on a cluster (`clearsight.index.scale`), in place of this process.

        Raises:
            DataError: nothing to index, another writer, a table or store that cannot be read or written.
            ItemError: an item that cannot be read or embedded (`on_error="raise"`).
        """
        asked = Asked(tuple(Path(one) for one in captions), columns, on_error)
        return synced(self, None if items is None else Path(items), asked, progress or Silent(), engine)

    def add(self, items: Iterable[Item], *, metadata: Mapping[str, Mapping[str, Any]] | None = None) -> Added:
        """Embed and keep items; what is there with the same content is left alone.

        Args:
            metadata: id -> values by column.

        Raises:
            ItemError: an item that cannot be embedded, or metadata that does not fit its column; those before
                it may be there already.
            DataError: another writer, or a store that refuses.
        """
        done = put(self, list(items), metadata or {})
        return Added(done.new, done.changed, done.same, done.skipped)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items; unknown ids are passed over. Returns how many went. Raises DataError as `add`."""
        with self.writing():
            return self.store.delete(list(ids))

    def refit(
        self,
        repair: Any = None,
        *,
        unlabelled: int | None = None,
        progress: Progress | None = None,
    ) -> Mapping[str, Any]:
        """Fit the repair anew on what is there, and rewrite the repaired vectors in one commit.

        Views and searches that have begun go on with the old one. Captions written before are not written
        again. Statistics of queries, where they are kept, centre the query side.

        Args:
            repair, unlabelled: as for `create`; None: as it was asked for then.

        Returns:
            What it was fitted on.

        Raises:
            UsageError: a repair that this model or collection does not allow. DataError: as `add`.
        """
        wanted = replace(
            self.settings,
            repair=repair or self.settings.repair,
            unlabelled=self.settings.unlabelled if unlabelled is None else unlabelled,
        )
        with self.writing(wait=SOON):
            fitted = refit(self, wanted, progress or Silent())
            self.with_settings(replace(wanted, fitted_rows=self.store.view().rows))
        return fitted.facts

    def search(
        self,
        text: str | Query | None = None,
        *,
        image: Any = None,
        like: str | None = None,
        where: str | None = None,
        top: int = 10,
        space: Any = "repaired",
    ) -> Results:
        """The items nearest to a question.

        Args:
            text: words, or a whole `Query`.
            image, like, where, top, space: as the attributes of `Query`.

        Raises:
            UsageError: no question, `top` out of range, a filter that does not parse, a modality that the
                model does not read.
            ItemError: a picture that cannot be read. DataError: no item of the id `like`.
        """
        query = text if isinstance(text, Query) else Query(text, image, like, where, top, space)
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[Query]) -> list[Results]:
        """Answers to several questions, embedded in one batch. Raises as `search`."""
        return self._searcher.many(queries)

    def rerank(
        self, results: Results, scorer: str = "likelihood", *, top: int = 20, reranker: Reranker | None = None
    ) -> Results:
        """The first `top` hits judged again by the index's own model, or by a reranker.

        Raises:
            UsageError: an unknown scorer, one that says nothing about such items, a model without a head.
        """
        from clearsight.index.again import judged_again

        with self._lock:
            if reranker is None:
                if scorer not in self._rerankers:
                    self._rerankers[scorer] = model.reranker_of(self.encoder, scorer)
                reranker = self._rerankers[scorer]
            return judged_again(self, results, reranker, top)

    def explain(
        self,
        results: Results,
        sae: SparseAutoencoder,
        *,
        names: Mapping[int, str] | None = None,
        most: int = 5,
    ) -> Results:
        """Which concepts, shared by query and hit, make up the score: into `Hit.why`.

        Args:
            sae: trained on this model's vectors or token states (same layer).
            names: concept -> name; numbers without.
            most: concepts a hit.

        Raises:
            DataError: an autoencoder of another width.
        """
        from clearsight.index.explain import explained

        return explained(self, results, sae, names or {}, most)

    def items(self, ids: Sequence[str]) -> list[Hit]:
        """Items by id, score 0, in the order asked; unknown ones are left out."""
        view = self.store.view()
        columns = ["id", "modality", "text", "source", *columns_of(view.fields)]
        found: dict[str, Hit] = {}
        for batch in view.read(columns, ids=list(ids)):
            found.update((hit.id, hit) for hit in hits_of(batch.to_pylist(), np.zeros(batch.num_rows)))
        return [found[item_id] for item_id in dict.fromkeys(ids) if item_id in found]

    def sample(self, number: int) -> list[Hit]:
        """Some items, spread evenly over the collection, score 0: the same ones while it stays the same."""
        view = self.store.view()

        def by_key() -> list[str]:
            rows = [row for batch in view.read(["key", "id"]) for row in batch.to_pylist()]
            return [row["id"] for row in sorted(rows, key=lambda row: (row["key"], row["id"]))]

        return self.items(self.cached("sample", view.version, by_key)[: max(0, number)])

    def thumbnail(self, item_id: str) -> bytes | None:
        """A small JPEG of an item; None where it has no picture. Raises DataError: no such item."""
        small: bytes | None = self._row(item_id, "thumbnail")["thumbnail"]
        return small

    def original(self, item_id: str) -> bytes | None:
        """The picture as it is in the indexed folder; None where it has none, or the file has gone.

        Raises:
            DataError: no such item, or its file lies outside the indexed folder.
        """
        row = self._row(item_id, "source", "text", "thumbnail")
        if row["source"] is None or row["thumbnail"] is None or self.root is None:
            return None
        return original_of(self.root, row["source"], item_id=item_id)

    def map(self) -> Mapping[str, Any]:
        """Places of the items on a plane, for both spaces; kept beside the index.

        Returns:
            ids and modality: N strings; raw and repaired: (N, 2) float32 in -1..1; version; method; notes.
        """
        from clearsight.index.map import placed

        view = self.store.view()
        found: Mapping[str, Any] = self.cached("map", view.version, lambda: placed(view, self.folder / "map"))
        return found

    def info(self) -> Mapping[str, Any]:
        """What the index is: rows by modality, model, prompt, repair and the geometry before and after it,
        store, drift of either side, and what a person should know (`notes`)."""
        from clearsight.index.facts import facts

        return facts(self)

    def close(self) -> None:
        """Keep what was learnt of queries, and let the model go."""
        if self.queries is not None:
            self.queries.flush()
        self._encoder, self._rerankers = None, {}

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cached(self, name: str, version: int, make: Any) -> Any:
        """What `make` gives for a version of the store, made once."""
        found = self._cached.get(name)
        if found is None or found[0] != version:
            found = self._cached[name] = (version, make())
        return found[1]

    def drift_notes(self, fitted: Fitted) -> tuple[str, ...]:
        """What is known of drift without measuring it."""
        from clearsight.index.facts import known_notes
        from clearsight.index.searching import query_drift

        moved = [one.sentence() for one in query_drift(self, fitted) if one.moved]
        return (*known_notes(self.folder, self.store.view().version), *moved)

    @property
    def due(self) -> bool:
        """Whether a repair should be fitted: there is none, and was none for a collection of this size."""
        view, then = self.store.view(), self.settings.fitted_rows
        if not view.rows or self.settings.repair == "none":
            return False
        return then == 0 or (not view.repair and view.rows >= GROWN * then)

    def learn_queries(self, on: bool) -> None:
        """Begin to keep statistics of queries, or stop and forget them. Raises DataError: another writer."""
        with self.writing():
            if not on:
                (self.queries or QueryStatistics(self.folder)).forget()
            self.queries = (self.queries or QueryStatistics(self.folder)) if on else None
            self.with_settings(replace(self.settings, learn_queries=on))

    def with_settings(self, settings: Settings) -> Index:
        """The same index with other settings, which are written where they differ."""
        if settings != self.settings:
            with self.writing():
                settings.write(self.folder)
            self.settings = settings
        return self

    def _row(self, item_id: str, *columns: str) -> dict[str, Any]:
        for batch in self.store.view().read(["id", *columns], ids=[item_id]):
            for row in batch.to_pylist():
                return dict(row)
        raise no_item(item_id)


def no_item(item_id: str) -> DataError:
    return DataError(
        f"There is no item '{item_id}'.", where=item_id, do="Give the id of an item of the index."
    )
