"""Writing an exported retriever: whole or not at all, the base model's weights linked, not copied."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b, file_digest
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import save_file

import clearsight
from clearsight.errors import DataError, UsageError
from clearsight.files import to_json
from clearsight.formats.sentence_transformers import Plan, Retriever
from clearsight.formats.sentence_transformers_modules import REMOTE_FILE
from clearsight.models.folder import find_folder
from clearsight.models.load import LoadedModel
from clearsight.repair import PerGroup, Repair, save_repair

OURS = "clearsight"
EXPORT = f"{OURS}/export.json"
VERIFY = f"{OURS}/verify.json"
REPAIR = f"{OURS}/repair.safetensors"
KIND = "clearsight-export"

SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
LEFT_OUT = frozenset({"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"})
TYPED = ["input_ids", "token_type_ids", "attention_mask"]
_TEMPLATES = ("chat_template.json", "chat_template.jinja")


class Exported(Protocol):
    """What a folder is made from: a `Retriever`, or a `PairJudge`."""

    @property
    def loaded(self) -> LoadedModel: ...
    @property
    def repair(self) -> PerGroup | Repair | None: ...


def write_export(
    folder: str | os.PathLike[str],
    retriever: Exported,
    plan: Plan,
    *,
    facts: Mapping[str, Any],
    card: str,
    overwrite: bool = False,
) -> Path:
    """Write the folder beside its place, then move it there.

    Args:
        facts: written to clearsight/export.json.
        card: README.md.
        overwrite: replace an export that lies there; nothing else is ever replaced.

    Raises:
        UsageError: the place is taken by an export and `overwrite` is off, or by something else.
        ModelError: the base model's folder is incomplete.
    """
    place = Path(folder)
    _check_free(place, overwrite)
    with _swapped(place) as new:
        _copy_base(retriever, new, remote=plan.form == "remote code")
        for name, value in plan.files.items():
            _write(new / name, to_json(value))
        for name, text in plan.texts.items():
            _write(new / name, text.encode())
        for name, tensors in plan.tensors.items():
            (new / name).mkdir(parents=True, exist_ok=True)
            whole = {key: np.ascontiguousarray(values, dtype=np.float32) for key, values in tensors.items()}
            save_file(whole, new / name / "model.safetensors", metadata={"format": "pt"})
        if plan.form == "remote code":
            source = files("clearsight.formats").joinpath("remote", REMOTE_FILE)
            _write(new / REMOTE_FILE, source.read_bytes())
        if retriever.repair is not None:
            (new / REPAIR).parent.mkdir(exist_ok=True)
            save_repair(new / REPAIR, retriever.repair)
        _write(new / EXPORT, to_json({"kind": KIND, "format": 1, **facts}))
        _write(new / "README.md", card.encode())
    return place


def export_facts(retriever: Retriever, plan: Plan, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What clearsight/export.json holds: enough to embed the same items with Clearsight."""
    repair = retriever.repair
    return {
        "clearsight": clearsight.__version__,
        "form": plan.form,
        "reasons": plan.reasons,
        "origin": dict(origin),
        "template": asdict(retriever.template),
        "pooling": retriever.pooling.name,
        "layer": retriever.layer,
        "queries": retriever.queries,
        "candidates": retriever.candidates,
        "repair": None if repair is None else type(repair).__name__,
        "folded": plan.folded,
        "limits": plan.limits,
        "mixed_batches": plan.mixed_batches,
        "modalities": plan.modalities,
    }


def read_facts(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """clearsight/export.json of an export; empty for a folder that Clearsight did not write.

    Raises:
        DataError: the file is there and broken.
    """
    file = Path(folder) / EXPORT
    if not file.is_file():
        return {}
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"This file is not JSON: {error}.", where=str(file), do="Export again.") from None
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise DataError("This file does not describe an export.", where=str(file), do="Export again.")
    return facts


def folder_digest(folder: str | os.PathLike[str]) -> str:
    """A digest of every file but the card and the record of `verify`; changes with names and contents."""
    together = blake2b(digest_size=20)
    place = Path(folder)
    for file in sorted(file for file in place.rglob("*") if file.is_file()):
        name = file.relative_to(place).as_posix()
        if name not in (VERIFY, "README.md") and not name.startswith(".cache/"):
            with file.open("rb") as stream:
                together.update(f"{name}\0".encode() + file_digest(stream, blake2b).digest())
    return together.hexdigest()


def _check_free(place: Path, overwrite: bool) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not place.is_dir() or not (place / EXPORT).is_file():
        raise UsageError(
            f"'{place}' holds something that is no export.",
            where=str(place),
            do="Choose a new or empty folder.",
        )
    if not overwrite:
        raise UsageError(
            f"An export already lies in '{place}'.",
            where=str(place),
            do="Choose another folder, or allow overwriting (--overwrite).",
        )


@contextmanager
def _swapped(place: Path) -> Iterator[Path]:
    """A new folder beside `place` that takes its name once it is complete."""
    place.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(6)
    new, old = (place.with_name(f".{place.name}.{mark}.{end}") for end in ("partial", "old"))
    new.mkdir()
    try:
        yield new
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _copy_base(retriever: Exported, new: Path, *, remote: bool) -> None:
    loaded = retriever.loaded
    adapter = loaded.adapter
    source = find_folder(loaded.name if adapter is None else adapter.base)
    source.need_weights()
    patterns = (*SETTINGS, "*.py") if remote else SETTINGS
    index = source.path / "model.safetensors.index.json"
    for file in sorted({file for pattern in patterns for file in source.path.glob(pattern)}):
        if file.name not in LEFT_OUT and file.name not in _TEMPLATES:
            _write(new / file.name, _without_template(file))
    if loaded.images is not None and loaded.images.token_types.get("token_type_ids") == ():
        # The model reads a text without them in another way (PaliGemma); its tokenizer alone gives none.
        _update(new / "tokenizer_config.json", {"model_input_names": TYPED})
    if loaded.family.processor is not None:
        _update(new / "processor_config.json", {"processor_class": loaded.family.processor})
    if adapter is not None:  # merged: no file holds these weights yet
        shards = []
    elif index.is_file():
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    else:
        shards = [file.name for file in [source.path / "model.safetensors"] if file.is_file()]
    for shard in shards:
        _link((source.path / shard).resolve(), new / shard)
    if not shards:  # older checkpoints too: the weights as they were loaded
        loaded.model.save_pretrained(new)


def _without_template(file: Path) -> bytes:
    """A settings file without the chat template that older folders keep there."""
    data = file.read_bytes()
    if file.name not in ("tokenizer_config.json", "processor_config.json"):
        return data
    table = json.loads(data)
    if "chat_template" not in table:
        return data
    return to_json({name: value for name, value in table.items() if name != "chat_template"})


def _update(file: Path, values: Mapping[str, Any]) -> None:
    known = json.loads(file.read_bytes()) if file.is_file() else {}
    _write(file, to_json({**known, **values}))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
