"""An index that is read while others write it: what readers see, and what they hold on to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import killed_worker
import soaking
from clearsight.errors import DataError
from clearsight.store.lance_search import Fragments, exact_best

COMMITS = 40

SLOW_WRITER = """
import time
from dataclasses import dataclass
from pathlib import Path

import soaking
from clearsight.index import Index

@dataclass(frozen=True)
class Slow(soaking.Hashing):
    def embed(self, items, side, **options):
        print("ready", flush=True)
        time.sleep(1)
        return soaking.Hashing.embed(self, items, side, **options)

index = Index.open(Path(sys.argv[1]), encoder=Slow())
index.add([soaking.item_of(f"other {n}", f"other {n}") for n in range(40)])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soaking.make_index(tmp_path / "index")
    return tmp_path / "index"


def put(index, *texts: str) -> None:
    index.add([soaking.item_of(f"i{n}", text) for n, text in enumerate(texts)])


def test_what_a_reader_holds_does_not_grow_with_the_commits(folder, monkeypatch):
    """Neither vectors of versions that have gone, nor open files."""
    from clearsight.store import lance

    monkeypatch.setattr(lance, "SMALL_FILES", 8)
    writer, reader = soaking.open_index(folder), soaking.open_index(folder)
    files = []
    for number in range(COMMITS):
        put(writer, f"a row that stays {number % 2}", f"a row that changes {number}")
        found = reader.search(f"a row that changes {number}")
        assert f"a row that changes {number}" in {hit.text for hit in found.hits}
        files.append(len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0)
    assert len(reader.store._cache) <= 2 * lance.SMALL_FILES
    assert max(files[COMMITS // 2 :]) <= max(files[: COMMITS // 2]) + 2


def test_vectors_of_an_older_version_are_read_again(folder):
    index = soaking.open_index(folder)
    put(index, "a text of the first version")
    first = index.store.view()
    query = soaking.raw_of("a text of the first version")[None]
    before = first.search(query, 1, space="raw", columns=("id", "text"))[0]
    put(index, "a text of the second version")
    assert index.search("a text of the second version").hits[0].score == pytest.approx(1, abs=1e-6)
    after = first.search(query, 1, space="raw", columns=("id", "text"))[0]
    assert before.rows == after.rows
    assert before.score_K == after.score_K == pytest.approx(1, abs=1e-6)


def test_the_cache_keeps_what_a_version_holds(folder):
    index = soaking.open_index(folder)
    cache = Fragments()
    query = soaking.raw_of("x")[None]
    for number in range(4):
        put(index, f"text {number}")
        exact_best(index.store.view().dataset, "raw", None, query, 1, cache)
    assert len(cache) > 1
    cache.keep(index.store.view().dataset)
    assert len(cache) == len(index.store.view().dataset.get_fragments()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the lock's holder cannot be read there")
def test_a_second_writer_waits_and_readers_do_not(folder):
    index = soaking.open_index(folder)
    put(index, "a row that is there")
    with killed_worker.start(SLOW_WRITER, folder) as other:
        with pytest.raises(DataError, match=f"process {other.pid}"), index.writing(wait=0.05):
            pass
        assert index.search("a row that is there").hits[0].text == "a row that is there"
        put(index, "a row of the second writer")
        other.communicate()
    assert other.returncode == 0
    assert index.store.view().rows == 41
    assert index.items(["i0"])[0].text == "a row of the second writer"
