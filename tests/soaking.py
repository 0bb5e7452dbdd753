"""Processes that write and search one index while they are killed; what they were told, and whether it holds.

A warm process forks the workers, so that one starts in milliseconds. Each writes down, synced, what it is
about to do (`begin`) and that it was done (`end`); times are of the machine's monotonic clock, which all
processes share. What a killed worker had begun may have happened or not; everything else is certain.

Texts say which write they come from, and vectors are drawn from texts, so that a row is right or wrong by
itself.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from clearsight.types import Embeddings, Item

WIDTH = 32
PATIENCE = 30.0
SHARED = 12
"""Ids that every writer writes."""


# ---- contents -------------------------------------------------------------------------------------------


def number_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def drawn(content: bytes) -> np.ndarray:
    seed = int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32) + 0.5


@cache
def picture_of(text: str) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(number_of(text)).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictured(text: str) -> bool:
    return number_of(text) % 4 == 0


def item_of(item_id: str, text: str) -> Item:
    return Item(item_id, text=text, image=picture_of(text) if pictured(text) else None)


def raw_of(text: str) -> np.ndarray:
    """The raw vector of the row that holds this text."""
    return drawn(picture_of(text) if pictured(text) else text.encode())


def weight_of(text: str) -> int | None:
    """Metadata of the row; some rows have none."""
    number = number_of(text) // 4
    return number % 100 if number % 3 else None


_LOADED = SimpleNamespace(name="hash", revision="1", kind="contrastive", stock=None, adapter=None)
_TEMPLATE = SimpleNamespace(name="hash", looks_across=False)


@dataclass(frozen=True)
class Hashing:
    """An encoder that draws a vector from an item's bytes."""

    on_error: str = "raise"
    prompt: str = "hash"
    layer: int = -1
    pooling: str = "mean"
    source: str = "hidden"
    max_tokens: int = 1
    image_size: int | None = None
    loaded: Any = field(default_factory=lambda: _LOADED)
    template: Any = field(default_factory=lambda: _TEMPLATE)

    def origin(self) -> dict[str, Any]:
        return {"hash": 1}

    def embed(self, items: Iterable[Item], side: str, **_: Any) -> Embeddings:
        rows = list(items)
        vectors = [drawn(one.image if one.image is not None else one.text.encode()) for one in rows]  # type: ignore
        kinds = np.array([one.modality for one in rows])
        return Embeddings(tuple(one.id for one in rows), np.stack(vectors), np.full(len(rows), side), kinds)


def make_index(folder: Path) -> None:
    """An empty index of such vectors."""
    from clearsight.index.settings import Settings
    from clearsight.store import open_store

    open_store(str(folder / "items.lance"), WIDTH, create=True)
    Settings("hash", "1", WIDTH, vectors={"hash": 1}, repair="centred").write(folder)


def open_index(folder: Path) -> Any:
    from clearsight.index import Index

    return Index.open(folder, encoder=Hashing())  # type: ignore[arg-type]


# ---- journals -------------------------------------------------------------------------------------------


