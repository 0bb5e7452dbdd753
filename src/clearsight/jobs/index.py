"""`clearsight index`: a folder of pictures and texts becomes an index that can be searched; run again, it
takes only what is new, changed or gone. `clearsight index info` says what an index is.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.index import Index
    from clearsight.index.making import Done
    from clearsight.jobs.facts import Facts


@dataclass(frozen=True)
class IndexConfig:
    """Index a folder of pictures and texts, or a file of items, so that it can be searched.

    Captions beside pictures (x.txt beside x.png) belong to it, and so do tables at the top of the folder
    (.csv, .jsonl, .parquet) with a column `image`, `file_name`, `text` or `caption`; their other columns
    become metadata to filter by. The vectors are repaired without labels. Run again, it takes only what is
    new, changed or gone; a run that was interrupted goes on where it was.
    """

    items: Annotated[Path, "a folder of pictures and texts, or items as .jsonl, .csv or .parquet"] = field(
        metadata={"positional": True}
    )
    model: Annotated[
        str | None, "a model folder or a hub id; by default the index's own, of a new index `tiny`"
    ] = None
    out: Annotated[
        Path | None, "folder of the index; by default .clearsight in the folder, or `index` for a file"
    ] = None
    captions: Annotated[tuple[Path, ...], "further tables of texts and metadata"] = ()
    columns: Annotated[tuple[str, ...], "names of the tables' columns, such as text=title,image=photo"] = ()
    embed: Annotated[
        Literal["auto", "image", "text", "both"] | None,
        "of an item with picture and text; auto: the picture (texts are shown and filtered by)",
    ] = None
    repair: Annotated[
        Literal["auto", "none", "centred", "realign", "self_aligned", "chosen"] | None,
        "auto: self-aligned, with few pictures ReAlign; of contrastive models none",
    ] = None
    unlabelled: Annotated[int | None, "at most so many pictures are captioned by the model (500)"] = None
    refit: Annotated[bool, "fit the repair anew on what is there now"] = False
    learn_queries: Annotated[
        Literal["on", "off"] | None,
        "on: keep mean and spread of queries (none of them) and centre queries by it; off: forget",
    ] = None
    prompt: Annotated[str | None, "prompt name or the path of a TOML file (one_word)"] = None
    pooling: Annotated[str | None, "mean, last, ... (mean)"] = None
    layer: Annotated[int | None, "decoder layer, counted from the end (-1)"] = None
    store: Annotated[
        str | None, "where rows are kept: a .lance folder, s3://..., postgresql://...; by default in --out"
    ] = None
    engine: Annotated[
        Literal["loop", "ray"],
        "ray: on the machines of the cluster at $RAY_ADDRESS; on one machine the plain loop is faster",
    ] = "loop"
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the report and go on"] = "skip"
    overwrite: Annotated[bool, "build the index anew"] = False
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False

    @property
    def place(self) -> Path:
        """Where the index lies."""
        from clearsight.index.places import OWN_FOLDER

        if self.out is not None:
            return self.out
        return self.items / OWN_FOLDER if self.items.is_dir() else Path("index")


@dataclass(frozen=True)
class IndexInfoConfig:
    """Show what an index is: items, model, repair and what it did to the space, store, drift."""

    index: Annotated[Path, "folder of an index, or one that holds a .clearsight"] = field(
        default=Path("."), metadata={"positional": True}
    )


@dataclass(frozen=True)
class IndexResult:
    """The index, what was done, and the repair that was fitted (None: none was)."""

    index: Path
    done: Done
    rows: int
    repaired: Mapping[str, Any] | None
    notes: tuple[str, ...] = ()

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.done.skipped.items())

    def to_json(self) -> dict[str, Any]:
        from clearsight.files import to_plain

        return {
            "index": str(self.index),
            "rows": self.rows,
            **to_plain(vars(self.done)),
            "repaired": to_plain(self.repaired),
            "notes": list(self.notes),
        }


def index(config: IndexConfig, ui: Ui | None = None) -> IndexResult:
    """Make or update an index, and fit its repair where it has none, or another was asked for.

    Raises:
        UsageError: options that do not go together, or not with the index that is there.
        DataError: nothing to index, another writer, an index of another model or format, a full disk.
        ModelError, ItemError: as the model and (`on_error="raise"`) an item say.
    """
    ui = ui or Quiet()
    columns, fill = _columns(config.columns), _filler(config)
    opened = _opened(config, columns)
    with opened:
        done = fill(
            opened,
            config.items,
            captions=config.captions,
            columns=columns,
            on_error=config.on_error,
            progress=ui.progress,
        )
        ui.say(_said(done, opened.store.view().rows))
        repaired = _repaired(opened, config, ui)
        notes = tuple(opened.info()["notes"])
    for note in notes:
        ui.say(note)
    ui.say(f"The index is in {opened.folder}. Search in it:")
    ui.say(f'  clearsight search "..." --index {shlex.quote(str(config.place))}')
    return IndexResult(opened.folder, done, opened.store.view().rows, repaired, notes)


def index_info(config: IndexInfoConfig, ui: Ui | None = None) -> Facts:
    """Everything known of an index. Raises DataError where there is none."""
    from clearsight.index import Index
    from clearsight.jobs.facts import Facts, shown

    facts = dict(Index.open(config.index).info())
    shown(Facts(_flat(facts)), ui)
    return Facts(_plain(facts))


def _opened(config: IndexConfig, columns: Mapping[str, str]) -> Index:
    """The index that is there, or a new one, once it is known that there is something to index."""
    from dataclasses import replace

    from clearsight.index import Index
    from clearsight.index.model import encoder_of, same_vectors
    from clearsight.index.scale_sources import address_of

    if config.overwrite or not (config.place / "index.json").exists():
        _need_entries(config, columns)
        return Index.create(
            config.place,
            config.model or "tiny",
            items=None if "://" in address_of(config.items) else config.items,
            address=config.store,
            overwrite=config.overwrite,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            embed=config.embed or "auto",
            repair=config.repair or "auto",
            unlabelled=500 if config.unlabelled is None else config.unlabelled,
            learn_queries=config.learn_queries == "on",
            prompt=config.prompt,
            pooling=config.pooling,
            layer=config.layer,
        )
    there = Index.open(
        config.place,
        model_name=config.model,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    for name, asked, own in (
        ("embed", config.embed, there.settings.embed),
        ("store", config.store, there.settings.address),
    ):
        if asked is not None and asked != own:
            raise UsageError(
                f"The index was made with --{name} {own}, not {asked}.",
                where=f"--{name}",
                do="Leave it out, or build the index anew with --overwrite.",
            )
    asked_of = {"prompt": config.prompt, "pooling": config.pooling, "layer": config.layer}
    if config.model is not None or any(value is not None for value in asked_of.values()):
        given = {name: value for name, value in asked_of.items() if value is not None}
        encoder = encoder_of(
            config.model or there.settings.model,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            **{**there.settings.encoder, **given},
        )
        same_vectors(encoder, there.settings, there.folder)
        there = Index.open(config.place, encoder=encoder)
    if config.learn_queries is not None:
        there.learn_queries(config.learn_queries == "on")
    return there if config.unlabelled is None else there.with_settings(
        replace(there.settings, unlabelled=config.unlabelled)
    )  # fmt: skip


def _filler(config: IndexConfig) -> Callable[..., Done]:
    """What embeds and commits."""
    if config.engine == "loop":
        from clearsight.index import Index

        return Index.sync
    from clearsight.index.scale import sync_on_ray
    from clearsight.index.scale_ray import need_ray

    need_ray()
    return sync_on_ray


def _need_entries(config: IndexConfig, columns: Mapping[str, str]) -> None:
    """Before a model is loaded: is there anything to index?"""
    from clearsight.data.tables import Faults
    from clearsight.index.changing import nothing_to_index
    from clearsight.index.folder import Collection

    if config.engine == "ray":
        from clearsight.index.scale_sources import address_of, tables_at

        if tables_at(address_of(config.items)) is not None:
            return  # looked at where they are read
    faults = Faults("skip")
    collection = Collection(config.items, tables=config.captions, columns=columns, faults=faults)
    if next(collection.entries(faults), None) is None:
        raise nothing_to_index(config.items, faults)


def _repaired(opened: Index, config: IndexConfig, ui: Ui) -> Mapping[str, Any] | None:
    """Fit a repair, where one is due or was asked for."""
    asked = config.repair is not None and config.repair != opened.settings.repair
    if not (config.refit or asked or opened.due):
        return None
    facts = opened.refit(config.repair, progress=ui.progress)
    held = ", ".join(f"{name} {value:.3f}" for name, value in (facts.get("held_out") or {}).items())
    pairs = f" on {facts['pairs']:,} pictures that the model captioned" if facts.get("pairs") else ""
    ui.say(
        f"Repair: {facts['repair']}{pairs}{f' (reciprocal rank of held-out pairs: {held})' if held else ''}."
    )
    return facts


def _said(done: Done, rows: int) -> str:
    parts = [
        f"{done.new:,} new",
        f"{done.changed:,} changed",
        f"{done.gone:,} gone",
        f"{done.same:,} as before",
    ]
    if done.moved:
        parts[0] += f" (of which {done.moved:,} of known content)"
    cut = f" {len(done.cut):,} texts were too long for the model and were cut." if done.cut else ""
    return f"{rows:,} items: {', '.join(parts)}.{cut}"


def _columns(given: tuple[str, ...]) -> dict[str, str]:
    """`text=title` and the like.

    Raises:
        UsageError: not of that form, or not a field.
    """
    from clearsight.index.tables import ALIASES

    columns: dict[str, str] = {}
    for pair in given:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs or ours not in ALIASES:
            raise UsageError(
                f"'{pair}' does not name a column.",
                where="--columns",
                do=f"Give FIELD=COLUMN with a field of {', '.join(ALIASES)}.",
            )
        columns[ours] = theirs
    return columns


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as one reads them: a line each."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if name == "geometry":
            before, after = value.get("before", {}), value.get("after", {})
            flat |= {
                f"{one}, before -> after".replace("_", " "): f"{before[one]:.3g} -> {after[one]:.3g}"
                for one in before
            }
        elif name == "drift":
            flat |= {
                f"drift of {one['modality']} ({one['side']})": f"{one['spreads']:.3f} spreads, "
                f"{one['errors']:.1f} standard errors, effective rank {one['rank_before']:.3g} -> "
                f"{one['rank_now']:.3g}"
                for one in value
            }
        elif isinstance(value, Mapping):
            flat |= {
                f"{name} {key}".replace("_", " "): _words(one)
                for key, one in value.items()
                if one is not None
            }
        elif name == "notes":
            flat |= {f"note {n}": note for n, note in enumerate(value, 1)}
        elif value is not None:
            flat[name.replace("_", " ")] = value
    return flat


def _words(value: Any) -> Any:
    """Facts within a fact, in a line."""
    if not isinstance(value, Mapping):
        return value
    said = ((name, _words(one), isinstance(one, Mapping)) for name, one in value.items() if one is not None)
    return ", ".join(f"{name} ({one})" if nested else f"{name} {one}" for name, one, nested in said)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    from clearsight.files import to_plain

    plain: dict[str, Any] = to_plain(facts)
    return plain
