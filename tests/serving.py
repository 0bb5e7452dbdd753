"""What tests of the server share: a small collection indexed by the shipped model, and a client of an app."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from clearsight.data import world
from clearsight.data.images import open_image
from clearsight.index import Index
from clearsight.sae import SparseAutoencoder
from clearsight.sae.config import SaeConfig
from clearsight.serve.app import create_app
from clearsight.serve.service import Service

ODD = "odd/..name ?#%&+\\ ünï 鳥.png"
PICTURES = 16
ROWS = 2 * PICTURES + 1


def png(side: int = 64, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write_collection(folder: Path) -> None:
    """Drawn scenes, captions with metadata, and a picture with an odd name; enough to fit a repair to."""
    task = world.text_to_image(PICTURES)
    (folder / ODD).parent.mkdir(parents=True)
    (folder / ODD).write_bytes(png())
    for item in task.candidates:
        assert item.image is not None
        open_image(item.image).save(folder / f"{item.id}.png")
    rows = [{"id": item.id, "text": item.text, "year": 2020 + n} for n, item in enumerate(task.queries)]
    rows.append({"id": ODD, "image": ODD, "year": 2030, "share": 0.5, "place": "Bern"})  # type: ignore[dict-item]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@cache
def collection() -> Path:
    """A folder with its index, made once for each process of a test run."""
    global _kept
    _kept = tempfile.TemporaryDirectory(prefix="clearsight-test-")
    folder = Path(_kept.name)
    write_collection(folder)
    with Index.create(folder / ".clearsight", items=folder, repair="centred") as index:
        index.sync(on_error="raise")
        index.refit()
    return folder


_kept: Any = None


@cache
def tiny_service() -> Service:
    """That index with the shipped model, loaded."""
    return Service(Index.open(collection()))


def autoencoder(width: int, concepts: int = 24) -> SparseAutoencoder:
    """Random concepts."""
    rng = np.random.default_rng(0)
    weights = {
        "encoder_CD": rng.standard_normal((concepts, width)).astype(np.float32),
        "decoder_CD": rng.standard_normal((concepts, width)).astype(np.float32),
        "decoder_bias_D": rng.standard_normal(width).astype(np.float32),
    }
    return SparseAutoencoder(SaeConfig(width=width, concepts=concepts, k=8), weights)


@contextmanager
def served(load: Callable[[], Service] = tiny_service, **options: Any) -> Iterator[TestClient]:
    """A client of a server that has loaded its service; faults of the server are answers, as on a wire."""
    with TestClient(create_app(load, **options), raise_server_exceptions=False) as client:
        for _ in range(3000):
            if client.get("/health").json()["status"] != "loading":
                break
            time.sleep(0.01)
        yield client


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clearsight", "serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1", **environment},
    )
    watchdog = threading.Timer(180, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            found = re.search(r"Search at (http://\S+/) ", line)
            if found:
                yield process, found[1]
                return
        raise AssertionError(said)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
