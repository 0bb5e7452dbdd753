"""`clearsight index` under kill -9 and on a disk that fills: called again it takes what is left, and comes to
the same index."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.cli import main
from clearsight.errors import DataError
from clearsight.index import Index
from clearsight.index.captions import FILE as CAPTIONS
from clearsight.index.captions import CaptionLog
from clearsight.index.places import OWN_FOLDER, make_room
from clearsight.index.statistics import matrix
from small.collection import write_collection

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
PICTURES = 90


@dataclass(frozen=True)
class State:
    """What is on the disk: rows by id, captions by content, and the repair in force."""

    raw: dict[str, Any]
    vector: dict[str, Any]
    captions: Counter[str]
    repair: str


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill") / "photos"
    folder.mkdir()
    write_collection(folder, PICTURES)
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(1_600_000_000_123_456_789,) * 2)
    return folder


@pytest.fixture(scope="module")
def undisturbed(photos: Path) -> State:
    folder = shutil.copytree(photos, photos.with_name("undisturbed"))
    assert main(["index", str(folder)]) == 0
    return state(folder)


def state(folder: Path) -> State:
    place = folder / OWN_FOLDER
    raw: dict[str, Any] = {}
    vector: dict[str, Any] = {}
    repair = ""
    if (place / "index.json").exists():
        view = Index.open(folder).store.view()
        repair = view.repair
        for batch in view.read(["id", "raw", "vector"]):
            for name, *rows in zip(
                batch.column("id").to_pylist(), *map(matrix, batch.columns[1:]), strict=True
            ):
                assert name not in raw, "a row is there twice"
                raw[name], vector[name] = rows
    log = place / CAPTIONS
    lines = log.read_text(encoding="utf-8").split("\n")[1:-1] if log.exists() else []
    return State(raw, vector, Counter(json.loads(line)["key"] for line in lines), repair)


def same(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Vectors of the same items; those known of `given` alone are compared."""
    assert given.keys() <= expected.keys()
    for name, row in given.items():
        np.testing.assert_allclose(row, expected[name], atol=2e-3 * np.linalg.norm(expected[name]))


def command(folder: Path, told: Path) -> None:
    """`clearsight index FOLDER --json`, whose answer goes to a file."""
    with told.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        code = main(["index", str(folder), "--json"])
    sys.exit(code)


