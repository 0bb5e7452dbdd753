"""Where a model's files are (folder, hub snapshot, package), and what they say before anything is loaded."""

from __future__ import annotations

import difflib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from transformers import AutoConfig

from clearsight.errors import ModelError
from clearsight.models.tiny import SHIPPED

WEIGHTS = ("*.safetensors", "*.bin")
SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Folder:
    """A folder that holds a model.

    Attributes:
        name: as the user gave it.
        path: the folder.
    """

    name: str
    path: Path

    def config(self, *, trust_remote_code: bool) -> Any:
        """The model's config.

        Raises:
            ModelError: none there, not JSON, an unknown architecture, or remote code that was not allowed.
        """
        table = self._json("config.json")
        if not table:
            raise ModelError("There is no config.json.", where=self.name, do="Give a model's folder.")
        try:
            return AutoConfig.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            kind = table.get("model_type")
            if "auto_map" in table and not trust_remote_code:
                raise ModelError(
                    f"The model '{kind}' runs code from its own repository.",
                    where=self.name,
                    do="If you trust it, allow that: trust_remote_code=True, or --trust-remote-code.",
                ) from error
            raise ModelError(
                f"transformers does not know the architecture '{kind}', or its config is wrong.",
                where=self.name,
                do="Update transformers, or choose another model.",
            ) from error

    def need_weights(self) -> None:
        """Raises:
        ModelError: no weight file, or one that the index names is missing.
        """
        if not any(self._files(WEIGHTS)):
            raise ModelError(
                "There are no weights (*.safetensors or *.bin).",
                where=self.name,
                do="Download the model again.",
            )
        shards = set(self._json("model.safetensors.index.json").get("weight_map", {}).values())
        lacking = sorted(shard for shard in shards if not (self.path / shard).is_file())
        if lacking:
            raise ModelError(f"{lacking[0]} is missing.", where=self.name, do="Download the model again.")

    def chat_template(self) -> str | None:
        """The chat template where older folders kept it: with the processor, not with the tokenizer."""
        for file in ("chat_template.json", "processor_config.json"):
            template = self._json(file).get("chat_template")
            if template:
                return str(template)
        return None

    def processor_class(self) -> str | None:
        """The processor that the folder names, if it does."""
        for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
            name = self._json(file).get("processor_class")
            if name:
                return str(name)
        return None

    def revision(self) -> str:
        """The hub's commit, or a digest over names and contents of settings and weights (links followed)."""
        if self.path.parent.name == "snapshots" and _COMMIT.fullmatch(self.path.name):
            return self.path.name
        files = sorted(set(self._files((*SETTINGS, *WEIGHTS))))
        with ThreadPoolExecutor() as pool:
            digests = pool.map(_digest, files)
            together = blake2b(digest_size=20)
            for file, digest in zip(files, digests, strict=True):
                together.update(f"{file.name}\0".encode() + digest)
        return together.hexdigest()

    def _files(self, patterns: tuple[str, ...]) -> list[Path]:
        return [file for pattern in patterns for file in self.path.glob(pattern)]

    def _json(self, file: str) -> dict[str, Any]:
        path = self.path / file
        if not path.is_file():
            return {}
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{file} is not JSON: {error}.", where=self.name, do="Download it again."
            ) from None
        return table if isinstance(table, dict) else {}


def find_folder(name: str | Path) -> Folder:
    """The folder of a model: a shipped one's name, a folder's path, or a hub id (downloaded on first use).

    Raises:
        ModelError: there is none, it is not a folder, or the hub cannot give it.
    """
    text = str(name)
    path = Path(name).expanduser()
    if text in SHIPPED:
        path = SHIPPED[text]
    if path.is_dir():
        return Folder(text, path)
    if path.exists():
        raise ModelError(
            "A model is a folder, this is a file.", where=text, do="Give the folder that holds it."
        )
    if text in SHIPPED:
        raise ModelError(
            "This installation lacks the shipped model.", where=text, do="Install the package again."
        )
    if isinstance(name, str) and _HUB_ID.fullmatch(text) and not text.startswith("."):
        return Folder(text, _download(text))
    near = difflib.get_close_matches(text, SHIPPED, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise ModelError(
        "There is no such model folder.",
        where=text,
        do=f"{hint}Give a folder, a hub id (owner/name), or one of: {', '.join(SHIPPED)}.",
    )


def _download(hub_id: str) -> Path:
    """The snapshot of a hub model; the cached one where the hub cannot be reached."""
    try:
        path = Path(
            snapshot_download(hub_id, allow_patterns=[*SETTINGS, WEIGHTS[0]], ignore_patterns=["*/*"])
        )
        if not any(path.glob(WEIGHTS[0])):
            path = Path(
                snapshot_download(hub_id, allow_patterns=[*SETTINGS, *WEIGHTS], ignore_patterns=["*/*"])
            )
        return path
    except GatedRepoError as error:
        raise ModelError(
            "The hub wants its terms accepted first.",
            where=hub_id,
            do="Accept them there and log in: hf auth login.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "Neither a folder nor a model of the hub.", where=hub_id, do="Check the name."
        ) from error
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise ModelError(
            "There is no such folder, and the hub cannot be reached.",
            where=hub_id,
            do="Check the name and the network, or give a folder.",
        ) from error


def _digest(file: Path) -> bytes:
    digest = blake2b(digest_size=20)
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            digest.update(block)
    return digest.digest()
