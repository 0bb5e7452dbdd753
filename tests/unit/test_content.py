"""A content key changes with the content and with nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clearsight.data.content import check_text, content_key
from clearsight.errors import ItemError
from clearsight.types import Item

texts = st.text(min_size=1).filter(lambda s: s.strip() and s.isprintable())
RECORDED = "99c988bf50aa413596ca71ce1660146574a74cb645a1afb35ca5f90c747df305"

maybe = st.none() | texts


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), colour).save(file, "PNG")
    return file.getvalue()


PNGS = [png(0), png(1)]
fields = st.tuples(maybe, maybe, st.none() | st.sampled_from(PNGS)).filter(lambda f: f[0] or f[2])


@given(fields, fields)
def test_equal_keys_if_and_only_if_equal_fields(
    a: tuple[str | None, str | None, bytes | None], b: tuple[str | None, str | None, bytes | None]
) -> None:
    key_a, key_b = (
        content_key(Item(i, text, image, note)) for i, (text, note, image) in zip("ab", (a, b), strict=True)
    )
    assert (key_a == key_b) == (a == b)
    assert len(key_a) == 64


def test_fields_do_not_run_into_each_other() -> None:
    keys = [
        content_key(Item("x", text="ab", instruction="c")),
        content_key(Item("x", text="a", instruction="bc")),
        content_key(Item("x", text="c", instruction="ab")),
        content_key(Item("x", text="abc")),
        content_key(Item("x", text="ab", instruction="c", image=PNGS[0])),
        content_key(Item("x", image=PNGS[0])),
        content_key(Item("x", text="ab11:instruction1:c")),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_is_stable_between_versions() -> None:
    """Recorded once: another value would silently embed everything again."""
    assert content_key(Item("any", text="a red circle", instruction="Find it.")) == RECORDED


def test_a_moved_file_keeps_its_key_and_a_changed_one_does_not(tmp_path: Path) -> None:
    first, moved = tmp_path / "a.png", tmp_path / "elsewhere.bin"
    first.write_bytes(PNGS[0])
    moved.write_bytes(PNGS[0])
    key = content_key(Item("x", image=first))
    assert key == content_key(Item("y", image=str(moved))) == content_key(Item("z", image=PNGS[0]))
    first.write_bytes(PNGS[1])
    assert content_key(Item("x", image=first)) != key


def test_pil_images_are_keyed_by_what_the_model_sees() -> None:
    base = Image.new("RGB", (4, 2), (10, 20, 30))
    same = Image.new("RGBA", (4, 2), (10, 20, 30, 255))
    pixel = base.copy()
    pixel.putpixel((3, 1), (10, 20, 31))
    turned = base.transpose(Image.Transpose.ROTATE_90)
    key = content_key(Item("x", image=base))
    assert key == content_key(Item("y", image=same))
    assert len({key, *(content_key(Item("x", image=i)) for i in (pixel, turned))}) == 3
    assert key == content_key(Item("x", image=base)), "hashing leaves the image as it was"


@pytest.mark.parametrize("field", ["text", "instruction"])
@pytest.mark.parametrize(
    ("value", "reason"), [("", "empty"), (" \n\t", "empty"), ("a\ud83db", r"U\+D83D.*position 1")]
)
def test_text_that_cannot_be_embedded(field: str, value: str, reason: str) -> None:
    item = Item("q3", **{"text": "fine", field: value})
    with pytest.raises(ItemError, match=reason) as caught:
        content_key(item)
    assert caught.value.where == "q3"
    assert field in str(caught.value)


def test_check_text_gives_utf8() -> None:
    assert check_text("é😀", item_id=None) == "é😀".encode()


def test_a_missing_image_names_the_item(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="does not exist") as caught:
        content_key(Item("q9", image=tmp_path / "absent.png"))
    assert caught.value.where == "q9"
