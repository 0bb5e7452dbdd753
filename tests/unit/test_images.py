"""Every kind of image becomes upright 8-bit RGB; everything else is refused by name."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from clearsight.data.images import MAX_PIXELS, open_image
from clearsight.errors import ItemError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def two_tone(mode: str = "RGB") -> Image.Image:
    """4 x 2 pixels, left half red, right half blue."""
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image.convert(mode)


def gray16(values: list[list[int]], dtype: str = "uint16") -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_path_bytes_and_pil_are_the_same_pixels(kind: str, tmp_path: Path) -> None:
    content = encoded(two_tone(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(content)
    with Image.open(path) as opened:
        images = [open_image(path), open_image(str(path)), open_image(content), open_image(opened)]
    for image in images:
        assert image.mode == "RGB"
        assert image.tobytes() == two_tone().tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_colour_modes_become_rgb(mode: str) -> None:
    source = two_tone(mode)
    assert open_image(source).tobytes() == source.convert("RGB").tobytes()
    assert open_image(source).mode == "RGB"


def test_cmyk_jpeg_keeps_its_colours() -> None:
    image = open_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.asarray(image, dtype=int) - RED).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    values = [[0, 257, 32768, 65535, 300]]
    image = open_image(encoded(gray16(values), kind))
    assert np.asarray(image)[0, :, 0].tolist() == [round(v / 257) for v in values[0]] == [0, 1, 128, 255, 1]


def test_big_endian_16_bits() -> None:
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 65535, 257))
    assert np.asarray(open_image(big))[0, :, 0].tolist() == [255, 1]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([[0, 65535, 257]], "int32", [0, 255, 1]),
        ([[-100, 0, 100]], "int32", [0, 128, 255]),
        ([[0, 2**20]], "int32", [0, 255]),
        ([[0.0, 0.5, 1.0]], "float32", [0, 128, 255]),
        ([[7.5, 7.5]], "float32", [0, 0]),
        ([[2**20, 2**20]], "int32", [0, 0]),
    ],
)
def test_undeclared_ranges_are_stretched(values: list[list[int]], dtype: str, expected: list[int]) -> None:
    assert np.asarray(open_image(gray16(values, dtype)))[0, :, 0].tolist() == expected


def test_nan_pixels_are_refused() -> None:
    with pytest.raises(ItemError, match="NaN"):
        open_image(gray16([[0.0, float("nan")]], "float32"), item_id="x")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa", "La", "PA"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    image = Image.new("RGBA" if mode not in ("LA", "La") else "LA", (2, 1))
    gray = mode in ("LA", "La")
    image.putpixel((0, 0), (0, 255) if gray else (255, 0, 0, 255))  # opaque
    image.putpixel((1, 0), (0, 0) if gray else (255, 0, 0, 0))  # invisible
    seen = np.asarray(open_image(image.convert(mode)))[0].tolist()
    assert seen == [[0, 0, 0] if gray else list(RED), [255, 255, 255]]


def test_half_transparent_is_half_white() -> None:
    assert open_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colour_of_a_png(mode: str) -> None:
    source = two_tone(mode)
    first = source.getpixel((0, 0))
    image = open_image(encoded(source, "PNG", transparency=first))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((3, 0)) == source.convert("RGB").getpixel((3, 0))


def test_palette_with_alpha_for_each_entry_warns_nobody() -> None:
    content = encoded(two_tone("P"), "PNG", transparency=bytes([0] * 256))
    assert open_image(content).getpixel((3, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in (RED, BLUE)]
    content = encoded(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    assert open_image(content).tobytes() == frames[0].tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(two_tone(), "PNG", exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    image = open_image(content)
    assert (image.size, image.tobytes()) == (expected.size, expected.tobytes())
    assert image.size == ((4, 2) if orientation < 5 else (2, 4))
    assert open_image(image).tobytes() == image.tobytes(), "turned once, not twice"


def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    content = encoded(two_tone(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    assert open_image(content).size == (4, 2)


@pytest.mark.parametrize("colour", [(1, 2, 3), 7])
def test_one_pixel(colour: object) -> None:
    mode = "RGB" if isinstance(colour, tuple) else "L"
    image = open_image(encoded(Image.new(mode, (1, 1), colour), "PNG"))
    assert image.getpixel((0, 0)) == (colour if isinstance(colour, tuple) else (7, 7, 7))


def test_a_pil_image_is_not_changed_and_not_shared() -> None:
    source = two_tone()
    image = open_image(source)
    image.putpixel((0, 0), BLUE)
    assert source.getpixel((0, 0)) == RED
    source.load()


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims width x height pixels."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


REFUSED = {
    "empty": (b"", "empty"),
    "text": (b"just some text, not an image at all", "not an image"),
    "html": (b"<html><body>404</body></html>", "not an image"),
    "png signature alone": (b"\x89PNG\r\n\x1a\n", "(?i)corrupt|not an image"),
    "bomb beyond Pillow's warning": (bomb_png(10_000, 9_000), "(?i)pixels"),
    "bomb beyond Pillow's error": (bomb_png(60_000, 60_000), "(?i)pixels|bomb"),
    "broken pixels": (bomb_png(64, 64), "truncated or corrupt"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("as_path", [True, False])
def test_refused_content(name: str, as_path: bool, tmp_path: Path) -> None:
    content, reason = REFUSED[name]
    source: bytes | Path = content
    if as_path:
        source = tmp_path / "bad.png"
        source.write_bytes(content)
    with pytest.raises(ItemError, match=reason) as caught:
        open_image(source, item_id="item 7")
    assert caught.value.where == "item 7"
    assert caught.value.do
    if as_path:
        assert "bad.png" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    with pytest.raises(ItemError, match=r"(?i)truncated|not an image"):
        open_image(content[: int(len(content) * share)], item_id="cut")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "absent.png", "does not exist"),
        (lambda folder: folder, "not a file"),
        (lambda folder: "a\0b.png", "cannot be read|does not exist|not a file"),
        (lambda folder: "https://example.org/a.png", "address"),
    ],
)
def test_refused_paths(make: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=reason) as caught:
        open_image(make(tmp_path), item_id="q1")  # type: ignore[operator]
    assert caught.value.where == "q1"


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(two_tone(), "PNG"))
    path.chmod(0)
    with pytest.raises(ItemError, match="cannot be read"):
        open_image(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with pytest.raises(ItemError, match="not a file"):
        open_image(path)


def test_without_an_id_the_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ItemError) as caught:
        open_image(tmp_path / "absent.png")
    assert "absent.png" in str(caught.value.where)


def test_max_pixels_is_the_callers() -> None:
    with pytest.raises(ItemError, match="4 x 2 pixels"):
        open_image(two_tone(), max_pixels=7)
    assert open_image(two_tone(), max_pixels=8).size == (4, 2)


def test_no_file_stays_open(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encoded(two_tone(), "PNG"))
    bad.write_bytes(encoded(two_tone(), "PNG")[:50])
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        images = [open_image(good) for _ in range(20)]
        for _ in range(20):
            with pytest.raises(ItemError):
                open_image(bad)
        if before:
            assert len(os.listdir("/proc/self/fd")) <= len(before)
        gc.collect()
    assert len(images) == 20


def test_global_state_is_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    open_image(encoded(two_tone(), "PNG"))
    with pytest.raises(ItemError):
        open_image(bomb_png(10_000, 9_000))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    contents = [bomb_png(10_000, 9_000), encoded(two_tone(), "PNG")] * 40
    before, start = list(warnings.filters), threading.Barrier(4)

    def decode(worker: int) -> int:
        start.wait()
        refused = 0
        for content in contents[worker::4]:
            try:
                open_image(content)
            except ItemError:
                refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(decode, range(4))) == 40
    assert list(warnings.filters) == before


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), st.data())
def test_no_bytes_whatever_raise_anything_else(noise: bytes, kind: str, data: st.DataObject) -> None:
    """A valid file with a stretch replaced by noise: an RGB image or an ItemError."""
    content = encoded(two_tone(), kind)
    at = data.draw(st.integers(0, len(content)))
    damaged = content[:at] + noise + content[at + len(noise) :]
    with contextlib.suppress(ItemError):
        assert open_image(damaged).mode == "RGB"
