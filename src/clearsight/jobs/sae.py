"""`clearsight sae`: train a sparse autoencoder, look at one, convert it, compare two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clearsight.errors import UsageError
from clearsight.jobs.autoencoder import SaeOptions
from clearsight.jobs.facts import Facts, shown
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from clearsight.types import Item


@dataclass(frozen=True, kw_only=True)
class SaeTrainConfig(SaeOptions):
    """Train a sparse autoencoder on the token states of a model, or on vectors one already has.

    Give a MODEL with --items or --task, or --vectors. A run that was interrupted goes on where it was.
    """

    model: Annotated[str | None, "a model folder, a hub id, or `tiny` / `tiny-contrastive`"] = field(
        default=None, metadata={"positional": True}
    )
    items: Annotated[Path | None, "a folder of images, or items as .jsonl, .csv or .parquet"] = None
    task: Annotated[str | None, "a task source such as world/i2t: the items of both its sides"] = None
    data: Annotated[Path | None, "folder that holds the task source's files"] = None
    vectors: Annotated[Path | None, "vectors one already has (.npy, .parquet, .safetensors, .lance)"] = None
    prompt: Annotated[str, "prompt name or the path of a TOML file"] = "plain"
    layer: Annotated[int, "decoder layer, counted from the end; -1 is the last, after the final norm"] = -1
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    out: Annotated[Path, "folder of the autoencoder; token states and checkpoint lie in it too"] = Path("sae")
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class SaeInfoConfig:
    """Show what an autoencoder is: whose format, form, dictionary."""

    path: Annotated[Path, "a folder or file of any known format"] = field(metadata={"positional": True})
    k: Annotated[int | None, "concepts a vector, where the file does not say"] = None


@dataclass(frozen=True)
class SaeConvertConfig:
    """Write an autoencoder in another house's format."""

    path: Annotated[Path, "a folder or file of any known format"] = field(metadata={"positional": True})
    out: Annotated[Path, "folder to write"] = field(metadata={"positional": True})
    to: Annotated[Literal["saelens", "sparsify"], "format to write"] = "saelens"
    k: Annotated[int | None, "concepts a vector, where the file does not say"] = None


@dataclass(frozen=True)
class SaeCompareConfig:
    """Compare the dictionaries of two autoencoders: how many concepts both found."""

    first: Annotated[Path, "a folder or file of any known format"] = field(metadata={"positional": True})
    second: Annotated[Path, "another one of the same width"] = field(metadata={"positional": True})


def sae_train(config: SaeTrainConfig, ui: Ui | None = None) -> Facts:
    """Harvest (or read vectors), train, and write the autoencoder as SAELens writes one.

    Raises:
        UsageError: not exactly one source of vectors; options that do not go together.
        ModelError, DataError, ItemError: as the model, the data or an item say.
    """
    from clearsight.formats import save_sae
    from clearsight.jobs.autoencoder import facts, sae_line, train_on_tokens, train_on_vectors

    ui = ui or Quiet()
    if (config.vectors is None) == (config.model is None):
        raise UsageError(
            "Give either a model and its items, or vectors.",
            do="`clearsight sae train MODEL --items PHOTOS/`, or `clearsight sae train --vectors v.parquet`.",
        )
    encoder = None
    if config.vectors is not None:
        from clearsight.data import load_vectors

        rows_ND = load_vectors(config.vectors).rows_ND
        sae, line = train_on_vectors(rows_ND, config, config.out, ui.progress), "vectors"
        count = len(rows_ND)
    else:
        from clearsight.models.encoder import Encoder

        encoder = Encoder.load(
            config.model or "",
            prompt=config.prompt,
            layer=config.layer,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )
        items = _items(config)
        if encoder.loaded.kind == "contrastive":
            rows_ND = encoder.embed(items, progress=ui.progress).rows_ND
            sae, line = train_on_vectors(rows_ND, config, config.out, ui.progress), "pooled embeddings"
            count = len(rows_ND)
        else:
            sae, shards = train_on_tokens(encoder, items, config, config.out, ui.progress)
            line = "token states"
            count = len(shards.select(token_types=config.token_types, norm_limit=config.norm_limit))
    save_sae(sae, config.out, facts=facts(encoder, config, vectors=count))
    ui.say(f"{config.out}: {sae_line(sae, count, line)}")
    return Facts(_history(sae) | {"out": str(config.out), "vectors": count})


