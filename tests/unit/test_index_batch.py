"""One batch of an index: as many rows out as in, each as an item alone would give it, whatever else fails."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clearsight.data.content import content_key
from clearsight.errors import DataError
from clearsight.index import model
from clearsight.index.batch import BatchSettings, EmbedBatch, entries_of, items_table
from clearsight.index.fitted import Fitted
from clearsight.index.folder import Entry
from clearsight.index.settings import Settings
from clearsight.models.encoder import Encoder
from clearsight.repair import PerGroup, ShrinkageZCA
from clearsight.repair.affine import unit_rows
from clearsight.store.columns import matrix, normal_rows
from clearsight.store.door import COLUMNS
from clearsight.types import Embeddings, Item


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return model.encoder_of("tiny")


@pytest.fixture(scope="module")
def settings(encoder: Encoder) -> Settings:
    return Settings(
        model="tiny",
        revision=encoder.loaded.revision,
        width=model.width_of(encoder),
        encoder=model.options_of(encoder),
        vectors=model.facts_of(encoder),
    )


@pytest.fixture(scope="module")
def embed(encoder: Encoder, settings: Settings) -> EmbedBatch:
    return EmbedBatch(BatchSettings(settings), encoder)


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 32), colour).save(file, "PNG")
    return file.getvalue()


def mixed(folder: Path) -> pa.Table:
    """Six items: two of them bad, one with metadata, two of the same content."""
    (folder / "blue.png").write_bytes(picture("blue"))
    (folder / "said.txt").write_text("a blue square", encoding="utf-8")
    entries = [
        Entry("red", None, "1", image=picture("red"), text="a red square", metadata={"year": 2020}),
        Entry("broken", None, None, image=b"no picture"),
        Entry("blue", "blue.png", "2", image=folder / "blue.png", text_file=folder / "said.txt"),
        Entry("words", None, None, text="a green circle"),
        Entry("gone", "gone.png", "3", image=folder / "gone.png"),
        Entry("again", None, None, image=picture("red")),
    ]
    return items_table(entries, {"year": "int64"})


def test_rows_are_those_of_items_alone(tmp_path: Path, embed: EmbedBatch, encoder: Encoder) -> None:
    rows = embed(mixed(tmp_path))
    assert rows.column_names == [*COLUMNS, "meta_year", "fault", "cut"]
    assert rows.column("id").to_pylist() == ["red", "broken", "blue", "words", "gone", "again"]
    good = [0, 2, 3, 5]
    assert [n for n, why in enumerate(rows.column("fault").to_pylist()) if why is None] == good
    alone = [
        Item("red", image=picture("red")),
        Item("blue", image=picture("blue")),
        Item("words", text="a green circle"),
        Item("again", image=picture("red")),
    ]
    for place, item in zip(good, alone, strict=True):
        row = rows.slice(place, 1)
        expected = encoder.embed([item], "candidate", counterpart="text").rows_ND
        np.testing.assert_allclose(matrix(row.column("raw").combine_chunks()), expected, atol=1e-4)
        vector = matrix(row.column("vector").combine_chunks())
        np.testing.assert_allclose(vector, unit_rows(expected), atol=1e-5)
        assert row.column("key").to_pylist() == [content_key(item)]
    assert rows.column("text").to_pylist()[:4] == ["a red square", None, "a blue square", "a green circle"]
    assert rows.column("source").to_pylist()[2] == "blue.png"
    assert rows.column("stamp").to_pylist()[0] == "1"
    assert rows.column("meta_year").to_pylist() == [2020, None, None, None, None, None]
    small = rows.column("thumbnail").to_pylist()
    assert [one is not None for one in small] == [True, False, True, False, False, True]
    assert Image.open(io.BytesIO(small[0])).format == "JPEG"


def test_what_fails_is_named_and_has_no_vectors(tmp_path: Path, embed: EmbedBatch) -> None:
    rows = embed(mixed(tmp_path)).to_pylist()
    assert "decoded" in rows[1]["fault"] or "image" in rows[1]["fault"]
    assert "gone.png" in rows[4]["fault"]
    assert all(rows[n][name] is None for n in (1, 4) for name in ("key", "modality", "raw", "vector"))


def test_good_rows_are_rows_of_a_store(tmp_path: Path, embed: EmbedBatch, settings: Settings) -> None:
    rows = embed(mixed(tmp_path))
    good = rows.filter(pa.compute.is_null(rows.column("fault"))).drop_columns(["fault", "cut"])
    kept = normal_rows(good, settings.width, settings.width, {})
    assert len(kept) == 4
    assert kept.column("meta_year").type == pa.int64()


def test_a_repair_is_applied_by_modality(tmp_path: Path, encoder: Encoder, settings: Settings) -> None:
    rng = np.random.default_rng(0)
    names = [str(n) for n in range(40)]
    parts = [
        Embeddings.of(names, rng.normal(size=(40, settings.width)) + shift, modality=modality)
        for shift, modality in ((0.5, "text"), (-0.5, "image"))
    ]
    fitted = Fitted("000001", PerGroup(ShrinkageZCA(shrinkage=0.5), "modality").fit(*parts))
    rows = EmbedBatch(BatchSettings(settings, fitted), encoder)(mixed(tmp_path))
    good = rows.filter(pa.compute.is_null(rows.column("fault")))
    raw_ND, vector_NE = (matrix(good.column(name).combine_chunks()) for name in ("raw", "vector"))
    for raw_D, vector_E, modality in zip(raw_ND, vector_NE, good.column("modality").to_pylist(), strict=True):
        expected = fitted(raw_D[None], modality, "candidate")[0]
        np.testing.assert_allclose(vector_E, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vector_E), 1, atol=1e-5)


def test_a_batch_without_a_good_row_has_the_same_columns(embed: EmbedBatch) -> None:
    bad = items_table([Entry("a", None, None, image=b"no picture"), Entry("b", None, None)], {})
    rows = embed(bad)
    assert rows.schema == embed(items_table([Entry("c", None, None, text="words")], {})).schema
    assert rows.column("raw").null_count == rows.column("vector").null_count == 2
    assert len(embed(bad.slice(0, 0))) == 0
    assert embed(bad.slice(0, 0)).schema == rows.schema


def test_vectors_that_are_no_numbers_are_one_items_fault(
    embed: EmbedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Encoder.embed

    def embeds(self: Encoder, items: list[Item], *args: object, **kwargs: object) -> Embeddings:
        found = own(self, items, *args, **kwargs)  # type: ignore[arg-type]
        rows_ND = found.rows_ND.copy()
        rows_ND[[item.text == "poison" for item in items]] = np.nan
        return replace(found, rows_ND=rows_ND)

    monkeypatch.setattr(Encoder, "embed", embeds)
    texts = ["one", "poison", "three"]
    rows = embed(items_table([Entry(text, None, None, text=text) for text in texts], {}))
    faults = rows.column("fault").to_pylist()
    assert faults[0] is None
    assert faults[2] is None
    assert "NaN" in faults[1]


def test_characters_that_no_store_keeps_are_one_items_fault(embed: EmbedBatch) -> None:
    rows = embed(
        items_table([Entry("a", None, None, text="nul \0"), Entry("b", None, None, text="good")], {})
    )
    faults = rows.column("fault").to_pylist()
    assert "NUL" in faults[0]
    assert faults[1] is None


def test_settings_travel(settings: Settings, embed: EmbedBatch) -> None:
    there = pickle.loads(pickle.dumps(BatchSettings(settings)))
    assert there.index == settings
    item = items_table([Entry("a", None, None, text="a red ring")], {})
    assert EmbedBatch(there)(item).equals(embed(item))  # the model is loaded by its name


def test_another_models_vectors_are_refused(settings: Settings) -> None:
    other = replace(settings, vectors={**settings.vectors, "revision": "another"})
    with pytest.raises(DataError, match="another model"):
        EmbedBatch(BatchSettings(other))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"text": ["a"]}), "no column 'id'"),
        (pa.table({"id": ["a"], "year": [1]}), "column 'year'"),
        (pa.table({"id": [1]}), "holds int64"),
        (pa.table({"id": ["a"], "image": ["a.png"]}), "holds string"),
        (pa.table({"id": pa.array([None], pa.string())}), "no id"),
        (pa.table({"id": ["a", "a"], "text": ["one", "two"]}), "a"),
    ],
)
def test_a_table_that_is_none_of_items_is_refused(table: pa.Table, said: str) -> None:
    with pytest.raises(DataError, match=said):
        entries_of(table)


def test_entries_come_back_from_their_table(tmp_path: Path) -> None:
    table = mixed(tmp_path)
    kept = entries_of(table)
    assert [one.id for one in kept] == table.column("id").to_pylist()
    assert kept[2].image == tmp_path / "blue.png"
    assert kept[2].text_file == tmp_path / "said.txt"
    assert kept[0].image == picture("red")