class Journal:
    """Lines of JSON, on the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._file, b"\n")  # ends the line that a killed one left

    def write(self, **what: Any) -> None:
        os.write(self._file, json.dumps(what).encode() + b"\n")
        os.fsync(self._file)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line:
            try:
                yield json.loads(line)
            except ValueError:
                assert not line.endswith(b"}"), line  # torn by a kill


@dataclass(frozen=True)
class Write:
    """One id was given a text, or deleted (None), at some moment between two others; not for sure where
    nobody lived to tell."""

    text: str | None
    begin: int
    latest: int
    sure: bool


# ---- workers --------------------------------------------------------------------------------------------


def small_sizes(*, near: bool) -> None:
    """Merges after few commits, and an approximate index over few rows."""
    from clearsight.store import lance, lance_index

    lance.SMALL_FILES, lance.FULL_FILE_ROWS = 6, 64
    if near:
        lance_index.INDEX_ROWS = lance_index.LEAST_ROWS = 32


def writer(folder: Path, journal: Journal, name: str, draw: random.Random) -> Iterator[None]:
    """Adds, replaces and deletes its own ids, and those of all."""
    from clearsight.errors import DataError

    index = open_index(folder)
    life = f"{time.monotonic_ns():x}"
    number = 0
    while True:
        number += 1
        ids = [f"{name}-{draw.randrange(60)}" for _ in range(draw.randint(1, 8))]
        ids += [f"shared-{draw.randrange(SHARED)}"] * (draw.random() < 0.4)
        ids = list(dict.fromkeys(ids))
        remove = draw.random() < 0.25
        texts = {one: None if remove else f"{one} by {name} {life} {number}" for one in ids}
        journal.write(begin=time.monotonic_ns(), number=number, life=life, texts=texts)
        try:
            if remove:
                index.delete(ids)
            else:
                told = {one: {"weight": weight_of(text)} for one, text in texts.items() if text}
                items = [item_of(one, text) for one, text in texts.items() if text]
                index.add(items, metadata=told)
        except DataError as fault:  # another one writes for too long: nothing was done
            if "is being written by" not in str(fault):
                raise
            journal.write(refused=time.monotonic_ns(), number=number, life=life)
            yield
            continue
        journal.write(end=time.monotonic_ns(), number=number, life=life)
        yield


def refitter(folder: Path, journal: Journal, name: str, draw: random.Random) -> Iterator[None]:
    """Fits the repair again and again, which rewrites every vector."""
    from clearsight.errors import DataError

    index = open_index(folder)
    while True:
        if index.store.view().rows >= 32:
            try:
                index.refit("centred")
                journal.write(refitted=index.store.view().repair)
            except DataError as fault:
                if "is being written by" not in str(fault):
                    raise
        time.sleep(draw.uniform(0.05, 0.8))
        yield


def searcher(folder: Path, journal: Journal, name: str, draw: random.Random) -> Iterator[None]:
    """Searches, and looks at what it finds; one index object, which must see what others commit."""
    from clearsight.errors import DataError
    from clearsight.index import Query

    index = open_index(folder)
    version = 0
    while True:
        before = time.monotonic_ns()
        space = draw.choice(["raw", "repaired"])
        where = draw.choice([None, None, "weight >= 50"])
        if where and "weight" not in index.store.view().fields:
            where = None
        words = f"words {draw.randrange(1000)}"
        found = index.search(Query(words, top=10, space=space, where=where))
        after = time.monotonic_ns()
        assert found.version >= version, f"version {found.version} after {version}"
        version = found.version
        check_hits(index, found, words)
        lost = []
        there = {hit.id for hit in index.items([hit.id for hit in found.hits])}
        for hit in found.hits:
            try:
                small = index.thumbnail(hit.id)
                assert small is None or small[:2] == b"\xff\xd8"
            except DataError:
                lost.append(hit.id)
        lost += [hit.id for hit in found.hits if hit.id not in there]
        hits = {hit.id: hit.text for hit in found.hits}
        with_where = where is not None
        journal.write(
            before=before,
            after=after,
            looked=time.monotonic_ns(),
            hits=hits,
            lost=lost,
            filtered=with_where,
            rows=found.rows,
        )
        yield


def check_hits(index: Any, found: Any, words: str) -> None:
    """Scores are those of the texts, under the repair that the answer names."""
    ids = [hit.id for hit in found.hits]
    assert len(set(ids)) == len(ids), ids
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert found.rows == 0 or found.hits or found.query.where, "nothing was found"
    fitted = index.fitted(found.repair)
    query = fitted(drawn(words.encode())[None], "text", "query")[0]
    for hit in found.hits:
        assert hit.text.startswith(f"{hit.id} by "), (hit.id, hit.text)
        assert hit.metadata.get("weight") == weight_of(hit.text), hit
        assert hit.modality == ("image" if pictured(hit.text) else "text"), hit
        assert not found.query.where or hit.metadata["weight"] >= 50, hit
        row = fitted(raw_of(hit.text)[None], hit.modality, "candidate")[0]
        assert abs(float(row @ query) - hit.score) < 1e-4, (hit, float(row @ query), found.repair)


ROLES = {"writer": writer, "refitter": refitter, "searcher": searcher}


def work(role: str, name: str, folder: Path, seed: int, end: float, near: bool) -> None:
    """A worker, in the process that was forked for it."""
    small_sizes(near=near)
    journal = Journal(folder.parent / f"{name}.journal")
    journal.write(born=time.monotonic_ns())
    parent = os.getppid()
    faulthandler.dump_traceback_later(PATIENCE)  # where it waits; of a thread that runs a dump may crash
    for _ in ROLES[role](folder, journal, name, random.Random(seed)):
        faulthandler.dump_traceback_later(PATIENCE)
        if time.monotonic() > end or os.getppid() != parent:
            return


# ---- the process that forks them ------------------------------------------------------------------------


WARM = (
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "lance.optimize",
    "clearsight.index.index",
    "clearsight.index.facts",
    "clearsight.index.refitting",
    "clearsight.store.lance",
    "clearsight.store.lance_index",
    "clearsight.store.where",
)
"""What workers need: loaded once, used by none before the fork (a Lance that has begun to work does not
survive one)."""


def nursery() -> None:
    """Forks a worker for each line of JSON it reads; answers with a process number, or a status."""
    for module in WARM:
        importlib.import_module(module)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "kill" in asked:
            number, status = os.waitpid(asked["kill"], os.WNOHANG)
            if number == 0:
                os.kill(asked["kill"], signal.SIGKILL)
                number, status = os.waitpid(asked["kill"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif "wait" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        else:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    sys.stdin.close()
                    work(**{**asked, "folder": Path(asked["folder"])})
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            print(child, flush=True)


class Nursery:
    """`nursery` in a process of its own."""

    def __init__(self, errors: Path) -> None:
        paths = [str(path) for path in sys.path if path]
        code = f"import sys; sys.path[:0] = {paths!r}\nimport soaking; soaking.nursery()"
        self._errors = errors.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", errors.read_text()

    def ask(self, **what: Any) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(what) + "\n")
        stdin.flush()
        return int(stdout.readline())

    def close(self) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.close()
        self._process.wait(60)
        stdout.close()
        self._errors.close()


# ---- afterwards -----------------------------------------------------------------------------------------


def history(journals: Iterable[Path]) -> dict[str, list[Write]]:
    """Id -> everything that was written to it, or may have been."""
    found: dict[str, list[Write]] = {}
    for path in journals:
        begun: dict[tuple[str, int], dict[str, Any]] = {}
        open_life: list[tuple[str, int]] = []
        for line in lines_of(path):
            key = (line.get("life", ""), line.get("number", 0))
            if "born" in line:  # what the life before had begun has happened, or never will
                for one in open_life:
                    begun[one]["latest"] = line["born"]
                open_life = []
            elif "begin" in line:
                begun[key] = {**line, "latest": sys.maxsize, "sure": False}
                open_life = [key]
            elif "end" in line:
                begun[key] |= {"latest": line["end"], "sure": True}
                open_life = []
            elif "refused" in line:
                del begun[key]
                open_life = []
        for line in begun.values():
            for item_id, text in line["texts"].items():
                write = Write(text, line["begin"], line["latest"], line["sure"])
                found.setdefault(item_id, [Write(None, 0, 0, True)]).append(write)
    return found


def possible(writes: Iterable[Write], since: int, until: int) -> set[str | None]:
    """What an id may have held at some moment from `since` to `until`: what was begun before, and was not
    replaced for certain by then."""
    known = list(writes)
    sure = [one for one in known if one.sure and one.latest < since]
    replaced = max((one.begin for one in sure), default=-1)
    return {one.text for one in known if one.begin <= until and one.latest >= replaced}


def check_answers(path: Path, writes: dict[str, list[Write]]) -> int:
    """Everything that a search gave was there when it ran. Returns how many searches there were."""
    number = 0
    for line in lines_of(path):
        if "hits" not in line:
            continue
        number += 1
        for item_id, text in line["hits"].items():
            held = possible(writes[item_id], line["before"], line["after"])
            assert text in held, (item_id, text, held)
        for item_id in line["lost"]:
            held = possible(writes[item_id], line["before"], line["looked"])
            assert None in held, f"{item_id} was found, never deleted, and cannot be shown"
    return number


def check_rows(folder: Path, writes: dict[str, list[Write]]) -> int:
    """Every row is what was written last, and nothing else is there. Returns how many there are."""
    from clearsight.store.columns import matrix

    now = time.monotonic_ns()
    index = open_index(folder)
    view = index.store.view()
    fitted = index.fitted(view.repair)
    texts: dict[str, str] = {}
    columns = ["id", "text", "modality", "thumbnail", "raw", "vector"]
    columns += ["meta_weight"] if "weight" in view.fields else []
    for batch in view.read(columns):
        vectors = (matrix(batch.column(name)) for name in ("raw", "vector"))
        for row, raw, vector in zip(batch.to_pylist(), *vectors, strict=True):
            assert row["id"] not in texts, f"{row['id']} is there twice"
            texts[row["id"]] = row["text"]
            assert (raw == raw_of(row["text"])).all(), row["id"]
            expected = fitted(raw[None], row["modality"], "candidate")[0]
            np.testing.assert_allclose(vector, expected, atol=1e-5, err_msg=f"not of {view.repair}")
            assert (row["thumbnail"] is not None) == pictured(row["text"]), row["id"]
            assert row.get("meta_weight") == weight_of(row["text"]), row["id"]
    assert len(texts) == view.rows
    assert texts.keys() <= writes.keys()
    for item_id, known in writes.items():
        held = possible(known, now, now)
        assert texts.get(item_id) in held, (item_id, texts.get(item_id), held)
    for item_id, text in list(texts.items())[:20]:
        best = view.search(raw_of(text)[None], 1, space="raw", exact=True)[0]
        assert best.rows["id"].to_pylist() == [item_id]
    return len(texts)
