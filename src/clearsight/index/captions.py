"""Captions that the model wrote for pictures of a collection, kept as they are written: none twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from clearsight.errors import DataError

FILE = "captions.jsonl"


class CaptionLog:
    """Content key -> caption, in a file of one line each; the first line says who wrote them and how.

    A line that a kill cut short is passed over.

    Args:
        writer: what the captions depend on; a file of another writer is begun anew.

    Raises:
        DataError: the file cannot be read or written.
    """

    def __init__(self, folder: Path, writer: Mapping[str, str]) -> None:
        self._file = folder / FILE
        self.texts: dict[str, str] = {}
        head = json.dumps({"captions": 1, **writer}, sort_keys=True)
        try:
            lines = self._file.read_bytes().split(b"\n") if self._file.exists() else []
        except OSError as fault:
            raise self._refused("read", fault) from fault
        if not lines or lines[0] != head.encode():
            self._write("wb", head + "\n")
        else:
            for line in lines[1:-1]:  # after the last line break there is nothing, or half a line
                try:
                    said = json.loads(line)
                    self.texts[said["key"]] = said["text"]
                except (ValueError, KeyError, TypeError):
                    continue
            if lines[-1]:
                self._write("ab", "\n")

    def add(self, texts: Mapping[str, str]) -> None:
        """Keep captions; they are on the disk when this returns."""
        words = [json.dumps({"key": key, "text": text}, ensure_ascii=False) for key, text in texts.items()]
        if words:
            self._write("ab", "\n".join(words) + "\n")
            self.texts.update(texts)

    def _write(self, mode: str, text: str) -> None:
        try:
            with open(self._file, mode) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            raise self._refused("written", fault) from fault

    def _refused(self, verb: str, fault: OSError) -> DataError:
        what = f"The captions cannot be {verb} ({fault.strerror})."
        return DataError(
            what, where=str(self._file), do="Check space and permissions; what is there is kept."
        )
