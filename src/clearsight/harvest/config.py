"""What a harvest is: its settings, its names for token types, and the manifest by which a folder knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch

from clearsight.errors import DataError, UsageError
from clearsight.files import to_json, to_plain, write_atomic
from clearsight.pooling import IMAGE, PROMPT, TEXT

TokenType: TypeAlias = Literal["prompt", "text", "image", "special"]

SPECIAL = 3
"""A control token of the model (bos, turn marks, marks around an image): to poolings it is a prompt token."""

TOKEN_TYPES: Mapping[str, int] = {"prompt": PROMPT, "text": TEXT, "image": IMAGE, "special": SPECIAL}
"""Name -> code of a token's type: words of the template, words of the item (its instruction too), features
of its image, control tokens."""

DTYPES: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}

MANIFEST = "manifest.json"
FORMAT = "clearsight harvest 1"
"""Raised when the layout of shards or manifest changes."""


@dataclass(frozen=True)
class HarvestConfig:
    """How activations are cut and kept. A folder holds the harvest of one config.

    The items are harvested in a random order (`seed`), a part of them at a time: the first shards are then a
    sample of all of them, whatever order they were given in, and training may begin on these. A part is also
    what a killed harvest does again.
    """

    dtype: Annotated[
        Literal["bfloat16", "float32"], "of the rows on disk; bfloat16 halves the space, 0.4% rounding"
    ] = "bfloat16"
    shard_bytes: Annotated[int, "most bytes of rows in one file"] = 256 << 20
    part_items: Annotated[int, "items that are harvested together; the unit of resuming"] = 256
    seed: Annotated[int, "of the order in which items are harvested"] = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(
                f"Rows cannot be kept as '{self.dtype}'.",
                where="dtype",
                do=f"There are: {', '.join(DTYPES)}.",
            )
        for name in ("shard_bytes", "part_items"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}.", where=name, do="Give at least 1.")

    def shard_rows(self, width: int) -> int:
        """Most rows of one shard; at least one."""
        return max(1, self.shard_bytes // (width * DTYPES[self.dtype].itemsize))


def type_codes(names: object) -> frozenset[int]:
    """Codes of token types by name.

    Raises:
        UsageError: an unknown name, or none at all.
    """
    chosen = [names] if isinstance(names, str) else list(names)  # type: ignore[call-overload]
    unknown = [name for name in chosen if name not in TOKEN_TYPES]
    if unknown or not chosen:
        what = f"There is no token type '{unknown[0]}'." if unknown else "No token type is chosen."
        raise UsageError(what, where="token_types", do=f"There are: {', '.join(TOKEN_TYPES)}.")
    return frozenset(TOKEN_TYPES[name] for name in chosen)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the folder says that it holds; None where it holds no harvest.

    Raises:
        DataError: the manifest cannot be read, or is of another format.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"The manifest cannot be read ({error}).", where=str(path), do="Harvest into another folder."
        ) from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DataError(
            f"The manifest is of format {found!r}, this version reads {FORMAT!r}.",
            where=str(path),
            do="Harvest again, or use the version of Clearsight that wrote it.",
        )
    return dict(manifest)


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the folder this harvest's, or see that it already is.

    Raises:
        UsageError: it holds another harvest; the message names what differs.
        DataError: its manifest cannot be read or written, or is missing beside shards.
    """
    wanted = to_plain({"format": FORMAT, **manifest})
    found = read_manifest(folder)
    if found is None:
        if folder.is_dir() and any(folder.glob("shard-*.safetensors")):
            raise DataError(
                "The folder holds shards without a manifest.", where=str(folder), do="Give another folder."
            )
        write_or_say(folder / MANIFEST, to_json(wanted))
        return
    differences = _differences(found, wanted)
    if differences:
        raise UsageError(
            f"The folder holds another harvest: {'; '.join(differences[:6])}.",
            where=str(folder),
            do="Give another folder for this one.",
        )


def write_or_say(path: Path, data: bytes) -> None:
    """`write_atomic`, with what to do where the disk refuses.

    Raises:
        DataError: no space, no permission, a limit on the size of files.
    """
    try:
        write_atomic(path, data)
    except OSError as error:
        raise DataError(
            f"{len(data)} bytes cannot be written ({error.strerror or error}).",
            where=str(path),
            do="Make room (or allow larger files) and call again: what is written is kept, the rest follows.",
        ) from error


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if found == wanted else [f"{name} is {found!r} there and {wanted!r} here"]
