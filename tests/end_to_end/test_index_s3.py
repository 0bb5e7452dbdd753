"""An index whose rows lie on S3-compatible storage: made, filled, repaired, searched, opened again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clearsight.data import world
from clearsight.errors import DataError
from clearsight.index import Index
from clearsight.types import Item
from small.servers import s3_server

pytestmark = pytest.mark.services

ADDRESS = "s3://photos/alone/items.lance"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("photos") as endpoint:
        yield endpoint


def items(number: int) -> list[Item]:
    return [
        Item(f"{n:03d}", image=item.image) for n, item in enumerate(world.unlabelled_images(number, seed=5))
    ]


def test_an_index_on_object_storage(tmp_path: Path, s3: str) -> None:
    index = Index.create(tmp_path / "index", address=ADDRESS, repair="realign")
    local = Index.create(tmp_path / "local", index.encoder, repair="realign")
    for one in (index, local):
        added = one.add(items(40), metadata={f"{n:03d}": {"year": 2000 + n} for n in range(40)})
        assert added.new == 40
        one.refit()
    assert not list((tmp_path / "index").glob("*.lance"))  # no row lies here
    asked = {"text": "a red ring above a star", "where": "year > 2009", "top": 5}
    expected = local.search(**asked)
    found = index.search(**asked)
    assert [hit.id for hit in found.hits] == [hit.id for hit in expected.hits]
    np.testing.assert_allclose(
        [hit.score for hit in found.hits], [hit.score for hit in expected.hits], atol=1e-4
    )
    with pytest.raises(DataError, match="holds 40 rows"):
        Index.create(tmp_path / "second", index.encoder, address=ADDRESS)
    assert not (tmp_path / "second" / "index.json").exists()
    again = Index.open(tmp_path / "index", encoder=index.encoder)
    assert again.store.view().repair == index.store.view().repair != ""
    assert [hit.id for hit in again.search(**asked).hits] == [hit.id for hit in expected.hits]
    assert again.thumbnail("003") == local.thumbnail("003")
    assert again.delete(["003", "none"]) == 1
    assert index.store.view().rows == 39
    assert again.add(items(40)).new == 1


def test_another_process_opens_it_by_its_folder(tmp_path: Path, s3: str) -> None:
    index = Index.create(tmp_path / "index", address="s3://photos/other/items.lance", repair="none")
    index.add([Item("a", text="a red ring"), Item("b", text="a blue star")])
    code = (
        "import sys; from clearsight.index import Index; "
        "print(Index.open(sys.argv[1]).search('a red ring', top=1).hits[0].id)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "index")],
        check=True,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert told.stdout.strip() == "a"
