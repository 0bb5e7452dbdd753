"""`clearsight serve`: a page and an HTTP API over an index, on this machine."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from clearsight.errors import UsageError
from clearsight.jobs.ui import Quiet, Ui

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearsight.serve.limits import Limits
    from clearsight.serve.service import Service

TOKEN = "CLEARSIGHT_TOKEN"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
CONNECTIONS = 1024
GOODBYE_SECONDS = 5
"""How long a stopped server waits for answers that are on their way."""


@dataclass(frozen=True)
class ServeConfig:
    """Open a page for searching an index, and an HTTP API that clients of OpenAI and Cohere speak.

    INDEX is what `clearsight index` made, or the folder it was made of; without it, the shipped model and a
    drawn world are indexed (once) and served. Nothing leaves this machine, and no other machine may ask
    unless --host says so; set CLEARSIGHT_TOKEN then. The API is described at /docs. Ctrl-C stops it.
    """

    index: Annotated[Path | None, "an index's folder, or the folder it was made of"] = field(
        default=None, metadata={"positional": True}
    )
    host: Annotated[str, "address to listen at; 0.0.0.0: every network this machine is in"] = "127.0.0.1"
    port: Annotated[int, "port to listen at; 0: a free one"] = 8000
    model: Annotated[str | None, "where the index's model lies now, if not where it was"] = None
    explain: Annotated[Path | None, "a sparse autoencoder of the model, to name what made a match"] = None
    device: Annotated[str | None, "cpu, cuda, cuda:1 ...; default: cuda where there is one"] = None
    max_body: Annotated[int, "MiB of one request"] = 32
    max_pixels: Annotated[int, "pixels of the pictures of one request together"] = 64_000_000
    max_waiting: Annotated[int, "requests that may wait for the model; more are told to come again"] = 256
    batch: Annotated[int, "items that pass the model together at most"] = 64
    trust_remote_code: Annotated[
        bool, "run code that comes with the model folder; off unless you trust it"
    ] = False


@dataclass(frozen=True)
class ServeResult:
    """Where the server was."""

    index: Path
    address: str

    def to_json(self) -> dict[str, Any]:
        return {"index": str(self.index), "address": self.address}


def serve(config: ServeConfig, ui: Ui | None = None) -> ServeResult:
    """Listen until Ctrl-C.

    Raises:
        UsageError: the extra is not installed, or the address cannot be listened at.
        DataError: no index, a broken one, or an autoencoder that does not fit it.
        ModelError: its model cannot be loaded.
    """
    ui = ui or Quiet()
    limits = _limits(config)
    index = _index(config, ui)
    sockets = [_listen(config.host, config.port)]
    try:
        port = sockets[0].getsockname()[1]
        shown = f"[{config.host}]" if ":" in config.host else config.host
        address = f"http://{shown}:{port}/"
        _warn(config.host, ui)
        ui.say(f"Loading the model of {index} ...")
        _run(_loader(config, index), limits, sockets[0], config.host, address, ui)
    finally:
        for one in sockets:
            one.close()
    return ServeResult(index, address)


def _limits(config: ServeConfig) -> Limits:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401

        from clearsight.serve.limits import Limits
    except ImportError as fault:
        raise UsageError(
            f"The server needs {fault.name}, which is not installed.",
            do="Run: pip install 'clearsight[serve]'.",
        ) from fault
    for name in ("max_body", "max_pixels", "max_waiting", "batch"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}.", where=name, do="Give at least 1.")
    if not os.environ.get(TOKEN, "").isascii():
        raise UsageError("The token has characters that a header cannot carry.", where=TOKEN, do="Use ASCII.")
    if not 0 <= config.port <= 65535:
        raise UsageError(f"port is {config.port}.", where="port", do="Give 0 to 65535.")
    body = config.max_body << 20
    return Limits(
        body_bytes=body,
        held_bytes=max(16 * body, Limits().held_bytes),
        pixels=config.max_pixels,
        waiting=config.max_waiting,
        batch=config.batch,
    )


def _index(config: ServeConfig, ui: Ui) -> Path:
    """The folder of the index; the drawn world's is made where none is asked for."""
    from clearsight.index.places import find_index
    from clearsight.jobs.serve_world import world_index

    if config.index is None:
        return world_index(ui, device=config.device)
    return find_index(config.index)


def _loader(config: ServeConfig, index: Path) -> Callable[[], Service]:
    def load() -> Service:
        from clearsight.formats import load_sae
        from clearsight.index import Index
        from clearsight.index.explain import need_width
        from clearsight.jobs.search import concept_names
        from clearsight.serve.service import Service

        opened = Index.open(
            index,
            model_name=config.model,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )
        if config.explain is None:
            return Service(opened, config.batch)
        sae = load_sae(config.explain)
        need_width(opened, sae)
        return Service(opened, config.batch, sae, concept_names(config.explain))

    return load


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Its protocol is named: only then does asyncio send small answers at once (TCP_NODELAY); otherwise an
    answer in two pieces waits 40 ms for the client's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as fault:
        listening.close()
        raise UsageError(
            f"Nobody can listen at {host}, port {port} ({fault.strerror or fault}).",
            where="port",
            do="Give another --port (0: a free one) or --host, or stop what listens there.",
        ) from fault
    return listening


def _warn(host: str, ui: Ui) -> None:
    if host not in LOOPBACK and not os.environ.get(TOKEN):
        ui.say(
            f"Warning: whoever reaches {host} can search and see the collection. "
            f"Set {TOKEN} to a secret, which requests must then carry."
        )


def _run(
    load: Callable[[], Service], limits: Limits, listening: socket.socket, host: str, address: str, ui: Ui
) -> None:
    """Serve until a signal, or until loading fails.

    Raises:
        Exception: what made loading fail.
    """
    import uvicorn

    from clearsight.serve.app import create_app

    failed: list[Exception] = []

    def told(error: Exception | None) -> None:
        if error is None:
            ui.say(f"Search at {address} (the API: {address}docs). Ctrl-C stops it.")
        else:
            failed.append(error)
            server.should_exit = True

    token = os.environ.get(TOKEN)
    # With a token, names prove nothing more, and a proxy on this machine may pass on its own.
    names = frozenset({"127.0.0.1", "localhost", "[::1]"}) if host in LOOPBACK and not token else None
    app = create_app(load, limits=limits, token=token, hosts=names, told=told)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # what people search for is theirs
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
    )
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # raised again by uvicorn once it has shut down
        ui.say("Stopped.")
    if failed:
        raise failed[0]
