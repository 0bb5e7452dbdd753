"""`clearsight index` and `clearsight search` as people call them, on the shipped model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from clearsight.cli import SOME_SKIPPED, main
from clearsight.errors import DataError, ItemError, UsageError
from clearsight.index import Index, Query
from clearsight.models.encoder import Encoder
from clearsight.types import Item
from small.collection import write_collection

PICTURES = 60
Folder = tuple[Path, dict[str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = tmp_path_factory.mktemp("photos")
    captions = write_collection(folder, PICTURES)
    for path in folder.rglob("*.png"):
        os.utime(path, ns=(1_600_000_000_123_456_789,) * 2)
    first = next(iter(captions))
    (folder / "metadata.csv").write_text(f"file_name,year,place\n{first},2021,Bern\n", encoding="utf-8")
    assert main(["index", str(folder)]) == 0
    return folder, captions


def told(capsys: pytest.CaptureFixture[str], *tokens: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*tokens, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_repair_finds_what_the_model_alone_does_not(photos: Folder) -> None:
    folder, captions = photos
    with Index.open(folder) as index:
        rate = {}
        for space in ("raw", "repaired"):
            results = index.search_many([Query(text, space=space) for text in captions.values()])  # type: ignore[arg-type]
            found = [one.hits[0].id == name for one, name in zip(results, captions, strict=True)]
            rate[space] = sum(found) / len(found)
        assert rate["repaired"] > rate["raw"] + 0.3
        assert rate["repaired"] > 0.6
        facts = index.info()
        assert facts["repaired"]["in_force"] == "self_aligned"
        assert facts["geometry"]["after"]["anisotropy"] < facts["geometry"]["before"]["anisotropy"]


def test_a_second_run_takes_only_what_is_new_changed_or_gone(
    photos: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, captions = photos
    embedded: list[str] = []
    real = Encoder.embed

    def counting(self: Encoder, items: Any, *rest: Any, **more: Any) -> Any:
        embedded.extend(item.id for item in items)
        return real(self, items, *rest, **more)

    monkeypatch.setattr(Encoder, "embed", counting)
    same = told(capsys, "index", str(folder))
    assert (same["new"], same["changed"], same["gone"], same["same"]) == (0, 0, 0, PICTURES)
    assert same["repaired"] is None
    assert not embedded
    names = list(captions)
    kept = {name: (folder / name).read_bytes() for name in names[:2]}
    (folder / names[0]).write_bytes((folder / names[1]).read_bytes())
    (folder / names[1]).unlink()
    (folder / "new.txt").write_text("a note about a red star", encoding="utf-8")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    changed = told(capsys, "index", str(folder), code=SOME_SKIPPED)
    assert (changed["new"], changed["changed"], changed["gone"]) == (1, 1, 1)
    assert set(changed["skipped"]) == {"broken.jpg"}
    assert embedded == ["new.txt", "broken.jpg"] or embedded == ["broken.jpg", "new.txt"]
    assert (
        told(capsys, "search", "red star note", "--index", str(folder), "--where", "modality = 'text'")[
            "hits"
        ][0]["id"]
        == "new.txt"
    )
    capsys.readouterr()
    assert main(["index", str(folder), "--on-error", "raise"]) == ItemError.exit_code
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    for name in ("new.txt", "broken.jpg"):
        (folder / name).unlink()
    assert told(capsys, "index", str(folder))["rows"] == PICTURES


def test_few_notes_among_pictures_leave_queries_to_the_captions(photos: Folder, tmp_path: Path) -> None:
    folder, captions = shutil.copytree(photos[0], tmp_path / "photos"), photos[1]

    def rate(index: Index) -> float:
        index.refit("realign")
        asked = [Query(text, where="modality = 'image'", top=1) for text in captions.values()]
        results = index.search_many(asked)
        return sum(one.hits[0].id == name for one, name in zip(results, captions, strict=True)) / PICTURES

    with Index.open(folder) as index:
        alone = rate(index)
        index.add(Item(f"note {n}", f"On the {n}th we spoke about the garden.") for n in range(PICTURES // 2))
        assert rate(index) > alone - 0.05


def test_search_as_json_and_as_a_table(
    photos: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, captions = photos
    name, caption = next(iter(captions.items()))
    monkeypatch.chdir(folder)
    answer = told(capsys, "search", caption, "--image", name, "--top", "3")
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert answer["hits"][0]["id"] == name
    assert answer["hits"][0]["metadata"] == {"year": 2021, "place": "Bern"}
    assert main(["search", caption, "--where", "year > 2020 and place = 'Bern'"]) == 0
    shown = capsys.readouterr().out
    assert name.split(" ")[0] in shown
    assert "2021" in shown
    judged = told(capsys, "search", caption, "--rerank", "likelihood", "--rerank-top", "5", "--top", "5")
    fine = [hit["fine"] for hit in judged["hits"]]
    assert fine == sorted(fine, reverse=True)
    raw = told(capsys, "search", "--like", name, "--raw", "--top", "2")
    assert (raw["repair"], len(raw["hits"])) == ("", 2)
    assert name not in [hit["id"] for hit in raw["hits"]]
    assert main(["index", "info", "."]) == 0
    assert "self_aligned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "code", "words"),
    [
        (["search", "x", "--top", "0"], UsageError.exit_code, "1 to 10,000"),
        (["search", "x", "--where", "year >"], UsageError.exit_code, "where: year >\n              ^\n"),
        (["search"], UsageError.exit_code, "empty"),
        (["search", "--image", "nothing.png"], ItemError.exit_code, "does not exist"),
        (["search", "x", "--index", "no/where"], DataError.exit_code, "clearsight index"),
        (["search", "x", "--rerank", "likelyhood"], UsageError.exit_code, "likelihood"),
        (["index", ".", "--model", "tiny-contrastive"], DataError.exit_code, "--overwrite"),
        (["index", ".", "--embed", "text"], UsageError.exit_code, "--overwrite"),
        (["index", ".", "--columns", "text"], UsageError.exit_code, "FIELD=COLUMN"),
    ],
)
def test_refusals(
    photos: Folder,
    tokens: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos[0])
    assert main(tokens) == code
    assert words in capsys.readouterr().err


def test_an_empty_folder_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(tmp_path)]) == DataError.exit_code
    assert "nothing to index" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
