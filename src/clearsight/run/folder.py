"""A Run is a folder that says what was done, with what, and what came of it.

    manifest.json    versions, command, config, seeds, machine, times, status, warnings, skipped items
    scores.json      every score, with the values of its queries
    rankings/*.trec  TREC run files: "query Q0 candidate rank score tag"
    qrels.trec       TREC relevance file: "query 0 candidate grade"

Every file is written whole or not at all, so a killed run leaves no broken file behind.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight import __version__
from clearsight.errors import DataError, UsageError
from clearsight.files import to_json, to_plain, write_atomic
from clearsight.run.environment import environment
from clearsight.run.trec import qrels_lines, ranking_lines, read_trec
from clearsight.types import Ranking, Relevance, Score

MANIFEST = "manifest.json"
KIND = "clearsight-run"


class Run:
    """A run's folder, open for writing (`create`) or reading (`open`).

    As a context manager it ends as "complete", or as "interrupted" if an exception passes through.

    Attributes:
        folder: where it lies.
        manifest: what is known of the run; saved with every file and at the end.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        job: str,
        config: object,
        seed: int | None = None,
        *,
        overwrite: bool = False,
    ) -> Run:
        """Begin a run in a new or empty folder.

        Args:
            job: name of the job, such as "evaluate".
            config: a mapping or a dataclass of plain values.
            seed: the seed all others come from.
            overwrite: replace the run that lies there: the files it wrote are removed, others are left.

        Raises:
            UsageError: the folder holds something that is not a run, or a run and `overwrite` is off.
        """
        place = Path(folder)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            _clear(place, overwrite)
        manifest = {
            "kind": KIND,
            "clearsight": __version__,
            "job": job,
            "status": "running",
            "started": _now(),
            "finished": None,
            "command": _command(),
            "config": to_plain(config),
            "seeds": {"run": seed},
            "environment": environment(),
            "warnings": [],
            "skipped": [],
            "files": [],
        }
        run = cls(place, manifest)
        try:
            run.save()
        except KeyboardInterrupt:  # while the folder is synced: the manifest is there already
            run.finish("interrupted")
            raise
        return run

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """A run that was written before.

        Raises:
            DataError: there is no readable manifest of a run.
        """
        place = Path(folder)
        manifest = _read_manifest(place)
        if manifest is None:
            raise DataError(f"No run lies in '{place}'.", where=MANIFEST, do="Give the folder of a run.")
        return cls(place, manifest)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("complete" if kind is None else "interrupted")

    @property
    def command(self) -> str:
        return str(self.manifest["command"])

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest: the model and its revision, seeds drawn, prompts."""
        for name, value in facts.items():
            known, plain = self.manifest.get(name), to_plain(value)
            self.manifest[name] = (
                {**known, **plain} if isinstance(known, dict) and isinstance(plain, dict) else plain
            )

    def warn(self, message: str) -> None:
        self.manifest["warnings"].append(message)

    def skip(self, item_id: str, reason: str) -> None:
        """Note an item that was left out, and why."""
        self.manifest["skipped"].append({"id": item_id, "reason": reason})

    def finish(self, status: str = "complete") -> None:
        self.manifest.update(status=status, finished=_now())
        self.save()

    def save(self) -> None:
        write_atomic(self.folder / MANIFEST, to_json(self.manifest))

    def path(self, name: str) -> Path:
        """Where a file or folder of this run lies, for one that is written by others; what holds it is made.

        Raises:
            UsageError: the name leads out of the folder.
        """
        parts = Path(name).parts
        if not parts or Path(name).is_absolute() or ".." in parts or Path(name) == Path(MANIFEST):
            raise UsageError(
                f"'{name}' cannot be a file of a run.", do="Give a relative name within the folder."
            )
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        known = Path(name).as_posix()
        if known not in self.manifest["files"]:
            self.manifest["files"].append(known)
        return place

    def write_bytes(self, name: str, data: bytes) -> Path:
        path = self.path(name)
        self.save()  # first: a run killed in between still knows the file as its own
        write_atomic(path, data)
        return path

    def write_text(self, name: str, text: str) -> Path:
        return self.write_bytes(name, text.encode("utf-8", "backslashreplace"))

    def write_json(self, name: str, value: Any) -> Path:
        """Dataclasses, arrays, paths and tuples become plain JSON; NaN and infinity become null."""
        return self.write_bytes(name, to_json(value))

    def write_tensors(
        self, name: str, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Arrays as safetensors."""
        from safetensors.numpy import save

        whole = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
        return self.write_bytes(name, save(whole, metadata=dict(metadata) if metadata else None))

    def write_scores(self, scores: Mapping[str, Mapping[str, Score]]) -> Path:
        """scores.json: ranking's name -> measure -> Score, the values of every query included."""
        return self.write_json("scores.json", scores)

    def read_scores(self) -> dict[str, dict[str, Score]]:
        """What `write_scores` wrote.

        Raises:
            DataError: scores.json is missing or was not written by `write_scores`.
        """
        try:
            table = json.loads((self.folder / "scores.json").read_bytes())
            return {
                name: {measure: _score_from_plain(value) for measure, value in scores.items()}
                for name, scores in table.items()
            }
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as fault:
            raise DataError(
                f"The run's scores cannot be read ({fault}).",
                where=str(self.folder / "scores.json"),
                do="Run the job again.",
            ) from fault

    def write_ranking(self, name: str, ranking: Ranking) -> Path:
        """A TREC run file; `name` such as "rankings/base.trec"."""
        return self.write_text(name, "".join(ranking_lines(ranking)))

    def write_qrels(self, name: str, relevance: Relevance) -> Path:
        """A TREC relevance file; `name` such as "qrels.trec"."""
        return self.write_text(name, "".join(qrels_lines(relevance)))

    def read_trec(self, name: str) -> dict[str, dict[str, float]]:
        """query id -> candidate id -> score or grade; see `clearsight.run.read_trec`."""
        return read_trec(self.folder / name)


def _score_from_plain(value: Mapping[str, Any]) -> Score:
    known: dict[str, Any] = {name: float("nan") if given is None else given for name, given in value.items()}
    known["values_Q"] = np.array([np.nan if v is None else v for v in value["values_Q"]], dtype=np.float64)
    return Score(**known)


def _command() -> str:
    """The command line, without the folders of the machine it ran on."""
    program = Path(sys.argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return " ".join([name, *map(shlex.quote, sys.argv[1:])])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("kind") == KIND else None


def _clear(folder: Path, overwrite: bool) -> None:
    manifest = _read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        raise UsageError(
            f"'{folder}' holds something that is not a run.",
            where=str(folder),
            do="Choose a new or empty folder.",
        )
    # The same command begins an interrupted run again: its work lies in caches, its folder is half a run.
    if not overwrite and manifest.get("status") != "interrupted":
        raise UsageError(
            f"A run already lies in '{folder}' ({manifest.get('status')}, {manifest.get('started')}).",
            where=str(folder),
            do="Choose another folder, or allow overwriting (--overwrite).",
        )
    for name in manifest.get("files", []):
        path = folder / name
        if folder.resolve() in path.resolve().parents:  # a manifest edited by hand must not reach outside
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
