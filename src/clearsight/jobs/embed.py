"""`clearsight embed`: items in, vectors out; a killed run goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.types import Embeddings


@dataclass(frozen=True)
class EmbedConfig:
    """Embed a folder of images or a file of items, and write the vectors.

    The vectors are kept in a cache keyed by content and by everything that changes them: a second run embeds
    nothing, an interrupted one goes on where it was.
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
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    on_error: Annotated[Literal["raise", "skip"], "skip: name a bad item in the report and go on"] = "raise"
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class EmbedResult:
    out: Path
    embeddings: Embeddings
    skipped: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "items": len(self.embeddings),
            "width": self.embeddings.width,
            "origin": dict(self.embeddings.origin),
            "cut": dict(self.embeddings.cut),
            "skipped": [{"item": item, "reason": reason} for item, reason in self.skipped],
        }


def embed(config: EmbedConfig, ui: Ui | None = None) -> EmbedResult:
    """Embed the items of a file or folder.

    Raises:
        ModelError, DataError, ItemError: as the model, the file or an item (`on_error="raise"`) say.
    """
    from clearsight.data import load_items, save_vectors
    from clearsight.files import to_json, write_atomic
    from clearsight.models.encoder import Encoder

    ui = ui or Quiet()
    loaded_items = load_items(config.items, on_error=config.on_error)
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
    embeddings = encoder.embed(loaded_items.items, config.role, progress=ui.progress)
    save_vectors(config.out, embeddings)
    result = EmbedResult(config.out, embeddings, (*loaded_items.skipped, *embeddings.skipped.items()))
    record = config.out.with_name(config.out.name + ".json")
    write_atomic(record, to_json(result.to_json()))
    ui.say(f"{len(embeddings):,} vectors of width {embeddings.width} in {config.out}; record in {record}")
    if embeddings.cut:
        ui.say(f"{len(embeddings.cut):,} texts were too long for the model and were cut; see the record.")
    return result
