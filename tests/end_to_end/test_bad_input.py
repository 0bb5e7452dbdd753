"""Bad input, as a user meets it: converted as documented, or refused by name; never a traceback."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearsight import load_vectors
from clearsight.cli import main

SKIPPED, DATA, MODEL = 5, 3, 4


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (48, 48)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(noise(), "JPEG", exif=exif)


def animated() -> bytes:
    return png(noise("P"), "GIF", save_all=True, append_images=[noise("P").rotate(90)])


GOOD = {
    "cmyk.jpg": lambda: png(noise("CMYK"), "JPEG"),
    "deep.png": lambda: png(Image.fromarray(np.arange(2304, dtype=np.uint16).reshape(48, 48) * 28)),
    "palette.png": lambda: png(noise("P")),
    "alpha.png": lambda: png(noise("RGBA")),
    "animated.gif": animated,
    "turned.jpg": turned,
    "dot.png": lambda: png(noise(size=(1, 1))),
}
BAD = {
    "empty.png": lambda: b"",
    "truncated.png": lambda: png(noise())[:200],
    "words.png": lambda: b"this is not an image",
    "ribbon.png": lambda: png(noise(size=(1, 600))),
}


def folder(path: Path, files: dict[str, Callable[[], bytes]]) -> Path:
    path.mkdir()
    for name, make in files.items():
        (path / name).write_bytes(make())
    return path


def embed(items: Path, out: Path, *more: str) -> int:
    return main(["embed", "tiny", str(items), "--out", str(out), "--cache", str(out.parent / "cache"), *more])


def test_odd_images_are_converted_and_bad_ones_named(tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    images = folder(tmp_path / "images", GOOD | BAD)
    assert embed(images, out, "--on-error", "skip") == SKIPPED
    assert sorted(load_vectors(out).ids) == sorted(Path(name).stem for name in GOOD)
    record = json.loads((tmp_path / "v.parquet.json").read_text())
    assert sorted(entry["item"] for entry in record["skipped"]) == sorted(Path(name).stem for name in BAD)
    assert all(entry["reason"] for entry in record["skipped"])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_an_error_that_names_it(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = folder(tmp_path / "images", {name: BAD[name]})
    assert embed(images, tmp_path / "v.parquet") == DATA
    shown = capfd.readouterr().err
    assert Path(name).stem in shown
    assert "do:" in shown
    assert "Traceback" not in shown


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "a", "text": ""}], "empty"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "twice"),
        ([{"id": "a", "text": "\ud800 broken"}], "surrogate"),
        ([{"id": "a", "image": "nowhere.png"}], "nowhere.png"),
        ([{"id": "a"}], "neither text nor image"),
    ],
)
def test_bad_rows_are_refused(
    rows: list[dict[str, object]], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert embed(lines(tmp_path / "items.jsonl", *rows), tmp_path / "v.parquet") == DATA
    shown = capfd.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_an_image_token_in_a_text_is_text(tmp_path: Path) -> None:
    token = "<|vision_start|><|image_pad|><|vision_end|>"
    items = lines(tmp_path / "items.jsonl", {"id": "a", "text": token}, {"id": "b", "text": "a red circle"})
    assert embed(items, tmp_path / "v.parquet") == 0
    assert set(load_vectors(tmp_path / "v.parquet").modality_N) == {"text"}


def test_a_very_long_text_is_cut_and_counted(tmp_path: Path) -> None:
    items = lines(
        tmp_path / "items.jsonl", {"id": "long", "text": "red circle " * 4000}, {"id": "short", "text": "red"}
    )
    assert embed(items, tmp_path / "v.parquet") == 0
    cut = json.loads((tmp_path / "v.parquet.json").read_text())["cut"]
    assert set(cut) == {"long"}
    assert cut["long"] > 0


def test_models_that_cannot_be_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    items = lines(tmp_path / "items.jsonl", {"id": "a", "text": "x"})
    (tmp_path / "empty").mkdir()
    text_only = tmp_path / "text-only"
    text_only.mkdir()
    (text_only / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    for model in (tmp_path / "none", tmp_path / "empty", text_only):
        assert main(["embed", str(model), str(items), "--out", str(tmp_path / "v.parquet")]) == MODEL
        shown = capfd.readouterr().err
        assert model.name in shown
        assert "Traceback" not in shown