def sae_info(config: SaeInfoConfig, ui: Ui | None = None) -> Facts:
    """Format, form and dictionary measures. Raises DataError as `clearsight.formats.load_sae`."""
    from clearsight.formats import describe_sae, load_sae
    from clearsight.sae.dictionary import coherence, effective_rank, encoder_decoder_cosine

    description, sae = describe_sae(config.path), load_sae(config.path, k=config.k)
    form, near = sae.config, coherence(sae.dictionary_CD)
    encoder_CD = sae.encoder_CD.detach().cpu().numpy()
    values: dict[str, Any] = {
        "format": description.format,
        "file": str(description.file),
        "width": form.width,
        "concepts": form.concepts,
        "activation": form.activation,
        "k": form.k if form.kind.uses_k else "-",
        "score": form.score,
        "centred": form.centred,
        "largest cosine of two concepts": near.largest,
        "mean of nearest cosines": near.mean,
        "effective rank": effective_rank(sae.dictionary_CD),
        "encoder-decoder cosine": float(encoder_decoder_cosine(encoder_CD, sae.dictionary_CD).mean()),
        **{f"from: {name}": value for name, value in description.facts.get("origin", {}).items()},
    }
    return shown(Facts(values), ui)


def sae_convert(config: SaeConvertConfig, ui: Ui | None = None) -> Facts:
    """Read one format, write another. Raises DataError and UsageError as the formats do."""
    from clearsight.formats import describe_sae, load_sae, save_sae

    ui = ui or Quiet()
    description = describe_sae(config.path)
    folder = save_sae(load_sae(config.path, k=config.k), config.out, config.to, facts=description.facts)
    ui.say(f"{description.format} -> {config.to}: {folder}")
    return Facts({"from": description.format, "to": config.to, "out": str(folder)})


def sae_compare(config: SaeCompareConfig, ui: Ui | None = None) -> Facts:
    """How alike two dictionaries are. Raises DataError where their widths differ."""
    from clearsight.formats import load_sae
    from clearsight.sae.dictionary import SHARED, stability

    first, second = load_sae(config.first), load_sae(config.second)
    found = stability(first.dictionary_CD, second.dictionary_CD)
    values = {
        "mean largest cosine, first to second": found.mmcs,
        "mean largest cosine, second to first": found.mmcs_back,
        "mean cosine of the best matching": found.matched,
        "no matching is better than": found.matched_limit,
        f"share matched at {SHARED} or above": found.shared,
    }
    return shown(Facts(values), ui)


def _items(config: SaeTrainConfig) -> Sequence[Item]:
    from clearsight.data import load_items, load_task

    if (config.items is None) == (config.task is None):
        raise UsageError(
            "A model needs items to read.", do="Give --items (a folder or file) or --task, not both."
        )
    if config.items is not None:
        return load_items(config.items).items
    task = load_task(config.task or "", data=config.data)
    return list({item.id: item for item in (*task.queries, *task.candidates)}.values())


def _history(sae: Any) -> dict[str, Any]:
    if sae.history is None:
        return {}
    last = slice(-100, None)
    return {
        "steps": len(sae.history.loss_S),
        "reconstruction error (last 100 steps)": float(sae.history.error_S[last].mean()),
        "concepts of a vector": float(sae.history.active_S[last].mean()),
        "dead concepts": int(sae.history.dead_S[-1]),
    }
