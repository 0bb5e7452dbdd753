"""`clearsight serve` as a person starts it: a process that answers, is stopped, and says what is wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearsight.cli import main
from clearsight.errors import DataError, UsageError
from clearsight.formats import save_sae
from clearsight.index import Index, Query
from clearsight.index.places import find_index
from clearsight.jobs.serve import ServeConfig, _listen, _loader, _warn, serve
from clearsight.jobs.serve_world import world_index
from clearsight.jobs.ui import Quiet
from serving import ROWS, autoencoder, collection, running, served


class Notes(Quiet):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def ask(address: str, path: str, body: Any = None, token: str | None = None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_a_server_answers_and_stops_at_ctrl_c() -> None:
    with running(str(collection()), CLEARSIGHT_TOKEN="secret") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert ask(address, "health") == {"status": "ready"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(address, "info")
        assert ask(address, "info", token="secret")["rows"] == ROWS
        found = ask(address, "search", {"text": "a red ring", "top": 2, "space": "both"}, "secret")
        assert len(found["hits"]) == len(found["beside"]["hits"]) == 2
        vector = ask(address, "v1/embeddings", {"model": "tiny", "input": "a"}, "secret")
        assert vector["usage"]["total_tokens"] > 0

        # A body that says it is too large is refused without being read, and the connection closed.
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as wire:
            wire.sendall(
                b"POST /search HTTP/1.1\r\nHost: " + f"{host}:{port}".encode() + b"\r\n"
                b"Authorization: Bearer secret\r\nContent-Type: application/json\r\n"
                b"Content-Length: 99999999999\r\n\r\n"
            )
            answer = b""
            while data := wire.recv(4096):
                answer += data
        assert answer.startswith(b"HTTP/1.1 413")

        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Stopped." in said
        assert "Traceback" not in said
        assert "a red ring" not in said


def test_the_drawn_world_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path))

    class Interrupted(Quiet):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.left = after
            self.progress = self  # type: ignore[assignment]

        def start(self, total: int | None, label: str) -> None: ...

        def close(self) -> None: ...

        def advance(self, n: int = 1) -> None:
            self.left -= n
            if self.left < 0:
                raise KeyboardInterrupt

    for after in (5, 50):
        with pytest.raises(KeyboardInterrupt):
            world_index(Interrupted(after), scenes=24)
    notes = Notes()
    folder = world_index(notes, scenes=24)
    assert notes.said
    assert folder.parent.name == "drawn-world"
    with Index.open(folder) as index:
        facts = index.info()
        assert facts["modalities"] == {"image": 24, "text": 24}
        assert facts["repair"]
        [best] = index.search_many([Query("two things", where="things = 2 and modality = 'image'", top=1)])
        assert best.hits[0].metadata["things"] == 2
        assert index.original(best.hits[0].id)
    notes.said.clear()
    assert world_index(notes, scenes=24) == folder
    assert not notes.said


def test_what_is_wrong_is_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path)]) == 3
    assert "clearsight index" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(collection()), "--port", port]) == 2
    assert "--port" in capsys.readouterr().err
    assert main(["serve", str(collection()), "--host", "no.such.host.invalid"]) == 2
    for name in ("max_body", "max_pixels", "max_waiting", "batch"):
        with pytest.raises(UsageError, match=name):
            serve(ServeConfig(collection(), **{name: 0}))


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    assert main(["serve", str(collection()), "--port", "0", "--model", str(tmp_path)]) == 4


def test_explanations_are_offered_with_the_names_of_a_diagnosis(tmp_path: Path) -> None:
    with Index.open(collection()) as index:
        width = index.settings.width
    folder = tmp_path / "autoencoders" / "tiny"
    save_sae(autoencoder(width), folder)
    (tmp_path / "tables").mkdir()
    table = pa.table({"concept": [0, 1], "name": ["red things", "rings"], "modality_score": [0.1, 0.9]})
    pq.write_table(table, tmp_path / "tables" / "tiny-concepts.parquet")
    service = _loader(ServeConfig(explain=folder), find_index(collection()))()
    assert "red things" in service.concepts[0]
    with served(lambda: service) as client:
        assert client.get("/info").json()["offers"]["explain"] is True

    save_sae(autoencoder(width + 1), tmp_path / "other")
    with pytest.raises(DataError, match="width"):
        _loader(ServeConfig(explain=tmp_path / "other"), find_index(collection()))()


def test_small_answers_are_sent_at_once() -> None:
    async def story() -> bool:
        nodelay: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            wire = writer.get_extra_info("socket")
            nodelay.set_result(wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = _listen("127.0.0.1", 0)
        server = await asyncio.start_server(met, sock=listening)
        async with server:
            _, writer = await asyncio.open_connection(*listening.getsockname())
            told = await asyncio.wait_for(nodelay, 20)
            writer.close()
            await writer.wait_closed()
        return bool(told)

    assert asyncio.run(story())


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"clearsight\[serve\]"):
        serve(ServeConfig(collection()))


def test_other_machines_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.delenv("CLEARSIGHT_TOKEN", raising=False)
    _warn("127.0.0.1", notes)
    assert not notes.said
    _warn("0.0.0.0", notes)
    assert "CLEARSIGHT_TOKEN" in notes.said[0]
    monkeypatch.setenv("CLEARSIGHT_TOKEN", "secret")
    _warn("0.0.0.0", notes)
    assert len(notes.said) == 1
