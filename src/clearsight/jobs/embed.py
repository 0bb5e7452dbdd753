"""`clearsight embed`: items in, vectors out; a killed run goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.data import LoadedItems
    from clearsight.types import Embeddings


@dataclass(frozen=True)
class EmbedConfig:
    """Embed a folder of images or a file of items, and write the vectors.

    The vectors are kept in a cache keyed by content and by everything that changes them: a second run embeds
    nothing, an interrupted one goes on where it was, and several may embed parts (--shard).
    """

    model: Annotated[str, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        metadata={"positional": True}
    )
    items: Annotated[Path, "a folder of images, or items as .jsonl, .csv or .parquet"] = field(
        metadata={"positional": True}
    )
    out: Annotated[Path, "file to write: .parquet, .safetensors, .npy (ids beside it) or .lance"] = Path(
        "vectors.parquet"
    )
    role: Annotated[Literal["query", "candidate"], "which side the items are; some prompts differ"] = (
        "candidate"
    )
    prompt: Annotated[str, "prompt name (see `clearsight info system`) or the path of a TOML file"] = (
        "one_word"
    )
    pooling: Annotated[str, "mean, last, mean_no_image, mean_no_prompt, last_attention"] = "mean"
    source: Annotated[
        Literal["item", "describe"], "describe: the model's caption of an image is embedded"
    ] = "item"
    layer: Annotated[int, "decoder layer, counted from the end; -1 is the last, after the final norm"] = -1
    cache: Annotated[Path, "folder of the vector cache"] = Path(".cache/clearsight/vectors")
    shard: Annotated[
        str | None, "i/n: embed the i-th of n parts into the cache and stop; without it, write all vectors"
    ] = None
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the report and go on"] = "raise"
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class EmbedResult:
    """The file and its vectors; of a shard there is no file, but a number of items."""

    out: Path | None
    embeddings: Embeddings | None
    skipped: tuple[tuple[str, str], ...]
    embedded: int

    def to_json(self) -> dict[str, Any]:
        skipped = [{"item": item, "reason": reason} for item, reason in self.skipped]
        if self.embeddings is None:
            return {"out": None, "items": self.embedded, "skipped": skipped}
        return {
            "out": str(self.out),
            "items": self.embedded,
            "width": self.embeddings.width,
            "origin": dict(self.embeddings.origin),
            "cut": dict(self.embeddings.cut),
            "skipped": skipped,
        }


def embed(config: EmbedConfig, ui: Ui | None = None) -> EmbedResult:
    """Embed the items of a file or folder.

    Raises:
        UsageError: a shard that is none.
        ModelError, DataError, ItemError: as the model, the file or an item (`on_error="raise"`) say.
    """
    from clearsight.data import load_items
    from clearsight.jobs.pools import Shard, embed_part
    from clearsight.models.encoder import Encoder

    ui = ui or Quiet()
    shard = None if config.shard is None else Shard.parse(config.shard)
    loaded = load_items(config.items, on_error=config.on_error)
    encoder = Encoder.load(
        config.model,
        prompt=config.prompt,
        pooling=config.pooling,
        source=config.source,
        layer=config.layer,
        cache=config.cache,
        device=config.device,
        on_error=config.on_error,
        trust_remote_code=config.trust_remote_code,
    )
    if shard is None:
        return _written(config, encoder.embed(loaded.items, config.role, progress=ui.progress), loaded, ui)
    part = embed_part(encoder, loaded.items, config.role, shard=shard, progress=ui.progress)
    ui.say(
        f"Part {shard.number} of {shard.of} is embedded: {part.items:,} items, in {config.cache}. Once all "
        "parts are, the same command without --shard finds them there and writes the vectors."
    )
    return EmbedResult(None, None, (*loaded.skipped, *part.skipped.items()), part.items)


def _written(config: EmbedConfig, embeddings: Embeddings, loaded: LoadedItems, ui: Ui) -> EmbedResult:
    from clearsight.data import save_vectors
    from clearsight.files import to_json, write_atomic

    save_vectors(config.out, embeddings)
    skipped = (*loaded.skipped, *embeddings.skipped.items())
    result = EmbedResult(config.out, embeddings, skipped, len(embeddings))
    record = config.out.with_name(config.out.name + ".json")
    write_atomic(record, to_json(result.to_json()))
    ui.say(f"{len(embeddings):,} vectors of width {embeddings.width} in {config.out}; record in {record}")
    if embeddings.cut:
        ui.say(f"{len(embeddings.cut):,} texts were too long for the model and were cut; see the record.")
    return result
