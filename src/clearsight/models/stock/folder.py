"""What a sentence-transformers folder says of itself, before the library is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from clearsight.errors import ModelError
from clearsight.models.folder import Folder

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
EMBEDS = "SentenceTransformer"
"""The `model_type` of models with one vector an item; folders older than the field have none."""
_OTHER_KINDS = {
    "CrossEncoder": "a reranker",
    "SparseEncoder": "a model of sparse vectors",
    "MultiVectorEncoder": "a model of several vectors an item",
}
_NOT_NEEDED = ("*.onnx", "*/onnx/*", "*/openvino/*", "*.h5", "*.msgpack")


def is_stock(folder: Folder) -> bool:
    """Whether this is a folder that sentence-transformers wrote."""
    return any((folder.path / name).is_file() for name in (MODULES, SETTINGS))


def need_embedder(folder: Folder) -> None:
    """Raises:
    ModelError: a reranker, or a model with other than one dense vector an item.
    """
    settings = _json(folder.path / SETTINGS, folder.name)
    kind = settings.get("model_type", EMBEDS) if isinstance(settings, dict) else EMBEDS
    if kind != EMBEDS:
        raise ModelError(
            f"This is {_OTHER_KINDS.get(kind, 'not an embedding model')} ({kind}).",
            where=folder.name,
            do="Give a model with one dense vector an item.",
        )


def module_folders(folder: Folder) -> list[Path]:
    """Where the modules after the first keep their files (older folders: the first as well).

    Raises:
        ModelError: modules.json is not what the library writes, or leads out of the folder.
    """
    table = _json(folder.path / MODULES, folder.name)
    try:
        names = [str(row["path"]) for row in table or []]
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{MODULES} does not list modules.", where=folder.name, do="Download the model again."
        ) from error
    root = folder.path.resolve()
    paths = [folder.path / name for name in names if name]
    if any(not Path(path.parent.resolve() / path.name).is_relative_to(root) for path in paths):
        raise ModelError(
            f"{MODULES} leads out of the model's folder.", where=folder.name, do="Do not use this model."
        )
    return paths


def fetch_modules(folder: Folder, paths: list[Path]) -> None:
    """The modules' folders of a hub model; an empty one (a module without settings) is on no hub."""
    if folder.path.parent.name != "snapshots" or all(path.is_dir() for path in paths):
        return
    names = [path.relative_to(folder.path).as_posix() for path in paths]
    try:
        snapshot_download(
            folder.name,
            revision=folder.path.name,
            allow_patterns=[f"{name}/*" for name in names],
            ignore_patterns=list(_NOT_NEEDED),
        )
    except (OSError, HfHubHTTPError, ValueError):
        return  # without the network; what is truly missing the library names when it loads


def revision(folder: Folder, paths: list[Path]) -> str:
    """The hub's commit, or a digest over names and contents of all files, the modules' included."""
    if folder.path.parent.name == "snapshots":
        return folder.revision()
    together = hashlib.blake2b(folder.revision().encode(), digest_size=20)
    for path in paths:
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "blake2b").digest()
            together.update(f"{file.relative_to(folder.path).as_posix()}\0".encode() + digest)
    return together.hexdigest()


def _json(path: Path, name: str) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}.", where=name, do="Download it again.") from None