def forked(folder: Path, told: Path) -> Any:
    """The command in a process that has the libraries' code already, so that it begins at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "clearsight.models.encoder", "sklearn"])
    process = context.Process(target=command, args=(folder, told))
    process.start()
    return process


def killed(process: Any, moment: Callable[[], bool], delay: float) -> None:
    """End a process so long after it came to a moment."""
    end = time.monotonic() + 300
    while not moment():
        assert process.is_alive(), "it ended before the moment"
        assert time.monotonic() < end, "the moment did not come"
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()


def commits(place: Path) -> int:
    return len(list(place.glob("items.lance/_versions/*.manifest")))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "making": lambda place: (place / ".writer").exists(),
    "embedding": lambda place: commits(place) > 1,
    "captioning": lambda place: (place / CAPTIONS).exists() and (place / CAPTIONS).stat().st_size > 1000,
    "rewriting": lambda place: (place / "repairs").is_dir() and any((place / "repairs").iterdir()),
}


def test_killed_at_every_stage(photos: Path, undisturbed: State, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    place, told = folder / OWN_FOLDER, tmp_path / "told.json"
    random = np.random.default_rng()  # a new moment every time: the law holds at all of them
    before = state(folder)
    for moment in MOMENTS.values():
        killed(forked(folder, told), lambda moment=moment: moment(place), random.uniform(0, 0.02))
        now = state(folder)
        assert before.raw.keys() <= now.raw.keys(), "what was committed has gone"
        same(now.raw, undisturbed.raw)
        assert before.captions <= now.captions
        assert set(now.captions.values()) <= {1}, "a picture was captioned twice"
        before = now
    assert before.captions == undisturbed.captions
    process = forked(folder, told)
    process.join()
    assert process.exitcode == 0
    answer = json.loads(told.read_text(encoding="utf-8"))
    assert (answer["new"], answer["same"]) == (PICTURES - len(before.raw), len(before.raw))
    finished(folder, undisturbed)


def finished(folder: Path, undisturbed: State) -> None:
    """The index is what it would have been; nothing is in the way, and nothing is left to do."""
    after = state(folder)
    assert after.raw.keys() == undisturbed.raw.keys()
    same(after.raw, undisturbed.raw)
    same(after.vector, undisturbed.vector)
    assert after.captions == undisturbed.captions
    assert not list((folder / OWN_FOLDER).rglob("*.tmp"))
    assert main(["index", str(folder)]) == 0
    assert state(folder).repair == after.repair


@contextlib.contextmanager
def full(most: int) -> Iterator[None]:
    """No file grows beyond so many bytes: a write fails as on a disk that is full."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills(photos: Path, undisturbed: State, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")

    def refused(most: int) -> str:
        said = io.StringIO()  # no file, which would be full too
        with full(most), contextlib.redirect_stderr(said):
            assert main(["index", str(folder)]) == DataError.exit_code
        assert "Traceback" not in said.getvalue()
        assert "  where: " in said.getvalue()
        assert "  do: " in said.getvalue()
        return said.getvalue()

    assert "The table cannot be opened" in refused(300)
    assert "The table cannot be written" in refused(30_000)
    assert not state(folder).raw
    rows = [0]
    while "The table cannot be written" in (said := refused(250_000)):  # each time the first chunk has room
        rows.append(len(state(folder).raw))
        assert rows[-1] > rows[-2]
    assert "The repair cannot be written" in said
    now = state(folder)
    assert (len(now.raw), now.captions, now.repair) == (PICTURES, undisturbed.captions, "")
    assert main(["index", str(folder)]) == 0
    finished(folder, undisturbed)


def test_captions_on_a_disk_that_fills(tmp_path: Path) -> None:
    writer = {"revision": "1"}
    CaptionLog(tmp_path, writer).add({"a": "a red star"})
    with full(100), pytest.raises(DataError, match="cannot be written"):
        CaptionLog(tmp_path, writer).add({"b": "x" * 200})
    again = CaptionLog(tmp_path, writer)
    assert again.texts == {"a": "a red star"}
    again.add({"b": "a ring"})
    assert CaptionLog(tmp_path, writer).texts == {"a": "a red star", "b": "a ring"}


def test_what_a_kill_left_is_made_room_of(tmp_path: Path) -> None:
    place = tmp_path / "index"
    for name in (".writer", ".index.json.0123.tmp", "captions.jsonl"):
        place.mkdir(exist_ok=True)
        (place / name).write_text("x", encoding="utf-8")
    for name in ("items.lance", "map"):
        (place / name).mkdir()
    make_room(place, overwrite=False)
    assert {one.name for one in place.iterdir()} == {".writer", "items.lance"}, "rows go when told alone"
    make_room(place, overwrite=True)
    assert {one.name for one in place.iterdir()} == {".writer"}
    (place / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="other things"):
        make_room(place, overwrite=True)
    (place / "index.json").write_text("{}", encoding="utf-8")
    make_room(place, overwrite=True)
    assert {one.name for one in place.iterdir()} == {".writer", "letter.txt"}, "what is not ours stays"


def test_a_folder_of_somebody_s_own_is_no_rest_of_an_index(tmp_path: Path) -> None:
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "alps.png").write_bytes(b"mine")
    with pytest.raises(DataError, match="other things"):
        make_room(tmp_path, overwrite=True)
    assert (tmp_path / "map" / "alps.png").read_bytes() == b"mine"
